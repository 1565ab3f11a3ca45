import { collectDefaultMetrics, type Metric, Registry } from '@prometheus-io/client'

/**
 * Every metric of this service, once. Labels have few values, all known beforehand: never a user, a
 * code, a book or anything else that clients bring along.
 */
const table = {
  stampede_answers_total: [
    'counter',
    'Answers by verb (other routes: by resource) and outcome: done, replayed, late (202: the ledger did not follow in time), or the code of the problem.',
  ],
  stampede_request_duration_seconds: ['histogram', 'From the router to the answer, by route.'],
  stampede_gate_open: ['gauge', '1 while this process sends commands for the shard.'],
  stampede_shard_epoch: ['gauge', 'Epoch of the shard in Redis: rises at every recovery.'],
  stampede_lag_facts: ['gauge', 'Facts in the journal that the ledger has yet to get.'],
  stampede_lag_seconds: ['gauge', 'Age of the oldest fact that the ledger has yet to get.'],
  stampede_backlog_limit_facts: ['gauge', 'Lag in facts at which a shard answers 503 `backlog`.'],
  stampede_parked_facts: ['gauge', 'Facts that did not fit into the ledger: see parked_facts.'],
  stampede_redis_up: ['gauge', '1 while this process is connected to Redis.'],
  stampede_redis_memory_bytes: ['gauge', 'Memory that Redis uses.'],
  stampede_redis_memory_limit_bytes: [
    'gauge',
    'maxmemory of Redis; where it has none, all that its machine has.',
  ],
  stampede_postgres_up: ['gauge', '1 if PostgreSQL has just answered.'],
  stampede_jobs: ['gauge', 'BullMQ jobs by queue and state.'],
  stampede_reconcile_differences: [
    'gauge',
    'What the last comparison of all books, on schedule or by hand, found to differ.',
  ],
  stampede_undersold_codes: [
    'gauge',
    'Codes that the last comparison found neither in stock nor given to anybody.',
  ],
  stampede_reconcile_age_seconds: ['gauge', 'Since the last comparison of all books ended.'],
  stampede_reconcile_interval_seconds: [
    'gauge',
    'After so long this worker compares all books again (RECONCILE_MINUTES); 0: never.',
  ],
  stampede_failed_jobs: ['gauge', 'Jobs that failed: see the table jobs.'],
  stampede_intake_open: ['gauge', '0 while an operator has stopped intake on the shard.'],
  stampede_flush_running: ['gauge', '0 while an operator holds the flush of the shard.'],
  stampede_flushes_total: [
    'counter',
    'Transactions that brought facts into the ledger, by what made the worker look: a nudge (a BullMQ job) or its own sweep.',
  ],
  stampede_flush_facts: ['histogram', 'Facts per flush.'],
  stampede_flush_duration_seconds: ['histogram', 'Read, commit and announce, per flush.'],
  stampede_recoveries_total: ['counter', 'Recoveries that this process has ended, by cause.'],
  stampede_recovery_duration_seconds: [
    'histogram',
    'From its begin to the publication of the shard.',
  ],
} as const satisfies Record<`stampede_${string}`, readonly [Kind, help: string]>

type Kind = 'counter' | 'gauge' | 'histogram'
export type MetricName = keyof typeof table
export type Labels = Readonly<Record<string, string | number>>
/** What a room tells when it is asked: values, each under its labels. */
export type Samples = { [N in MetricName]?: (readonly [Labels, number | Spread])[] }
export type Source = () => Samples | Promise<Samples>

/** How values are distributed: counted on the way, without a label to look up, read at a scrape. */
export class Spread {
  readonly bounds: readonly number[]
  /** One more than there are bounds: the last is for what lies above them. */
  readonly counts: Float64Array
  sum = 0

  constructor(bounds: readonly number[]) {
    this.bounds = bounds
    this.counts = new Float64Array(bounds.length + 1)
  }

  observe(value: number): void {
    const { bounds } = this
    let b = 0
    while (b < bounds.length && value > bounds[b]!) b++
    this.counts[b]!++
    this.sum += value
  }
}

/** A source that hangs must not hold up the others: what it had to say is left out this time. */
const patienceMs = 1_000
export const metricsType = Registry.PROMETHEUS_CONTENT_TYPE

/** The text of a scrape: this process, then whatever the sources say. */
export async function metricsText(sources: readonly Source[]): Promise<string> {
  const told = await Promise.all(sources.map(ask))
  const registry = new Registry()
  for (const [name, [type, help]] of Object.entries(table)) {
    const samples = told.flatMap((samples) => samples[name as MetricName] ?? [])
    if (samples.length === 0) continue
    const values = samples.flatMap(([labels, value]) =>
      typeof value === 'number' ? [{ labels, value }] : lines(name, labels, value),
    )
    // The library's own classes would keep a second copy of every number, and set it by labels.
    const metric = {
      name,
      help,
      type,
      aggregator: 'sum',
      get: async () => ({ name, help, type, values }),
    }
    registry.registerMetric(metric as unknown as Metric)
  }
  return `${await processRegistry().metrics()}\n${await registry.metrics()}`
}

async function ask(source: Source): Promise<Samples> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<Samples>((resolve) => {
    timer = setTimeout(resolve, patienceMs, {})
  })
  try {
    return await Promise.race([source(), late])
  } catch {
    return {} // what it would have told is about the very thing that is away
  } finally {
    clearTimeout(timer)
  }
}

/** A histogram as Prometheus wants it: each bucket holds what the ones below it hold. */
function lines(name: string, labels: Labels, { bounds, counts, sum }: Spread) {
  let count = 0
  const buckets = [...bounds, '+Inf'].map((le, b) => {
    count += counts[b]!
    return { metricName: `${name}_bucket`, labels: { ...labels, le }, value: count }
  })
  return [
    ...buckets,
    { metricName: `${name}_sum`, labels, value: sum },
    { metricName: `${name}_count`, labels, value: count },
  ]
}

let ofProcess: Registry | undefined

/** CPU, memory, event loop and garbage collection under their usual names; their timers never end. */
function processRegistry(): Registry {
  if (!ofProcess) {
    ofProcess = new Registry()
    collectDefaultMetrics({ register: ofProcess, eventLoopUtilizationTimeout: 1_000 })
  }
  return ofProcess
}
