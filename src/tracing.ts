import { AsyncLocalStorage } from 'node:async_hooks'
import { type TracingChannel, tracingChannel } from 'node:diagnostics_channel'
import { setTimeout as sleep } from 'node:timers/promises'
import {
  type Context,
  type ContextManager,
  context,
  createContextKey,
  propagation,
  ROOT_CONTEXT,
  type Span,
  type SpanContext,
  SpanKind,
  SpanStatusCode,
  TraceFlags,
  type Tracer,
  trace,
} from '@opentelemetry/api'
import {
  parseTraceParent,
  setGlobalErrorHandler,
  W3CTraceContextPropagator,
} from '@opentelemetry/core'
import { OTLPTraceExporter } from '@opentelemetry/exporter-trace-otlp-http'
import { defaultResource, resourceFromAttributes } from '@opentelemetry/resources'
import {
  BatchSpanProcessor,
  ParentBasedSampler,
  type Sampler,
  SamplingDecision,
  TraceIdRatioBasedSampler,
  TracerProvider,
} from '@opentelemetry/sdk-trace'
import { BullMQOtel } from 'bullmq-otel'
import type { Logger } from 'pino'
import { calls, flushes, type RequestTold, requests } from './channels.ts'
import type { ApiConfig } from './config.ts'
import { callersTrace } from './http/context.ts'
import type { Context as FactContext } from './journal/entry.ts'
import { scriptNames, scriptSha } from './store/lua.ts'
import { version } from './version.ts'

/**
 * Spans for OpenTelemetry: the only file that knows it, loaded by a main where
 * OTEL_EXPORTER_OTLP_ENDPOINT is set. It listens to what the house and ioredis tell. What a span says
 * is chosen word by word: no path, header, argument or message, for those hold codes, users and values.
 */

/** Requests that a shared span links to at most; OpenTelemetry keeps no more than this many. */
const linksMax = 128
/** How long a stop waits for the collector. */
const stopMs = 1_000
/** A collector that is away is told of once in a while. */
const quietMs = 60_000

type Settings = Pick<ApiConfig, 'OTEL_EXPORTER_OTLP_ENDPOINT' | 'OTEL_TRACES_SAMPLER_ARG'>

/** The context that runs now. Channels put theirs into it, so it has to be ours. */
const active = new AsyncLocalStorage<Context>()
const manager: ContextManager = {
  active: () => active.getStore() ?? ROOT_CONTEXT,
  with: (its, run, self, ...args) => active.run(its, () => run.apply(self!, args)),
  bind: (_, target) => target, // nobody asks for it
  enable: () => manager,
  disable: () => manager,
}

export function startTracing(service: string, settings: Settings, log: Logger) {
  const endpoint = settings.OTEL_EXPORTER_OTLP_ENDPOINT!.replace(/\/+$/, '')
  const exporter = new OTLPTraceExporter({ url: `${endpoint}/v1/traces` })
  const named = resourceFromAttributes({ 'service.name': service, 'service.version': version })
  const provider = new TracerProvider({
    resource: defaultResource().merge(named),
    sampler: samplerOf(settings.OTEL_TRACES_SAMPLER_ARG),
    // An event is what a library says of an error, and that may hold a statement with its values.
    spanLimits: { eventCountLimit: 0, linkCountLimit: linksMax },
    spanProcessors: [new BatchSpanProcessor({ exporter })],
  })
  trace.setGlobalTracerProvider(provider)
  propagation.setGlobalPropagator(new W3CTraceContextPropagator())
  context.setGlobalContextManager(manager)
  let saidAt = Number.NEGATIVE_INFINITY
  setGlobalErrorHandler((error) => {
    if (performance.now() - saidAt < quietMs) return
    saidAt = performance.now()
    // A name that leads to several addresses fails without a message.
    const { message, code } = error as Error & { code?: string }
    log.warn(`spans are lost: ${message || code || error}`)
  })

  const tracer = trace.getTracer('stampede', version)
  requests.bindStore(active, (told) => requestSpan(tracer, told))
  calls.bindStore(active, (batch) => sharedBy(batch.map(({ request }) => request.context)))
  follow(tracingChannel<unknown, Command>('ioredis:command'), (command) =>
    commandSpan(tracer, command),
  )
  follow(flushes, ({ shard, facts, entries }) => {
    const askers = askersOf(entries.flatMap((entry) => entry.facts.map((fact) => fact.context)))
    // Without a link no trace leads to it.
    if (askers.length === 0) return undefined
    return tracer.startSpan('flush', {
      root: true,
      kind: SpanKind.CLIENT,
      links: askers.map((asker) => ({ context: asker })),
      attributes: {
        'db.system.name': 'postgresql',
        'stampede.shard': shard,
        'stampede.facts': facts,
      },
    })
  })

  return {
    /** For BullMQ's queue and worker of jobs. */
    telemetry: new BullMQOtel({ tracerName: 'bullmq' }),
    /** Sends what there is. A collector that does not take it in time is left behind. */
    async stop(): Promise<void> {
      const late = sleep(stopMs, undefined, { ref: false })
      await Promise.race([provider.shutdown().catch(() => {}), late])
    },
  }
}

function samplerOf(share: number): Sampler {
  const byParent = new ParentBasedSampler({ root: new TraceIdRatioBasedSampler(share) })
  return {
    shouldSample(parent, traceId, name, kind, attributes, links) {
      // BullMQ's housekeeping goes on all the time; none of ours is of this kind.
      if (kind === SpanKind.INTERNAL) return { decision: SamplingDecision.NOT_RECORD }
      // It is there for the requests that it links to, and those have spans.
      if (links.length > 0) return { decision: SamplingDecision.RECORD_AND_SAMPLED }
      return byParent.shouldSample(parent, traceId, name, kind, attributes, links)
    },
    toString: () => `Stampede{${byParent}}`,
  }
}

/** Begins a request's span, which ends with its answer, and returns the context that it runs in. */
function requestSpan(tracer: Tracer, { c, route, path }: RequestTold): Context {
  const theirs = callersTrace(c)
  const parent = theirs
    ? trace.setSpanContext(ROOT_CONTEXT, { ...parseTraceParent(theirs)!, isRemote: true })
    : ROOT_CONTEXT
  const attributes = {
    'http.request.method': c.req.method,
    'http.route': path,
    'url.scheme': 'http',
  }
  const span = tracer.startSpan(route, { kind: SpanKind.SERVER, attributes }, parent)
  const { traceId, spanId, traceFlags } = span.spanContext()
  c.set('traceparent', `00-${traceId}-${spanId}-0${traceFlags}`)
  const answer = c.env?.outgoing
  answer?.once('close', () => {
    // A client that left before its answer has none.
    if (answer.headersSent) {
      const outcome = c.get('outcome') ?? 'done'
      span.setAttributes({
        'http.response.status_code': answer.statusCode,
        'stampede.outcome': outcome,
      })
      if (answer.statusCode >= 500) fail(span, outcome)
    }
    span.end()
  })
  return trace.setSpan(ROOT_CONTEXT, span)
}

/** Held by the context of a script call: all requests that share it, but the first. */
const sharing = createContextKey('stampede: requests that share a call')

/** The context of a script call: a child of its first request, whose span links to the others'. */
function sharedBy(contexts: (string | undefined)[]): Context {
  const [first, ...others] = askersOf(contexts)
  if (!first) return ROOT_CONTEXT
  return trace.setSpanContext(ROOT_CONTEXT, first).setValue(sharing, others)
}

/** What ioredis tells of a command; of its arguments only the digest of a script is looked at. */
type Command = { command: string; args: string[]; serverAddress: string; serverPort?: number }

const scripts = new Map(scriptNames.map((name) => [scriptSha(name), name]))

function commandSpan(tracer: Tracer, told: Command): Span | undefined {
  const asker = context.active()
  const others = asker.getValue(sharing) as SpanContext[] | undefined
  // Whoever goes on after a request is over, or without one, is a loop of ours.
  if (!others && !trace.getSpan(asker)?.isRecording()) return undefined
  const command = told.command.toUpperCase()
  const script = command === 'EVALSHA' ? scripts.get(told.args[0]!) : undefined
  return tracer.startSpan(script ? `${command} ${script}` : command, {
    kind: SpanKind.CLIENT,
    links: others?.map((other) => ({ context: other })),
    attributes: {
      'db.system.name': 'redis',
      'db.operation.name': command,
      'db.stored_procedure.name': script,
      'server.address': told.serverAddress,
      'server.port': told.serverPort,
    },
  })
}

/** Has a span from the beginning to the end of whatever is told on a channel, where `begin` makes one. */
function follow<T extends object>(
  channel: TracingChannel<unknown, T>,
  begin: (told: T) => Span | undefined,
): void {
  const open = new WeakMap<object, Span>()
  channel.start.subscribe((told) => {
    const span = begin(told as T)
    if (span) open.set(told as T, span)
  })
  channel.error.subscribe((told) => {
    const span = open.get(told as T)
    const error = (told as { error?: Error & { code?: string } }).error
    if (span) fail(span, error?.code ?? error?.name ?? 'unknown')
  })
  channel.asyncEnd.subscribe((told) => open.get(told as T)?.end())
}

function fail(span: Span, type: string): void {
  span.setAttribute('error.type', type)
  span.setStatus({ code: SpanStatusCode.ERROR })
}

/** The spans of the requests that these facts come from, each once. */
function askersOf(contexts: (string | undefined)[]): SpanContext[] {
  const found = new Map<string, SpanContext>()
  for (const text of contexts) {
    if (found.size === linksMax) break
    const traceparent = traceparentIn(text)
    if (traceparent === undefined || found.has(traceparent)) continue
    const asker = parseTraceParent(traceparent)
    if (asker && asker.traceFlags & TraceFlags.SAMPLED) found.set(traceparent, asker)
  }
  return [...found.values()]
}

/** A context that is no JSON gets parked by the flush; a listener that threw would end the process. */
function traceparentIn(text: string | undefined): string | undefined {
  try {
    return (JSON.parse(text ?? '{}') as FactContext).traceparent
  } catch {
    return undefined
  }
}
