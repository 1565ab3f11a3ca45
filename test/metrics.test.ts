import { once } from 'node:events'
import { createServer, get } from 'node:http'
import type { AddressInfo } from 'node:net'
import { networkInterfaces } from 'node:os'
import pino from 'pino'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { freePort } from '../src/embedded/ports.ts'
import { Meter } from '../src/http/meter.ts'
import { metricsText, Spread } from '../src/metrics.ts'
import { problemCodes } from '../src/problems.ts'
import { causes } from '../src/recovery/judge.ts'
import { listen } from '../workers/listen.ts'
import { openWorld, until, type World } from './world.ts'

let world: World
let book: string
beforeAll(async () => {
  world = await openWorld({ shards: 2 })
  book = await world.makeBook({}, 20)
})
afterAll(() => world.close())

type Sample = { name: string; labels: Record<string, string>; value: number }
const line = /^([a-z_][a-z0-9_]*)(?:\{(.*)\})? (-?(?:[\d.]+(?:e[+-]?\d+)?|Inf)|Na[Nn])$/

/** Reads Prometheus' text format, and throws at a line that is none. */
function parse(text: string): Sample[] {
  const types = new Map<string, string>()
  const samples: Sample[] = []
  expect(text.endsWith('\n')).toBe(true)
  for (const one of text.trimEnd().split('\n')) {
    const type = /^# TYPE (\w+) (counter|gauge|histogram|summary)$/.exec(one)
    if (type) types.set(type[1]!, type[2]!)
    if (one === '' || one.startsWith('# ')) continue
    const [, name, labels = '', value] = line.exec(one) ?? []
    if (name === undefined) throw new Error(`no sample: ${one}`)
    const family = name.replace(/_(bucket|sum|count)$/, '')
    if (!types.has(name) && !types.has(family)) throw new Error(`no type: ${one}`)
    const pairs = [...labels.matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)]
    expect(pairs.map(([all]) => all).join(',')).toBe(labels)
    samples.push({
      name,
      labels: Object.fromEntries(pairs.map(([, key, text]) => [key, text])),
      value: Number(value),
    })
  }
  return samples
}

async function scrape(): Promise<Sample[]> {
  const reply = await fetch(`${world.base}/metrics`)
  expect(reply.headers.get('content-type')).toMatch(/^text\/plain; version=0\.0\.4/)
  return parse(await reply.text())
}
const ofWorker = async () => parse(await metricsText(world.workerMetrics()))

/** The sum of all samples of this name that bear these labels. */
const sum = (samples: Sample[], name: string, labels: Record<string, string> = {}) =>
  samples
    .filter((one) => one.name === name)
    .filter((one) => Object.entries(labels).every(([key, value]) => one.labels[key] === value))
    .reduce((total, { value }) => total + value, 0)

/** Does `work` while every query is a bug of ours. */
async function failing<T>(work: () => Promise<T>): Promise<T> {
  const query = vi.spyOn(world.database, 'query')
  query.mockImplementation(() => Promise.reject(new Error('a bug')))
  try {
    return await work()
  } finally {
    query.mockRestore()
  }
}

const assign = (user: string, headers = {}, body = {}) =>
  world.call('POST', 'coupons/assign', {
    as: world.service,
    body: { book_id: book, user_id: user, ...body },
    headers,
  })

describe('metrics', () => {
  test('counts answers by verb and outcome, and times them by route', async () => {
    const before = await scrape()
    await assign('u1')
    await assign('u1', { 'idempotency-key': 'k' })
    await assign('u1', { 'idempotency-key': 'k' })
    await assign('u1', {}, { count: 100 })
    await world.call('POST', 'coupons/redeem/NONE', { as: world.service, body: { user_id: 'u1' } })
    await world.call('POST', 'coupons/assign', { body: {} })
    await world.call('GET', '/nothing-here')
    const after = await scrape()
    const risen = (name: string, labels: Record<string, string>) =>
      sum(after, name, labels) - sum(before, name, labels)
    const answers = (verb: string, outcome: string) =>
      risen('stampede_answers_total', { verb, outcome })
    expect(answers('assign', 'done')).toBe(2)
    expect(answers('assign', 'replayed')).toBe(1)
    expect(answers('assign', 'sold-out')).toBe(1)
    expect(answers('assign', 'unauthenticated')).toBe(1)
    expect(answers('redeem', 'coupon-not-found')).toBe(1)
    expect(answers('none', 'route-not-found')).toBe(1)
    const route = { route: 'POST /coupons/assign' }
    expect(risen('stampede_request_duration_seconds_count', route)).toBe(5)
    expect(risen('stampede_request_duration_seconds_sum', route)).toBeGreaterThan(0)
    const buckets = after.filter(
      ({ name, labels }) =>
        name === 'stampede_request_duration_seconds_bucket' && labels.route === route.route,
    )
    const heights = buckets.map(({ value }) => value)
    expect(heights).toEqual(heights.toSorted((a, b) => a - b))
    expect(buckets.at(-1)).toMatchObject({
      labels: { le: '+Inf' },
      value: sum(after, 'stampede_request_duration_seconds_count', route),
    })
  })

  test('counts what a route threw as what it was answered with', async () => {
    const before = sum(await scrape(), 'stampede_answers_total', { outcome: 'internal-error' })
    const broken = await failing(() => world.call('GET', 'books', { as: world.admin }))
    expect(broken.status).toBe(500)
    expect(sum(await scrape(), 'stampede_answers_total', { outcome: 'internal-error' })).toBe(
      before + 1,
    )
  })

  test('shows the lag while nobody flushes, and none once the ledger is level', async () => {
    await world.stopWorker()
    await assign('u2', {}, { count: 3 })
    await assign('u3')
    await until(async () => sum(await scrape(), 'stampede_lag_seconds') > 0.2, 'the lag grows')
    expect(sum(await scrape(), 'stampede_lag_facts')).toBe(4)
    expect(await scrape()).toContainEqual({
      name: 'stampede_backlog_limit_facts',
      labels: {},
      value: 500_000,
    })
    await world.startWorker()
    await world.level()
    await until(async () => sum(await scrape(), 'stampede_lag_facts') === 0, 'there is no lag')
    expect(sum(await scrape(), 'stampede_lag_seconds')).toBe(0)
  })

  test('tells of flushes, gates, epochs, jobs, memory and parked facts', async () => {
    const before = await ofWorker()
    await assign('u4', { durability: 'postgres' })
    const samples = await ofWorker()
    const flushes = (of: Sample[]) => sum(of, 'stampede_flushes_total')
    expect(flushes(samples)).toBeGreaterThan(flushes(before))
    expect(sum(samples, 'stampede_flush_facts_count')).toBe(flushes(samples))
    expect(sum(samples, 'stampede_flush_facts_sum')).toBeGreaterThan(
      sum(before, 'stampede_flush_facts_sum'),
    )
    expect(sum(samples, 'stampede_flush_duration_seconds_count')).toBe(flushes(samples))
    for (const of of [samples, await scrape()]) {
      expect(sum(of, 'stampede_gate_open')).toBe(2)
      expect(sum(of, 'stampede_shard_epoch')).toBe(2)
      expect(sum(of, 'stampede_redis_up')).toBe(1)
      expect(sum(of, 'stampede_postgres_up')).toBe(1)
      expect(sum(of, 'stampede_parked_facts')).toBe(0)
      expect(sum(of, 'stampede_redis_memory_bytes')).toBeGreaterThan(500_000)
      expect(of.filter(({ name }) => name === 'stampede_jobs')).toHaveLength(6)
      expect(sum(of, 'process_cpu_user_seconds_total')).toBeGreaterThan(0)
    }
  })

  test('counts recoveries by cause and sees the gates shut meanwhile', async () => {
    await world.level()
    const before = await ofWorker()
    expect(sum(before, 'stampede_recoveries_total')).toBeGreaterThanOrEqual(0)
    await world.redis.flushall()
    await until(async () => {
      await assign('u5')
      const now = await ofWorker()
      const cause = { cause: 'memory_lost' }
      const risen = sum(now, 'stampede_recoveries_total', cause)
      return risen === 2 && sum(now, 'stampede_recovery_duration_seconds_count') >= 2
    }, 'both shards were recovered')
    await until(async () => sum(await scrape(), 'stampede_shard_epoch') > 2, 'epochs rise')
    await world.ready()
  })

  test('has no label but the ones that are known beforehand', async () => {
    const { body } = await world.call('GET', '/openapi.json')
    const routes = Object.entries(body.paths as Record<string, object>).flatMap(([path, methods]) =>
      Object.keys(methods).map(
        (method) => `${method.toUpperCase()} ${path.replace(/^\/api\/v1/, '')}`,
      ),
    )
    const verbs =
      'assign assign_code lock unlock redeem rollback release void show none assign_batch'.split(
        ' ',
      )
    const tags = [
      'accounts',
      'api keys',
      'auth',
      'books',
      'codes',
      'coupons',
      'files',
      'health',
      'jobs',
      'statistics',
      'operations',
      'ops',
      'pools',
      'users',
    ]
    const known: Record<string, (value: string) => boolean> = {
      verb: (value) => [...verbs, ...tags].includes(value),
      outcome: (value) => ['done', 'replayed', 'late', ...problemCodes].includes(value),
      route: (value) => [...routes, 'none'].includes(value),
      shard: (value) => ['0', '1'].includes(value),
      le: (value) => value === '+Inf' || Number(value) > 0,
      queue: (value) => ['flush', 'jobs'].includes(value),
      state: (value) => ['waiting', 'active', 'delayed'].includes(value),
      trigger: (value) => ['nudge', 'sweep'].includes(value),
      cause: (value) => (causes as readonly string[]).includes(value),
    }
    const ours = [...(await scrape()), ...(await ofWorker())].filter(({ name }) =>
      name.startsWith('stampede_'),
    )
    expect(ours.length).toBeGreaterThan(100)
    const strange = ours.filter(({ labels }) =>
      Object.entries(labels).some(([key, value]) => !known[key]?.(value)),
    )
    expect(strange).toEqual([])
  })

  test('answers although a source hangs or fails', async () => {
    const begun = performance.now()
    const text = await metricsText([
      () => new Promise(() => {}),
      () => Promise.reject(new Error('away')),
      () => {
        throw new Error('a bug')
      },
      () => ({ stampede_redis_up: [[{}, 1]] }),
    ])
    expect(sum(parse(text), 'stampede_redis_up')).toBe(1)
    expect(performance.now() - begun).toBeLessThan(2_000)
  })

  test('costs the hot path less than half a microsecond', () => {
    const meter = new Meter('assign', 'POST /coupons/assign')
    const rounds = 1_000_000
    let best = Number.POSITIVE_INFINITY
    for (let run = 0; run < 5; run++) {
      const begun = performance.now()
      for (let i = 0; i < rounds; i++) meter.count(i % 8 ? 'done' : 'sold-out', i % 40)
      best = Math.min(best, ((performance.now() - begun) * 1_000) / rounds)
    }
    expect(best).toBeLessThan(0.5)
    expect([...meter.seconds.counts].reduce((a, b) => a + b)).toBe(5 * rounds)
  })

  test('puts a value that equals a bound below it', () => {
    const spread = new Spread([1, 2])
    for (const value of [0.5, 1, 1.5, 2, 3]) spread.observe(value)
    expect([[...spread.counts], spread.sum]).toEqual([[2, 2, 1], 8])
  })
})

describe('metrics of a worker', () => {
  const log = pino({ level: 'silent' })

  test('are served on a port of their own, with /livez', async () => {
    const at = { host: '127.0.0.1', port: await freePort() }
    const server = (await listen(at, world.workerMetrics(), log))!
    const get = (path: string, method = 'GET') =>
      fetch(`http://${at.host}:${at.port}${path}`, { method })
    expect(sum(parse(await (await get('/metrics')).text()), 'stampede_gate_open')).toBe(2)
    expect(await (await get('/livez')).json()).toEqual({ alive: true })
    expect([(await get('/')).status, (await get('/livez', 'POST')).status]).toEqual([404, 405])
    server.close()
  })

  test('are done without where the port is taken', async () => {
    const other = createServer().listen(0, '127.0.0.1')
    await once(other, 'listening')
    const { port } = other.address() as AddressInfo
    expect(await listen({ host: '127.0.0.1', port }, [], log)).toBeUndefined()
    other.close()
  })
})

describe('metrics from elsewhere', () => {
  const ask = async (headers: Record<string, string>, base = world.base) =>
    (await fetch(`${base}/metrics`, { headers })).status
  const bearer = (token: string) => ({ authorization: `Bearer ${token}` })

  test('a proxy on this machine opens them to nobody', async () => {
    expect(await ask({})).toBe(200)
    for (const name of ['forwarded', 'x-forwarded-for', 'x-real-ip', 'via'])
      expect(await ask({ [name]: '127.0.0.1' }), name).toBe(401)
    const via = { via: '1.1 proxy' }
    expect(await ask({ ...via, ...bearer((await world.signUp()).token) })).toBe(403)
    expect(await ask({ ...via, ...bearer(world.admin) })).toBe(200)
    expect(await ask({ ...via, ...bearer(world.service) })).toBe(200)
  })

  test('another address needs an administrator or a key', async () => {
    const others = Object.values(networkInterfaces()).flat()
    const outside = others.find((one) => one && !one.internal && one.family === 'IPv4')
    if (!outside) return // no other address to be had: the sockets of this machine are all local
    const { hostname, port } = new URL(world.base)
    const at = { host: hostname, port, localAddress: outside.address, path: '/metrics' }
    const ask = async (headers: Record<string, string>) => {
      const [reply] = await once(get({ ...at, headers }), 'response')
      reply.resume()
      return reply.statusCode
    }
    expect(await ask({})).toBe(401)
    expect(await ask(bearer(world.service))).toBe(200)
  })
})
