import { once } from 'node:events'
import { type IncomingMessage, request } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { from as copyFrom } from 'pg-copy-streams'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { startRedis } from '../src/embedded/redis.ts'
import { keys } from '../src/store/keys.ts'
import { audit } from './audit.ts'
import { openWorld, type Reply, until, type World } from './world.ts'

/** PostgreSQL goes away, as a server that stops or as a network that swallows everything. */
let world: World
let book: string
let code: string
let again: Awaited<ReturnType<typeof startRedis>> | undefined
const shard = 0

beforeEach(async () => {
  world = await openWorld({ shards: 1, backlog: 1_000 })
  book = await world.makeBook({ max_redemptions: 100 }, 3_000)
  code = (await assign()).body.coupons[0].code
  await world.level()
})
afterEach(async () => {
  world.wire.set('up')
  await world.close()
  await again?.stop()
  again = undefined
})

const post = (path: string, body: unknown, headers = {}) =>
  world.call('POST', path, { as: world.service, body, headers })
const assign = (count = 1, headers = {}) =>
  post('coupons/assign', { book_id: book, user_id: 'u', count }, headers)
const redeem = (headers = {}) => post(`coupons/redeem/${code}`, { user_id: 'u' }, headers)
const word = ({ status, body }: Reply) => (status < 300 ? String(status) : `${status} ${body.code}`)
const entries = async () => Number(await world.redis.hget(keys.meta(shard), 'n'))

/** What it answers, in at most `ms`. */
async function within(ms: number, work: Promise<Reply>): Promise<string> {
  const begun = performance.now()
  const answer = word(await work)
  const took = performance.now() - begun
  return took <= ms ? answer : `${answer} after ${Math.round(took)} ms`
}
const isKnown = () => until(() => world.house.deps.durable.away(), 'it is known', 4_000)

describe.each(['cut', 'silent'] as const)('with PostgreSQL %s', (state) => {
  test('no answer takes much longer than two seconds, from the first one on', async () => {
    world.wire.set(state)
    const asked = [
      redeem(),
      assign(),
      world.call('GET', 'books', { as: world.service }),
      world.call('GET', 'users/u/coupons', { as: world.service }),
      world.call('GET', `books/${book}`, { as: world.service }),
      world.call('GET', `coupons/${code}`, { as: world.service }),
      post('books', { name: 'A book', owner_id: 'o' }),
    ]
    const answers = await Promise.all(asked.map((one) => within(2_500, one)))
    // What was done before the outage was known is told to be in Redis alone.
    expect(answers[0]).toMatch(/^(202|503 not-ready)$/)
    expect(answers.slice(1)).toEqual([
      '200',
      '503 not-ready',
      '503 not-ready',
      '503 not-ready',
      '200',
      '503 not-ready',
    ])
  })

  test('once it is known, what needs it is refused at once and changes nothing', async () => {
    world.wire.set(state)
    await isKnown()
    const before = await entries()
    const refused = await Promise.all([
      within(200, redeem()),
      within(200, assign(1, { durability: 'postgres' })),
      within(200, world.call('POST', `coupons/release/${code}`, { as: world.admin })),
      within(200, world.call('GET', 'books', { as: world.service })),
      within(200, world.call('GET', `books/${book}/coupons`, { as: world.service })),
    ])
    expect(refused).toEqual([
      '503 not-ready',
      '503 not-ready',
      '503 not-ready',
      '503 not-ready',
      '503 not-ready',
    ])
    expect((await redeem()).headers.get('retry-after')).toBe('1')
    expect(await entries()).toBe(before)
    expect(await within(200, redeem({ durability: 'redis' }))).toBe('200')
    expect(await within(200, assign())).toBe('200')
    expect(await entries()).toBe(before + 2)
  })

  test('intake goes on up to the cap, and afterwards everything reaches the ledger', async () => {
    world.wire.set(state)
    await isKnown()
    let given = 0
    await until(async () => {
      const answer = await assign(100)
      if (answer.status === 200) given += 100
      return word(answer) === '503 backlog'
    }, 'the backlog is full')
    expect(given).toBeGreaterThanOrEqual(1_000)
    expect(given).toBeLessThanOrEqual(1_200)
    world.wire.set('up')
    await until(async () => word(await redeem()) === '200', 'redeem works again')
    await world.level()
    expect(word(await assign(100))).toBe('200')
    await world.level()
    const { rows } = await world.database.query(
      "SELECT count(*)::int FROM ledger WHERE kind = 'assign' AND book_id = $1",
      [book],
    )
    expect(rows[0].count).toBe(1 + given + 100)
  })
})

test.each([true, false])(
  'a book that asks for postgres is refused too, an answer of its seen before: %s',
  async (seen) => {
    const strict = await world.makeBook({ durability: 'postgres' }, 5)
    const ask = () => post('coupons/assign', { book_id: strict, user_id: 'u' })
    if (seen) expect(word(await ask())).toBe('200')
    world.wire.set('cut')
    await isKnown()
    const before = await entries()
    expect(await within(200, ask())).toBe('503 not-ready')
    expect(await entries()).toBe(before)
  },
)

/** What the ledger and the books come to once PostgreSQL is back: all of it, and in the same epoch. */
async function nothingIsLost(epoch: string | null, kinds: string[]): Promise<void> {
  world.wire.set('up')
  await until(async () => word(await redeem()) === '200', 'redeem works again')
  await world.level()
  const { rows } = await world.database.query('SELECT kind FROM ledger ORDER BY epoch, n, i')
  expect(rows.map(({ kind }) => kind)).toEqual(['assign', ...kinds, 'redeem'])
  expect(await world.redis.hget(keys.meta(shard), 'epoch')).toBe(epoch)
  await audit(world, { book })
}

test('Redis drops every connection while PostgreSQL is away: what needs Redis alone serves again', async () => {
  world.wire.set('cut')
  await isKnown()
  const [epoch, n] = await world.redis.hmget(keys.meta(shard), 'epoch', 'n')
  await world.redis.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes')
  await until(
    async () => {
      const answer = word(await assign())
      if (answer !== '200') expect(answer).toBe('503 not-ready')
      return answer === '200'
    },
    'assign serves again',
    3_000,
  )
  expect(word(await post(`coupons/lock/${code}`, { user_id: 'u' }))).toBe('200')
  expect(word(await post(`coupons/unlock/${code}`, { user_id: 'u' }))).toBe('200')
  expect(word(await redeem())).toBe('503 not-ready')
  expect(await entries()).toBe(Number(n) + 3)
  await nothingIsLost(epoch!, ['assign', 'lock', 'unlock'])
})

test('Redis is killed while PostgreSQL is away: nobody can vouch for its policies until it is back', async () => {
  const { redis, redisServer } = world
  redis.on('error', () => {})
  world.wire.set('cut')
  await isKnown()
  expect(word(await assign())).toBe('200')
  const [epoch, n] = await redis.hmget(keys.meta(shard), 'epoch', 'n')
  const [, dir] = (await redis.config('GET', 'dir')) as [string, string]
  process.kill(redisServer.pid, 'SIGKILL')
  await until(async () => word(await assign()) === '503 not-ready', 'it is away')
  again = await startRedis({ dir, port: redisServer.port, durable: true })
  await until(async () => (await redis.ping().catch(() => '')) === 'PONG', 'Redis is back')
  const ended = performance.now() + 1_500
  while (performance.now() < ended) {
    expect(word(await assign())).toBe('503 not-ready')
    expect((await world.call('GET', '/readyz')).status).toBe(503)
    await sleep(50)
  }
  expect(await redis.hmget(keys.meta(shard), 'epoch', 'n')).toEqual([epoch, n])
  await nothingIsLost(`${Number(epoch) + 1}`, ['assign'])
})

test('Redis loses everything while PostgreSQL is away: 503 until it is back, and what it has is kept', async () => {
  const held = await redeem()
  expect(held.headers.get('durability')).toMatch(/^postgres; /)
  await world.level()
  const meta = keys.meta(shard)
  const epoch = Number(await world.redis.hget(meta, 'epoch'))
  world.wire.set('cut')
  await isKnown()
  expect(word(await assign())).toBe('200')
  await world.redis.flushall()
  const ended = performance.now() + 2_000
  while (performance.now() < ended) {
    expect(word(await assign())).toBe('503 not-ready')
    expect(word(await redeem({ durability: 'redis' }))).toBe('503 not-ready')
    const { status, body } = await world.call('GET', '/readyz')
    expect([status, body.ready]).toEqual([503, false])
    await sleep(50)
  }
  // Nobody makes anything up in the meantime.
  expect(await world.redis.keys(keys.all(shard))).toEqual([])
  world.wire.set('up')
  await until(async () => word(await assign()) === '200', 'it serves again')
  expect(Number(await world.redis.hget(meta, 'epoch'))).toBeGreaterThan(epoch)
  const shown = await world.call('GET', `coupons/${code}`, { as: world.admin })
  expect(shown.body).toMatchObject({ assigned_user_id: 'u', redemption_count: 1 })
  expect(word(await post(`redemptions/${held.body.redemption_id}/rollback`, undefined))).toBe('200')
  await audit(world, { book })
})

test('a pool that is busy is no outage', async () => {
  const busy = Array.from({ length: world.settings.DATABASE_POOL }, () =>
    world.database.query('SELECT pg_sleep(3)'),
  )
  await sleep(2_200)
  expect(world.house.deps.durable.away()).toBe(false)
  expect(word(await redeem({ durability: 'redis' }))).toBe('200')
  await Promise.all(busy)
})

test('connections that went silent, of a PostgreSQL that is there, keep nobody waiting', async () => {
  const { rows: free } = await world.database.query<{ code: string }>(
    'SELECT code FROM codes WHERE book_id = $1 AND code <> $2 LIMIT 1',
    [book, code],
  )
  // All that the pool may have: it would open another one.
  const all = Array.from({ length: world.settings.DATABASE_POOL }, () =>
    world.database.query('SELECT pg_sleep(0.1)'),
  )
  await Promise.all(all)
  const { rows: backends } = await world.database.query<{ pid: number }>(
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'stampede-api'",
  )
  const signal = (name: 'SIGSTOP' | 'SIGCONT') => {
    for (const { pid } of backends) process.kill(pid, name)
  }
  const named = () => post(`coupons/assign/${free[0]!.code}`, { user_id: 'u' })
  signal('SIGSTOP')
  try {
    await sleep(1_100) // nobody has vouched for the key lately
    expect(await within(3_000, named())).toBe('503 not-ready')
    expect(world.house.deps.durable.away()).toBe(false)
  } finally {
    signal('SIGCONT')
  }
  expect(word(await named())).toBe('200')
})

describe('what is taken off the time to wait for the ledger', () => {
  const spentMs = async (work: () => Promise<unknown>) => {
    const reach = vi.spyOn(world.house.deps.durable, 'reach')
    await work()
    const [, spent] = reach.mock.lastCall!
    reach.mockRestore()
    return spent
  }

  test('what the request has waited for before, such as its book', async () => {
    const { rows } = await world.database.query<{ code: string }>(
      'SELECT code FROM codes WHERE book_id = $1 AND code <> $2 LIMIT 1',
      [book, code],
    )
    const holder = new pg.Client({ connectionString: world.settings.DATABASE_URL })
    await holder.connect()
    await holder.query('BEGIN; LOCK TABLE codes IN ACCESS EXCLUSIVE MODE')
    const spent = await spentMs(async () => {
      const asked = post(
        `coupons/assign/${rows[0]!.code}`,
        { user_id: 'u' },
        { durability: 'postgres' },
      )
      await sleep(700)
      await holder.query('COMMIT')
      expect(word(await asked)).toBe('200')
    })
    await holder.end()
    expect(spent).toBeGreaterThan(600)
  })

  test('not how long its client took to send it', async () => {
    const spent = await spentMs(async () => {
      const asked = request(`${world.base}/api/v1/coupons/redeem/${code}`, {
        method: 'POST',
        headers: { authorization: `Bearer ${world.service}`, 'content-type': 'application/json' },
      })
      asked.write('{"user_id":')
      await sleep(700)
      asked.end('"u"}')
      const [response] = (await once(asked, 'response')) as [IncomingMessage]
      response.resume()
      expect(response.statusCode).toBe(200)
    })
    expect(spent).toBeLessThan(500)
  })
})

test('a redemption that only Redis knows is never called unknown while Redis cannot be asked', async () => {
  await world.stopWorker()
  const used = await redeem({ durability: 'redis' })
  const { redemption_id } = used.body
  const { redis } = world.house.place
  const hget = vi.spyOn(redis, 'hget').mockRejectedValue(new Error('Connection is closed.'))
  const back = () => post(`redemptions/${redemption_id}/rollback`, {}, { durability: 'redis' })
  expect(word(await back())).toBe('503 not-ready')
  hget.mockRestore()
  expect(word(await back())).toBe('200')
  await world.startWorker()
})

test('a transaction whose worker went silent in the middle of a COPY is ended, and its locks with it', async () => {
  const { Client } = pg
  const gone = new Client({
    connectionString: world.settings.DATABASE_URL,
    application_name: 'stampede-worker',
  })
  gone.on('error', () => {})
  await gone.connect()
  await gone.query('BEGIN')
  await gone.query('SELECT 1 FROM shards FOR UPDATE')
  const copying = gone.query(copyFrom('COPY codes FROM STDIN'))
  copying.on('error', () => {})
  copying.write('\n'.slice(1)) // opened, and then not a word
  const begun = performance.now()
  await assign()
  await world.level(12_000)
  expect(performance.now() - begun).toBeGreaterThan(3_000)
  await gone.end().catch(() => {})
}, 30_000)
