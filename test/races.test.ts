import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { serve } from '@hono/node-server'
import pino from 'pino'
import { expect, test } from 'vitest'
import { openHouse } from '../src/house.ts'
import { shardRow } from '../src/ledger/shards.ts'
import { openQueues } from '../src/queues.ts'
import { keys } from '../src/store/keys.ts'
import { auditedWorld } from './audit.ts'
import { placeOf } from './client.ts'
import { type Ask, type Came, openRush, tally } from './rush.ts'
import { until } from './world.ts'

const { world, client, makeBook } = auditedWorld()

const numbers = (n: number) => Array.from({ length: n }, (_, i) => i)
const codesOf = (came: readonly Came[]): string[] =>
  came.flatMap(({ body }) => (body.coupons ?? []).map(({ code }: { code: string }) => code))

/** Sends all at once, a connection each unless `sockets` says otherwise. */
async function rush(asks: readonly Ask[], sockets = asks.length): Promise<Came[]> {
  const line = openRush(world(), client().history, sockets)
  try {
    return await line.all(asks)
  } finally {
    line.close()
  }
}

const assign = (book: string, user: string): Ask => ({
  verb: 'assign',
  path: 'coupons/assign',
  as: world().service,
  user,
  body: { book_id: book },
})
const about = (verb: 'lock' | 'redeem', code: string, user: string): Ask => ({
  verb,
  path: `coupons/${verb}/${code}`,
  as: world().service,
  user,
})

/** A book with `n` coupons that ann holds. */
async function held(name: string, n: number, policy = {}): Promise<string[]> {
  const book = await makeBook(
    policy,
    numbers(n).map((i) => `${name}-${i}`),
  )
  const { body } = await client().assign(book, 'ann', { count: n })
  return body.coupons.map(({ code }: { code: string }) => code)
}

/** Accounts that sign in themselves, made in one statement: a password hash each would take long. */
async function signUpMany(n: number): Promise<{ id: string; token: string }[]> {
  const { database, house } = world()
  const { rows } = await database.query(
    `INSERT INTO users (user_id, name, email, password_hash)
     SELECT gen_random_uuid(), 'x', 'racer-' || i || '@example.com', '-'
     FROM generate_series(1, $1) i RETURNING *`,
    [n],
  )
  return Promise.all(
    rows.map(async (row) => ({ id: row.user_id, token: await house.deps.tokens.issue(row) })),
  )
}

test('race  of 50 users for 5 units of a counter book has five winners with a code each', async () => {
  const book = await makeBook({ kind: 'counter', units: 5 })
  const came = await rush(numbers(50).map((i) => assign(book, `user-${i}`)))
  expect(tally(came)).toEqual({ done: 5, 'sold-out': 45 })
  expect(new Set(codesOf(came)).size).toBe(5)
})

test('race  of one user with themselves stops at their limit', async () => {
  for (const policy of [{}, { kind: 'counter', units: 20 }]) {
    const codes = 'kind' in policy ? 0 : 20
    const book = await makeBook({ ...policy, max_assignments_per_user: 3 }, codes)
    const came = await rush(numbers(10).map(() => assign(book, 'ann')))
    expect(tally(came)).toEqual({ done: 3, 'assignment-limit': 7 })
  }
})

test('race  of 1,000 users for 100 codes gives each code to one; the ledger is level in a second', async () => {
  const users = await signUpMany(1_000)
  const book = await makeBook({ max_assignments_per_user: 1 }, 100)
  const asks = users.map(({ token }) => ({ ...assign(book, ''), user: undefined, as: token }))
  const came = await rush(asks, 256)
  const answered = performance.now()
  const { shard } = await placeOf(world(), book)
  for (;;) {
    const [last] = await world().redis.xrevrange(keys.journal(shard), '+', '-', 'COUNT', 1)
    const { checkpointEpoch, checkpoint } = await shardRow(world().database, shard)
    if (last![0] === `${checkpointEpoch}-${checkpoint}`) break
    expect(performance.now() - answered).toBeLessThan(1_000)
    await sleep(5)
  }
  expect(tally(came)).toEqual({ done: 100, 'sold-out': 900 })
  expect(new Set(codesOf(came)).size).toBe(100)
  const winners = came.flatMap(({ body }) => body.coupons?.[0].assigned_user_id ?? [])
  expect(new Set(winners).size).toBe(100)
})

test('race  over two API processes gives each code to one', async () => {
  const { settings } = world()
  const queues = openQueues(settings.REDIS_URL)
  const other = await openHouse(settings, queues, pino({ level: 'fatal' }))
  while ((await other.openGates()) > 0) await sleep(10)
  const http = serve({ fetch: other.app.fetch, hostname: '127.0.0.1', port: 0 })
  await once(http, 'listening')
  const base = `http://127.0.0.1:${(http.address() as AddressInfo).port}`
  const lines = [world().base, base].map((at) => openRush(world(), client().history, 50, at))
  try {
    const book = await makeBook({ max_assignments_per_user: 2 }, 40)
    const asks = numbers(200).map((i) => assign(book, `user-${i % 30}`))
    const came = await Promise.all(asks.map((ask, i) => lines[i % 2]!.send(ask)))
    const { done, ...rest } = tally(came)
    expect(done).toBe(40)
    expect(Object.keys(rest).sort()).toEqual(['assignment-limit', 'sold-out'])
    expect(new Set(codesOf(came)).size).toBe(40)
  } finally {
    for (const line of lines) line.close()
    http.close()
    await queues.close()
    await other.close()
  }
})

test('race  of 200 to redeem one coupon has one winner', async () => {
  const [code] = await held('REDEEM', 1)
  const came = await rush(numbers(200).map(() => about('redeem', code!, 'ann')))
  expect(tally(came)).toEqual({ done: 1, 'coupon-redeemed': 199 })
})

test('race  of 200 to redeem a coupon of three uses has three', async () => {
  const [code] = await held('THRICE', 1, { max_redemptions: 3 })
  const came = await rush(numbers(200).map(() => about('redeem', code!, 'ann')))
  expect(tally(came)).toEqual({ done: 3, 'coupon-redeemed': 197 })
  const counts = came.flatMap(({ body }) => body.redemption_count ?? []).sort()
  expect(counts).toEqual([1, 2, 3])
})

test('race  of lock against redeem is won by one of them, coupon by coupon', async () => {
  const codes = await held('LOCK', 60)
  const asks = codes.flatMap((code, i) => {
    const [lock, redeem] = [about('lock', code, 'ann'), about('redeem', code, 'ann')]
    return i % 2 ? [lock, redeem] : [redeem, lock]
  })
  const came = await rush(asks)
  const outcomes = codes.map((_, i) => {
    const pair = [came[2 * i]!.code, came[2 * i + 1]!.code]
    return (i % 2 ? pair : pair.reverse()).map((code) => code ?? 'done').join(', ')
  })
  for (const outcome of outcomes)
    expect(['done, coupon-locked', 'coupon-redeemed, done']).toContain(outcome)
})

test('race  of locks for one coupon has one winner with a token', async () => {
  const [code] = await held('LOCKS', 1)
  const came = await rush(numbers(100).map(() => about('lock', code!, 'ann')))
  expect(tally(came)).toEqual({ done: 1, 'coupon-locked': 99 })
})

test('race  of rollbacks undoes each redemption once', async () => {
  const codes = await held('ROLLBACK', 20, { max_redemptions: 2 })
  const redeems = codes.flatMap((code) => [code, code]).map((code) => about('redeem', code, 'ann'))
  const ids = (await rush(redeems)).map(({ body }) => body.redemption_id as string)
  const came = await rush(
    ids.flatMap((id) => {
      const path = `redemptions/${id}/rollback`
      const ask: Ask = { verb: 'rollback', path, as: world().service }
      return [ask, ask, ask]
    }),
  )
  expect(tally(came)).toEqual({ done: 40, 'already-rolled-back': 80 })
})

test.each(['release' as const, 'void' as const])(
  'race  of %s against redeem is won by one of them, coupon by coupon',
  async (verb) => {
    const codes = await held(verb.toUpperCase(), 60)
    const asks = codes.flatMap((code, i) => {
      const taken: Ask = { verb, path: `coupons/${verb}/${code}`, as: world().admin }
      const redeem = about('redeem', code, 'ann')
      return i % 2 ? [taken, redeem] : [redeem, taken]
    })
    const came = await rush(asks)
    const outcomes = codes.map((_, i) => {
      const pair = [came[2 * i]!.code, came[2 * i + 1]!.code]
      return (i % 2 ? pair : pair.reverse()).map((code) => code ?? 'done').join(', ')
    })
    for (const outcome of outcomes)
      expect(['done, coupon-not-found', 'coupon-redeemed, done']).toContain(outcome)
  },
)

test('race  of void against assignment of what is left: nobody gets a void code', async () => {
  const codes = numbers(60).map((i) => `LEFT-${i}`)
  const book = await makeBook({}, codes)
  const asks = codes.flatMap((code, i) => [
    ...(i % 2 ? [{ verb: 'void' as const, path: `coupons/void/${code}`, as: world().admin }] : []),
    assign(book, `user-${i}`),
  ])
  const came = await rush(asks)
  const given = new Set(codesOf(came))
  const { body } = await world().call('GET', `books/${book}/stats`, { as: world().admin })
  expect(body).toMatchObject({ total: 60, available: 0, assigned: 30, void: 30 })
  for (const code of codes.filter((_, i) => i % 2))
    expect((await client().show(code)).body.state, `${code}, given: ${given.has(code)}`).toBe(
      'VOID',
    )
})

test('race  of one Idempotency-Key with itself has one effect and the same answer for all', async () => {
  const book = await makeBook({}, 50)
  const ask = { ...assign(book, 'ann'), headers: { 'idempotency-key': 'once' } }
  const came = await rush(numbers(50).map(() => ask))
  expect(tally(came)).toEqual({ done: 50 })
  expect(new Set(codesOf(came)).size).toBe(1)
})

test('race  against a pause: after its answer nothing is assigned any more', async () => {
  const book = await makeBook({}, 10_000)
  const line = openRush(world(), client().history, 32)
  const came: Came[] = []
  let until = Number.POSITIVE_INFINITY
  const clients = numbers(32).map(async (i) => {
    while (performance.now() < until) came.push(await line.send(assign(book, `user-${i}`)))
  })
  await sleep(250)
  const paused = await client().change(book, { is_active: false })
  const answeredAt = performance.now()
  until = answeredAt + 150
  await Promise.all(clients)
  line.close()
  expect(paused.body.is_active).toBe(false)
  const after = came.filter(({ sentAt }) => sentAt > answeredAt)
  expect(tally(after)).toEqual({ 'book-inactive': after.length })
  expect(after.length).toBeGreaterThan(10)
  const { done, 'book-inactive': refused, ...rest } = tally(came)
  expect(rest).toEqual({})
  expect(done).toBeGreaterThan(50)
  expect(refused).toBeGreaterThanOrEqual(after.length)
})

test('race  against cut connections to Redis: what was answered stands, and nothing happens twice', async () => {
  const book = await makeBook({}, 10_000)
  const line = openRush(world(), client().history, 32)
  const came: Came[] = []
  let isOver = false
  const clients = numbers(32).map(async (i) => {
    while (!isOver) came.push(await line.send(assign(book, `user-${i}`)))
  })
  const cut = async () => {
    const list = (await world().redis.client('LIST')) as string
    const [, id] = /^id=(\d+) .*name=stampede-api /m.exec(list) ?? []
    if (id) cuts += Number(await world().redis.client('KILL', 'ID', id))
  }
  let cuts = 0
  // By what was answered rather than by the clock: a machine that is busy elsewhere takes its time.
  for (let i = 1; i <= 8; i++) {
    await until(() => (tally(came).done ?? 0) >= 20 * i, `${20 * i} answers`)
    await cut().catch(() => {}) // it has just reconnected by itself
  }
  isOver = true
  await Promise.all(clients)
  line.close()
  await world().ready()
  // Whoever was sent once more under the batch's id was answered: there may be no refusal at all.
  const { done, 'not-ready': _, 'outcome-unknown': __, ...rest } = tally(came)
  expect(rest).toEqual({})
  expect(done).toBeGreaterThan(100)
  expect(cuts).toBeGreaterThan(3)
})
