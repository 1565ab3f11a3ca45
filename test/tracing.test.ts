import { readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { scratchDir } from '../src/embedded/leftovers.ts'
import { freePort } from '../src/embedded/ports.ts'
import { createTokens } from '../src/http/tokens.ts'
import type { Context } from '../src/journal/entry.ts'
import { openAccounts } from '../src/ledger/accounts.ts'
import { type Database, openDatabase } from '../src/ledger/database.ts'
import { ledgerOf } from './client.ts'
import { openCollector } from './collector.ts'
import { openProcesses } from './processes.ts'
import { openWorld, until, type World } from './world.ts'

/** Spans as a collector gets them, from the processes that run in production. */
const trace = '4bf92f3577b34da6a3ce929d0e0e4736'
const parent = '00f067aa0ba902b7'
const theirs = `00-${trace}-${parent}-01`
/** What W3C Trace Context calls invalid: the trace begins anew. */
const invalid = [
  '',
  'nonsense',
  `00-${trace}-${parent}`,
  `00-${trace.toUpperCase()}-${parent}-01`,
  `00-${'0'.repeat(32)}-${parent}-01`,
  `00-${trace}-${'0'.repeat(16)}-01`,
  `ff-${trace}-${parent}-01`,
  `00-${trace}-${parent}-01-more`,
  `01-${trace}-${parent}-01more`,
  `00-${trace}-${parent}-1`,
  `${theirs}, ${theirs}`,
]
const password = 'a password that nobody guesses'
const buyer = 'buyer-5f1d0a7c'
/** OpenTelemetry's kinds of spans. */
const kinds = { server: 2, client: 3, producer: 4, consumer: 5 }

let town: Awaited<ReturnType<typeof openProcesses>>
let database: Database
let admin: string

beforeAll(async () => {
  town = await openProcesses({ shards: 2 })
  database = openDatabase(town.databaseUrl, 4, 'test')
  const account = await openAccounts(database).createUser({
    ...{ name: 'Admin', email: 'admin@example.com', password, role: 'admin' },
  })
  if ('problem' in account) throw new Error(account.problem)
  admin = await createTokens(town.secret).issue(account)
})
afterAll(async () => {
  await database.end()
  await town.close()
})

async function call(base: string, path: string, body?: unknown, headers = {}) {
  const response = await fetch(`${base}/api/v1/${path}`, {
    method: body === undefined ? 'GET' : 'POST',
    headers: { 'content-type': 'application/json', authorization: `Bearer ${admin}`, ...headers },
    body: body === undefined ? undefined : JSON.stringify(body),
  })
  const { status, headers: told } = response
  // biome-ignore lint/suspicious/noExplicitAny: tests look into whatever came
  return { status, headers: told, body: (await response.json()) as any }
}

async function makeBook(base: string, codes: string[]): Promise<string> {
  const { body } = await call(base, 'books', { name: 'Sale', owner_id: 'o' })
  const filled = await call(base, `books/${body.book_id}/codes/upload`, { codes })
  expect(filled.status).toBe(200)
  return body.book_id
}

/** What the ledger remembers of the request that did this to a code. */
async function contextOf(code: string): Promise<Context> {
  let found: Context | undefined
  await until(async () => {
    const { rows } = await database.query('SELECT context FROM ledger WHERE code = $1', [code])
    found = rows[0]?.context
    return found !== undefined
  }, `the ledger has ${code}`)
  return found!
}

describe('tracing: with a collector', () => {
  let collector: Awaited<ReturnType<typeof openCollector>>
  let spans: ReturnType<typeof collector.spans>
  let stopped: (number | null)[]
  /** A code each. */
  let known: string
  const fresh: string[] = []
  let unsampled: string
  const crowd: string[] = []
  let shown: { kind: string; traceparent: string | null }[]
  let jobTrace: string
  const secrets: string[] = [buyer, password, 'admin@example.com']

  beforeAll(async () => {
    collector = await openCollector()
    const env = { OTEL_EXPORTER_OTLP_ENDPOINT: `${collector.url}/` }
    const worker = town.startWorker(env)
    const { base, ...api } = await town.startApi(env)
    const stock = Array.from({ length: 60 }, (_, i) => `TRACED-${i}-q7x`)
    const book = await makeBook(base, stock)
    const assign = async (traceparent: string | undefined, durability = 'postgres') => {
      const headers = { durability, ...(traceparent === undefined ? {} : { traceparent }) }
      const body = { book_id: book, user_id: buyer }
      const answered = await call(base, 'coupons/assign', body, headers)
      expect(answered.status).toBe(200)
      return answered.body.coupons[0].code as string
    }

    known = await assign(theirs)
    for (const header of invalid) fresh.push(await assign(header))
    unsampled = await assign(`00-${'a'.repeat(32)}-${parent}-00`)
    crowd.push(...(await Promise.all(Array.from({ length: 20 }, () => assign(undefined)))))
    shown = (await call(base, `ops/coupons/${known}`)).body.facts

    const locked = await call(base, `coupons/lock/${known}`, { user_id: buyer })
    const { lock_token } = locked.body
    const redeemed = await call(base, `coupons/redeem/${known}`, { user_id: buyer, lock_token })
    expect(redeemed.status).toBe(200)
    expect((await call(base, 'coupons/redeem/UNKNOWN-CODE-1', { user_id: buyer })).status).toBe(404)
    const login = { email: 'admin@example.com', password }
    const { body: signedIn } = await call(base, 'auth/login', login)
    const key = await call(base, 'api-keys', { name: 'a service' })
    secrets.push(lock_token, redeemed.body.redemption_id, signedIn.access_token, key.body.key)
    secrets.push('UNKNOWN-CODE-1', ...stock, admin)

    jobTrace = 'b'.repeat(32)
    const headers = { traceparent: `00-${jobTrace}-${parent}-01` }
    const { body } = await call(base, `books/${book}/codes/generate`, { count: 10_001 }, headers)
    await until(
      async () => (await call(base, `jobs/${body.job_id}`)).body.state === 'done',
      'the codes are generated',
    )
    stopped = [await api.stop(), await worker.stop()]
    spans = collector.spans()
  })
  afterAll(() => collector.close())

  const spanOf = (context: Context) => {
    const [, traceId, spanId] = context.traceparent!.split('-')
    return spans.find((span) => span.traceId === traceId && span.spanId === spanId)
  }
  const isCall = (span: (typeof spans)[number]) => span.name === 'EVALSHA assign'

  test('everything is sent before the processes end', () => {
    expect(stopped).toEqual([0, 0])
    expect(new Set(spans.map(({ service }) => service))).toEqual(
      new Set(['stampede-api', 'stampede-worker']),
    )
  })

  test('a request goes on with the trace of its caller', async () => {
    const span = spanOf(await contextOf(known))
    expect(span).toMatchObject({
      ...{ service: 'stampede-api', name: 'POST /coupons/assign', kind: kinds.server },
      ...{ traceId: trace, parentSpanId: parent },
      attributes: {
        'http.request.method': 'POST',
        'http.route': '/coupons/assign',
        'http.response.status_code': 200,
        'stampede.outcome': 'done',
      },
    })
  })

  test('a refusal says which, and is no error', () => {
    const refused = spans.filter(
      ({ attributes }) => attributes['stampede.outcome'] === 'coupon-not-found',
    )
    expect(refused).toMatchObject([
      {
        name: 'POST /coupons/redeem/{code}',
        attributes: { 'http.response.status_code': 404 },
        status: { code: 0 },
      },
    ])
  })

  test('the call of its script is a span below it', async () => {
    const { traceId, spanId } = spanOf(await contextOf(known))!
    const below = spans.filter((span) => span.parentSpanId === spanId && span.traceId === traceId)
    expect(below.filter(isCall)).toMatchObject([
      {
        kind: kinds.client,
        attributes: {
          'db.system.name': 'redis',
          'db.operation.name': 'EVALSHA',
          'db.stored_procedure.name': 'assign',
        },
      },
    ])
  })

  test('requests that shared a call are its parent or its links', async () => {
    for (const code of crowd) {
      const { traceId, spanId } = spanOf(await contextOf(code))!
      const told = spans.filter(isCall).filter(({ parentSpanId, links }) => {
        const linked = links.some((link) => link.traceId === traceId && link.spanId === spanId)
        return linked || parentSpanId === spanId
      })
      expect(told).toHaveLength(1)
    }
  })

  test('the transaction that made it durable links to it', async () => {
    for (const code of [known, ...fresh, ...crowd]) {
      const { traceId, spanId } = spanOf(await contextOf(code))!
      const flushes = spans.filter(({ name, links }) => {
        const isLinked = links.some((link) => link.traceId === traceId && link.spanId === spanId)
        return name === 'flush' && isLinked
      })
      expect(flushes, code).toHaveLength(1)
      const [flush] = flushes
      expect(flush).toMatchObject({ service: 'stampede-worker', kind: kinds.client })
      expect(flush!.attributes['db.system.name']).toBe('postgresql')
      expect(flush!.attributes['stampede.facts']).toBeGreaterThanOrEqual(flush!.links.length)
      // A trace of its own: many requests wait for it, and it is none's child.
      expect(flush!.parentSpanId ?? '').toBe('')
      expect(flush!.traceId).not.toBe(traceId)
    }
  })

  test('an invalid traceparent begins a trace anew', async () => {
    const traces = new Set<string>()
    for (const code of fresh) {
      const span = spanOf(await contextOf(code))!
      expect(span.parentSpanId ?? '').toBe('')
      traces.add(span.traceId)
    }
    expect(traces.size).toBe(invalid.length)
    expect(traces).not.toContain(trace)
  })

  test('a caller that does not record gets no span, but its trace is in the ledger', async () => {
    const { traceparent } = await contextOf(unsampled)
    expect(traceparent).toMatch(/^00-a{32}-[\da-f]{16}-00$/)
    expect(traceparent).not.toContain(parent)
    expect(spans.filter(({ traceId }) => traceId === 'a'.repeat(32))).toEqual([])
  })

  test('whoever looks a coupon up sees the trace', async () => {
    const { traceparent } = await contextOf(known)
    expect(shown).toMatchObject([{ kind: 'assign', traceparent }])
  })

  test('a job belongs to the trace of the request that asked for it', () => {
    const its = spans.filter(({ traceId }) => traceId === jobTrace)
    const find = (kind: number) => its.find((span) => span.kind === kind)!
    expect(find(kinds.server).name).toBe('POST /books/{book_id}/codes/generate')
    expect(find(kinds.producer).parentSpanId).toBe(find(kinds.server).spanId)
    expect(find(kinds.consumer).parentSpanId).toBe(find(kinds.producer).spanId)
    expect(find(kinds.consumer).service).toBe('stampede-worker')
    expect(its.some(({ name }) => name === 'EVALSHA load')).toBe(true)
  })

  test('polls, sweeps and housekeeping have no spans', () => {
    const sent = new Set(spans.map(({ spanId }) => spanId))
    const inner = spans.filter(({ kind, name }) => kind !== kinds.server && name !== 'flush')
    expect(inner.length).toBeGreaterThan(40)
    expect(inner.filter(({ parentSpanId }) => !sent.has(parentSpanId!))).toEqual([])
    const used = new Set(spans.map(({ kind }) => kind))
    expect(used).toEqual(new Set(Object.values(kinds)))
  })

  test('no code, user, token or password is in what was sent', () => {
    const sent = collector.text()
    expect(sent).toContain('POST /coupons/lock/{code}')
    for (const secret of secrets) {
      expect(secret.length).toBeGreaterThan(7)
      expect(sent).not.toContain(secret)
    }
    expect(spans.flatMap(({ events }) => events)).toEqual([])
  })
})

test('tracing: a share of 0 leaves what callers record, and its flush', async () => {
  const collector = await openCollector()
  const env = { OTEL_EXPORTER_OTLP_ENDPOINT: collector.url, OTEL_TRACES_SAMPLER_ARG: '0' }
  const worker = town.startWorker(env)
  const { base, ...api } = await town.startApi(env)
  const book = await makeBook(base, ['SHARE-1', 'SHARE-2'])
  const body = { book_id: book, user_id: buyer }
  await call(base, 'coupons/assign', body)
  const { body: answered } = await call(base, 'coupons/assign', body, { traceparent: theirs })
  await contextOf(answered.coupons[0].code)
  expect([await api.stop(), await worker.stop()]).toEqual([0, 0])
  const spans = collector.spans()
  const request = spans.find(({ kind }) => kind === kinds.server)!
  expect(request).toMatchObject({ traceId: trace, parentSpanId: parent })
  const flush = spans.find(({ name }) => name === 'flush')!
  expect(flush.links).toMatchObject([{ traceId: trace, spanId: request.spanId }])
  expect(spans.filter(({ traceId }) => traceId !== trace)).toEqual([flush])
  collector.close()
})

describe('tracing: without a collector', () => {
  let world: World
  beforeAll(async () => {
    world = await openWorld({ shards: 1 })
  })
  afterAll(() => world.close())

  async function carried(traceparent: string): Promise<string | undefined> {
    const book = await world.makeBook({}, 1)
    const { body } = await world.call('POST', 'coupons/assign', {
      as: world.service,
      body: { book_id: book, user_id: buyer },
      headers: { traceparent },
    })
    const [fact] = await ledgerOf(world, body.coupons[0].code)
    return fact.context.traceparent
  }

  test.each([
    [theirs, theirs],
    [theirs.replace(/01$/, '00'), theirs.replace(/01$/, '00')],
    [theirs.replace(/^00/, '01'), theirs],
    [`${theirs.replace(/^00/, 'cc')}-what-will-be`, theirs],
  ])('%s is kept with what it did', async (sent, kept) => {
    expect(await carried(sent)).toBe(kept)
  })

  test.each(invalid)('"%s" is not', async (sent) => {
    expect(await carried(sent)).toBeUndefined()
  })

  test('nothing of OpenTelemetry is loaded', async () => {
    const dir = scratchDir('loads')
    /** What API and worker load until they have done something for somebody. */
    async function loaded(name: string, env: Record<string, string>): Promise<string[]> {
      const into = join(dir, name)
      const hook = new URL(`./loads.ts?into=${into}`, import.meta.url).href
      const all = { ...env, NODE_OPTIONS: `--import=${hook}` }
      const worker = town.startWorker(all)
      const { base, ...api } = await town.startApi(all)
      const code = `LOADED-${name}`
      const book = await makeBook(base, [code])
      await call(base, 'coupons/assign', { book_id: book, user_id: buyer })
      await contextOf(code)
      expect([await api.stop(), await worker.stop()]).toEqual([0, 0])
      const urls = readFileSync(into, 'utf8').split('\n')
      // The client of Prometheus brings the API package along: an interface, and nothing behind it.
      const telling = /src\/tracing\.ts|bullmq-otel|@opentelemetry\/(?!api\/)/
      return urls.filter((url) => telling.test(url))
    }
    const collector = await openCollector()
    try {
      const endpoint = { OTEL_EXPORTER_OTLP_ENDPOINT: collector.url }
      expect((await loaded('with', endpoint)).length).toBeGreaterThan(50)
      expect(await loaded('without', {})).toEqual([])
    } finally {
      collector.close()
      rmSync(dir, { recursive: true, force: true })
    }
  }, 60_000)
})

describe('tracing: with a collector that is no help', () => {
  /** An export that is not taken gives up after 10 s: no answer may wait for it. */
  const slowMs = 5_000

  /** Calls until spans wait to be sent, then stops; how long the slowest answer took. */
  async function run(endpoint: string): Promise<number> {
    const env = { OTEL_EXPORTER_OTLP_ENDPOINT: endpoint, LOG_LEVEL: 'fatal' }
    const worker = town.startWorker(env)
    const { base, ...api } = await town.startApi(env)
    const book = await makeBook(base, [`WAITS-${new URL(endpoint).port}`])
    let slowest = 0
    const refused = async () => {
      const begun = performance.now()
      const { status } = await call(base, 'coupons/redeem/NONE', { user_id: buyer })
      expect(status).toBe(404)
      slowest = Math.max(slowest, performance.now() - begun)
    }
    // More than one export's worth, so that one is under way while the next spans come.
    for (let round = 0; round < 60; round++) await Promise.all(Array.from({ length: 10 }, refused))
    const headers = { durability: 'postgres' }
    const body = { book_id: book, user_id: buyer }
    const assigned = await call(base, 'coupons/assign', body, headers)
    expect(assigned.headers.get('durability')).toMatch(/^postgres/)
    // A stop that takes over 8 s is ended by force, with another code.
    expect([await api.stop(), await worker.stop()]).toEqual([0, 0])
    return slowest
  }

  test('that is away, answers come and processes stop as ever', async () => {
    expect(await run(`http://127.0.0.1:${await freePort()}`)).toBeLessThan(slowMs)
  }, 60_000)

  test('that says nothing, they do so too', async () => {
    const collector = await openCollector({ silent: true })
    try {
      expect(await run(collector.url)).toBeLessThan(slowMs)
      expect(collector.text()).toContain('POST /coupons/redeem/{code}')
    } finally {
      collector.close()
    }
  }, 60_000)
})
