import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { keys } from '../src/store/keys.ts'
import { openWorld, type Reply, until, type World } from './world.ts'

/** PostgreSQL goes away, as a server that stops or as a network that swallows everything. */
let world: World
let book: string
let code: string
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

test('a pool that is busy is no outage', async () => {
  const busy = Array.from({ length: world.settings.DATABASE_POOL }, () =>
    world.database.query('SELECT pg_sleep(3)'),
  )
  await sleep(2_200)
  expect(world.house.deps.durable.away()).toBe(false)
  expect(word(await redeem({ durability: 'redis' }))).toBe('200')
  await Promise.all(busy)
})
