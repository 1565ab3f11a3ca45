import { setTimeout as sleep } from 'node:timers/promises'
import { beforeEach, describe, expect, test } from 'vitest'
import { warmBook } from '../src/ops/books.ts'
import { booksLook } from '../src/ops/reconcile/books.ts'
import { codesLook } from '../src/ops/reconcile/codes.ts'
import { usersLook } from '../src/ops/reconcile/counters.ts'
import { reconcile } from '../src/ops/reconcile/reconcile.ts'
import { Ripples } from '../src/ops/reconcile/report.ts'
import type { Run } from '../src/ops/reconcile/settle.ts'
import { replay } from '../src/ops/replay.ts'
import { type Pusher, pushCodes, pushOnce } from '../src/recovery/push.ts'
import { keys } from '../src/store/keys.ts'
import { auditedWorld } from './audit.ts'
import { expectProblem, ledgerOf, placeOf, word } from './client.ts'
import { until } from './world.ts'

const { world, client, makeBook } = auditedWorld({ shards: 1 })
let code: string
let tests = 0
beforeEach(() => {
  code = `VOID-${++tests}`
})

/** A book of this policy with one code, which ann holds. */
async function held(policy: object = {}): Promise<string> {
  const book = await makeBook({ ...policy }, [code])
  await client().assignCode(code, 'ann')
  return book
}

const gone = (code: string, book: string, max = 1) => ({
  code,
  book_id: book,
  assigned_user_id: null,
  state: 'VOID',
  redemption_count: 0,
  max_redemptions: max,
  is_locked: false,
  locked_until: null,
  created_at: null,
  updated_at: null,
  has_redemptions_remaining: true,
  remaining_redemptions: max,
})
const stats = async (book: string) =>
  (await world().call('GET', `books/${book}/stats`, { as: world().admin })).body
const listed = async (book: string, state: string) => {
  const path = `books/${book}/coupons?state=${state}`
  const { body } = await world().call('GET', path, { as: world().admin })
  return body.data.map((coupon: { code: string }) => coupon.code)
}
const holdings = async (user: string) =>
  (await world().call('GET', `users/${user}/coupons`, { as: world().service })).body.total_count
const inStock = (book: string) => world().redis.smembers(keys.stock(0, book))
const row = async (code: string) =>
  (await world().database.query('SELECT * FROM coupons WHERE code = $1', [code])).rows[0]
const ops = () => ({ redis: world().redis, database: world().database })
const pusher = (): Pusher => ({ database: world().database, store: world().house.deps.store })

describe('void', () => {
  test('takes a code out of stock, and nobody can get it any more', async () => {
    const book = await makeBook({}, [code])
    const reply = await client().void(code, { headers: { 'x-request-id': 'void-4711' } })
    expect(reply.status).toBe(200)
    expect(reply.body).toEqual(gone(code, book))
    expect(reply.headers.get('durability')).toMatch(/^postgres; entry=/)
    const facts = await ledgerOf(world(), code)
    expect(facts).toMatchObject([
      {
        ...{ kind: 'void', user_id: '', version: 1 },
        context: {
          ...{ actor: `user:${world().adminId}`, request_id: 'void-4711', address: '127.0.0.1' },
        },
      },
    ])
    expect(await row(code)).toMatchObject({ user_id: '', version: 1, book_id: book })
    expect((await client().show(code)).body).toEqual(gone(code, book))
    expectProblem(await client().assign(book, 'ben'), 'sold-out', { left: 0 })
    expectProblem(await client().assignCode(code, 'ben'), 'coupon-not-found')
    expect(await stats(book)).toMatchObject({ total: 1, available: 0, assigned: 0, void: 1 })
  })

  test('takes a coupon from its holder, whose place at the limit is free again', async () => {
    const ann = await world().signUp()
    const book = await makeBook({ max_assignments_per_user: 1, max_redemptions: 3 }, [code])
    await client().assignCode(code, ann.id)
    const { body } = await client().void(code)
    expect(body).toEqual(gone(code, book, 3))
    expect((await ledgerOf(world(), code)).at(-1)).toMatchObject({
      ...{ kind: 'void', user_id: ann.id, version: 2 },
    })
    expect(await row(code)).toMatchObject({ user_id: '', version: 2, lock_token: null })
    expect(await holdings(ann.id)).toBe(0)
    for (const verb of ['lock', 'unlock', 'redeem'] as const)
      expectProblem(await client()[verb](code, ann.id), 'coupon-not-found')
    expectProblem(await client().show(code, ann.token), 'coupon-not-found')
    expect((await client().show(code, world().service)).body.state).toBe('VOID')
    expect(await stats(book)).toMatchObject({ total: 1, assigned: 0, users: 0, void: 1 })
    await world().call('POST', `books/${book}/codes/upload`, {
      ...{ as: world().admin, body: { codes: [`${code}-2`] } },
    })
    expect((await client().assign(book, ann.id)).body.coupons[0].code).toBe(`${code}-2`)
  })

  test('ends a unit of a counter book with its code, unlike release', async () => {
    const book = await makeBook({ kind: 'counter', units: 1 })
    const [{ code: made }] = (await client().assign(book, 'ann')).body.coupons
    expect((await client().void(made)).body).toEqual(gone(made, book))
    expectProblem(await client().assign(book, 'ben'), 'sold-out', { left: 0 })
    expect((await client().show(made)).body).toEqual(gone(made, book))
    expect(await stats(book)).toMatchObject({ total: 1, available: 0, assigned: 0, void: 1 })
    expect(await listed(book, 'VOID')).toEqual([made])
    expect(await listed(book, 'ASSIGNED')).toEqual([])
    await world().call('POST', `books/${book}/units`, { as: world().admin, body: { count: 1 } })
    expect((await client().assign(book, 'ben')).status).toBe(200)
    expect(await stats(book)).toMatchObject({ total: 2, available: 0, assigned: 1, void: 1 })
    // A code that release gave back is no code any more; one that was never made is none.
    const [{ code: back }] = (await client().assign(await unitBook(), 'ann')).body.coupons
    await client().release(back)
    expectProblem(await client().void(back), 'coupon-not-found')
    expectProblem(await client().void(`${made.slice(0, 7)}${'0'.repeat(16)}`), 'coupon-not-found')
  })
  const unitBook = () => makeBook({ kind: 'counter', units: 1 })

  test('is final: neither void nor release nor rollback does anything to it', async () => {
    await held()
    const { body } = await client().redeem(code, 'ann')
    await client().rollback(body.redemption_id)
    await client().void(code)
    expectProblem(await client().void(code), 'coupon-void')
    expectProblem(await client().void(code, { key: 'another' }), 'coupon-void')
    expectProblem(await client().release(code), 'coupon-void')
    expectProblem(await client().rollback(body.redemption_id), 'already-rolled-back')
    expect(await row(code)).toMatchObject({ user_id: '', version: 4 })
  })

  test('refuses what was redeemed, wholly or in part, until that is rolled back', async () => {
    await held({ max_redemptions: 2 })
    const first = await client().redeem(code, 'ann')
    expectProblem(await client().void(code), 'coupon-in-use')
    const second = await client().redeem(code, 'ann')
    expectProblem(await client().void(code), 'coupon-redeemed')
    await client().rollback(first.body.redemption_id)
    await client().rollback(second.body.redemption_id)
    expect((await client().void(code)).status).toBe(200)
  })

  test('waits for a lock to end', async () => {
    await held()
    const { body } = await client().lock(code, 'ann', { lock_duration_seconds: 1 })
    const { locked_until, lock_token } = body
    expectProblem(await client().void(code), 'coupon-locked', { locked_until })
    await sleep(Date.parse(locked_until) - Date.now() + 20)
    expect((await client().void(code)).status).toBe(200)
    expectProblem(await client().redeem(code, 'ann', { lock_token }), 'coupon-not-found')
    expectProblem(await client().lock(code, 'ann', { lock_token }), 'coupon-not-found')
  })

  test('works in an expired or inactive book and is of no use in an archived one', async () => {
    const codes = [code, `${code}-2`, `${code}-3`]
    const book = await makeBook({}, codes)
    await client().assignCode(code, 'ann')
    await client().change(book, { is_active: false, expiration_date: '2020-01-01T00:00:00Z' })
    expect((await client().void(code)).body.state).toBe('VOID')
    expect((await client().void(codes[1]!)).body.state).toBe('VOID')
    expect(await stats(book)).toMatchObject({ total: 3, expired: 1, void: 2 })
    expect(await listed(book, 'EXPIRED')).toEqual([codes[2]])
    expect(await listed(book, 'VOID')).toEqual(codes.slice(0, 2))
    await world().call('DELETE', `books/${book}`, { as: world().admin })
    expectProblem(await client().void(codes[2]!), 'book-archived')
    expectProblem(await client().void(code), 'book-archived')
  })

  test('is for administrators alone, and of codes that there are', async () => {
    await held()
    const ann = await world().signUp()
    expectProblem(await client().void(code, { as: ann.token }), 'forbidden')
    expectProblem(await client().void(code, { as: world().service }), 'forbidden')
    expect((await client().show(code)).body.state).toBe('ASSIGNED')
    expectProblem(await client().void('NOSUCH'), 'coupon-not-found')
    expectProblem(await client().void(code, { reason: 'x' }), 'invalid-request')
  })

  test('answers from Redis alone where request or book say so', async () => {
    await held()
    const careless = await client().void(code, { durability: 'redis' })
    expect(careless.headers.get('durability')).toMatch(/^redis; entry=/)
    code = `${code}-BOOK`
    await held({ durability: 'redis' })
    expect((await client().void(code)).headers.get('durability')).toMatch(/^redis/)
  })

  test('answers the same again for the same Idempotency-Key', async () => {
    const book = await held()
    const first = await client().void(code, { key: 'k' })
    const again = await client().void(code, { key: 'k' })
    expect(again.headers.get('idempotent-replayed')).toBe('true')
    expect([again.status, again.body]).toEqual([200, first.body])
    await world().call('POST', `books/${book}/codes/upload`, {
      ...{ as: world().admin, body: { codes: [`${code}-2`] } },
    })
    expectProblem(await client().void(`${code}-2`, { key: 'k' }), 'idempotency-key-reused')
    expect(await stats(book)).toMatchObject({ total: 2, available: 1, void: 1 })
  })

  test('takes once what several name in one call, from stock and from each user', async () => {
    const codes = [1, 2, 3, 4, 5].map((n) => `${code}-${n}`)
    const book = await makeBook({ max_redemptions: 2 }, codes)
    for (const [i, user] of ['ann', 'ann', 'ben', 'ann'].entries())
      await client().assignCode(codes[i]!, user)
    const asked = [codes[0], codes[0], codes[1], codes[4], codes[2], codes[4]]
    const outcomes = await client().together(
      ...['void' as const, book],
      asked.map((one) => ({ code: one! })),
    )
    const twice = 'coupon-void'
    expect(outcomes.map(word)).toEqual(['done', twice, 'done', 'done', 'done', twice])
    expect(await stats(book)).toMatchObject({ total: 5, available: 0, assigned: 1, users: 1 })
  })

  test('does once what came twice in one call under the same Idempotency-Key', async () => {
    const book = await held()
    const ask = { code, key: 'a', hash: 'same' }
    const outcomes = await client().together('void', book, [ask, ask, { ...ask, hash: 'other' }])
    expect(outcomes.map(word)).toEqual(['done', 'again', 'idempotency-key-reused'])
    expect(outcomes[1]).toEqual({ ...outcomes[0], replayed: true })
  })

  test('counts a code’s own limit, in stock and afterwards', async () => {
    const book = await makeBook({}, [`${code}-2`])
    const upload = { codes: [code], max_redemptions: 7 }
    await world().call('POST', `books/${book}/codes/upload`, { as: world().admin, body: upload })
    expect((await client().void(code)).body).toEqual(gone(code, book, 7))
    expect((await client().show(code)).body).toEqual(gone(code, book, 7))
    expect(await row(code)).toMatchObject({ max_redemptions: 7 })
  })
})

test('void  is no difference to a comparison that saw Redis before it and PostgreSQL after it', async () => {
  const codes = [code, `${code}-2`]
  const book = await makeBook({}, codes)
  await client().assignCode(code, 'ann')
  await world().level()
  const its = await world().house.deps.books.get(book)
  if ('problem' in its) throw new Error(its.problem)
  const walked = new Map([[book, { codes: 2, records: 1 }]])
  const run = { ...ops(), exact: false, ripples: new Ripples(), walked } as unknown as Run
  const at = { shard: 0, book }
  const looks = [
    [booksLook(run), { ...at, its }],
    [usersLook(run), { ...at, user: 'ann' }],
    ...codes.map((one) => [codesLook(run), { ...at, code: one, digested: true }] as const),
  ] as const
  const seen = await Promise.all(looks.map(([look, item]) => look.see([item as never])))
  for (const one of codes) await client().void(one)
  await world().level()
  for (const [l, [look, item]] of looks.entries()) {
    const [before] = await look.judge([item as never], seen[l] as never, seen[l]!.at)
    expect(before).toMatchObject({ equal: true, differences: [] })
    const [after] = await look.judge([item as never], seen[l] as never, { epoch: 9, n: 0 })
    expect(after, 'as PostgreSQL is now').toMatchObject({ equal: false })
  }
})

describe('what is void stays void', () => {
  /** Three codes: one void from stock, one void from ann, one in stock; and a unit that is void. */
  async function voided() {
    const codes = [`${code}-STOCK`, `${code}-ANN`, `${code}-LEFT`]
    const book = await makeBook({}, codes)
    await client().assignCode(codes[1]!, 'ann')
    const first = await client().void(codes[0]!, { key: 'stock' })
    await client().void(codes[1]!, { key: 'ann' })
    const units = await makeBook({ kind: 'counter', units: 3 })
    const [{ code: unit }] = (await client().assign(units, 'ann')).body.coupons
    await client().void(unit)
    return { book, codes, units, unit, first }
  }
  /** Everybody's word on it: Redis, PostgreSQL, the API. */
  async function expectVoid({ book, codes, units, unit }: Awaited<ReturnType<typeof voided>>) {
    for (const one of [codes[0]!, codes[1]!, unit]) {
      expect([one, (await client().show(one)).body.state]).toEqual([one, 'VOID'])
      expectProblem(await client().assignCode(one, 'eve'), 'coupon-not-found')
      expectProblem(await client().redeem(one, 'ann'), 'coupon-not-found')
      expectProblem(await client().void(one), 'coupon-void')
      expectProblem(await client().release(one), 'coupon-void')
      expect(await row(one)).toMatchObject({ user_id: '' })
    }
    expect(await inStock(book)).toEqual([codes[2]])
    expect(await stats(book)).toMatchObject({ total: 3, available: 1, assigned: 0, void: 2 })
    expect(await stats(units)).toMatchObject({ total: 3, available: 2, assigned: 0, void: 1 })
    await world().level()
    const found = await reconcile(ops(), { exact: true })
    expect(found.differences).toEqual([])
    const its = found.books.find(({ book_id }) => book_id === book)!
    expect(its).toMatchObject({ codes: 3, coupons: 0, digest_redis: its.digest_postgres })
  }
  const epoch = async () => Number(await world().redis.hget(keys.meta(0), 'epoch'))
  /** Somebody has to notice that Redis lost something: whoever asks for this code does. */
  const serves = (code: string) =>
    until(async () => (await client().show(code)).status === 200, 'the shard serves')
  const recovered = async (after: number, code: string) => {
    await client().show(code)
    await until(async () => (await epoch()) > after, 'the shard was recovered')
    await serves(code)
  }

  test('when Redis lost everything, and so does the answer under its key', async () => {
    const those = await voided()
    await world().level()
    const hash = (book: string) => world().redis.hgetall(keys.book(0, book))
    const before = [await hash(those.book), await hash(those.units)]
    const record = await world().redis.hget(keys.coupons(0), those.unit)
    const old = await epoch()
    await world().redis.flushall()
    await recovered(old, those.codes[0]!)
    await expectVoid(those)
    expect(await world().redis.hget(keys.coupons(0), those.unit)).toBe(record)
    const { overrides: _, ...now } = await hash(those.book)
    expect(now).toEqual(before[0])
    const { overrides: __, ...units } = await hash(those.units)
    expect(units).toEqual(before[1])
    const again = await client().void(those.codes[0]!, { key: 'stock' })
    expect(again.headers.get('idempotent-replayed')).toBe('true')
    expect(again.body).toEqual(those.first.body)
  })

  test('when the flush had not come to it before Redis lost its records', async () => {
    await world().stopWorker()
    const codes = [code, `${code}-2`]
    const book = await makeBook({ durability: 'redis' }, codes)
    await client().assignCode(codes[1]!, 'ann')
    for (const one of codes) expect((await client().void(one)).status).toBe(200)
    const old = await epoch()
    await world().redis.del(keys.coupons(0)) // the journal is whole, the records are gone
    await world().startWorker()
    await recovered(old, code)
    for (const one of codes) expect((await client().show(one)).body.state).toBe('VOID')
    expect(await inStock(book)).toEqual([])
  })

  test('when its load is pushed again, by whoever', async () => {
    const those = await voided()
    const { book, codes } = those
    const { database } = world()
    await world().stopWorker()
    // Killed between the push and its mark: the sweep of another worker pushes the load again.
    await database.query("UPDATE loads SET state = 'written' WHERE book_id = $1", [book])
    expect(await pushOnce(pusher())).toBe(1)
    expect(await inStock(book)).toEqual([codes[2]])
    // Whoever read the codes before one of them was void.
    const place = await placeOf(world(), book)
    const its = { shard: place.shard, book_id: book }
    expect(await pushCodes(pusher(), its, codes, null)).toEqual({ ok: true })
    const { rows } = await database.query('SELECT state FROM loads WHERE book_id = $1', [book])
    expect(rows).toEqual([{ state: 'pushed' }])
    await world().startWorker()
    await expectVoid(those)
  })

  test('when its load was pushed in part; until then it is refused, and nothing is done', async () => {
    await world().stopWorker()
    const codes = [code, `${code}-2`]
    const book = await makeBook({}, codes)
    const { redis, database } = world()
    // As if whoever pushes had died between the two.
    await redis.srem(keys.stock(0, book), code)
    await redis.hincrby(keys.book(0, book), 'left', -1)
    await database.query("UPDATE loads SET state = 'written' WHERE book_id = $1", [book])
    const n = await redis.hget(keys.meta(0), 'n')
    const early = await client().void(code, { durability: 'redis' })
    expectProblem(early, 'not-ready')
    expect(early.headers.get('retry-after')).toBe('1')
    expect(await redis.hget(keys.meta(0), 'n')).toBe(n)
    expect((await client().void(codes[1]!, { durability: 'redis' })).status).toBe(200)
    expect(await pushOnce(pusher())).toBe(1)
    expect(await inStock(book)).toEqual([code])
    expect((await client().void(code, { durability: 'redis' })).status).toBe(200)
    await database.query("UPDATE loads SET state = 'written' WHERE book_id = $1", [book])
    expect(await pushOnce(pusher())).toBe(1)
    expect(await inStock(book)).toEqual([])
    await world().startWorker()
  })

  test('when a worker looks whether Redis has all codes: it counts them, and pushes nothing', async () => {
    const those = await voided()
    const { redis, database } = world()
    await world().level()
    await redis.script('FLUSH')
    await client().show(those.codes[0]!)
    await serves(those.codes[0]!)
    const loads = 'SELECT DISTINCT state FROM loads WHERE book_id = ANY ($1)'
    const { rows } = await database.query(loads, [[those.book, those.units]])
    expect(rows).toEqual([{ state: 'pushed' }])
    expect(await warmBook(ops(), those.book)).toMatchObject({ ready: true, left: 1 })
    await expectVoid(those)
  })

  test('when its facts are brought into the ledger again', async () => {
    const those = await voided()
    await world().level()
    const { database } = world()
    const [stock, ann] = those.codes
    await database.query("DELETE FROM ledger WHERE code = $1 AND kind = 'void'", [stock])
    await database.query("DELETE FROM ledger WHERE code = $1 AND kind = 'assign'", [ann])
    const [back] = await replay(ops(), { by: { actor: 'test', reason: 'a test' } })
    expect(back).toMatchObject({ applied: 2, refused: 0 })
    await expectVoid(those)
  })

  test('when much happened to it between two flushes', async () => {
    await world().stopWorker()
    const codes = [1, 2, 3].map((n) => `${code}-${n}`)
    const [fresh, back, once] = codes as [string, string, string]
    const book = await makeBook({ durability: 'redis' }, codes)
    await client().assignCode(fresh, 'ann')
    await client().void(fresh)
    await client().assignCode(once, 'ann')
    await world().startWorker()
    await world().level()
    await world().stopWorker()
    await client().assignCode(back, 'ann')
    await client().release(back)
    await client().void(back)
    await client().release(once)
    await client().void(once)
    await world().startWorker()
    await world().level()
    for (const one of codes) expect(await row(one)).toMatchObject({ user_id: '' })
    expect(await stats(book)).toMatchObject({ total: 3, available: 0, assigned: 0, void: 3 })
  })

  test('and an upload cannot bring it again', async () => {
    const { book, codes, unit } = await voided()
    const upload = (code: string) =>
      world().call('POST', `books/${book}/codes/upload`, {
        ...{ as: world().admin, body: { codes: [code] } },
      })
    expectProblem(await upload(codes[0]!), 'codes-exist')
    expectProblem(await upload(codes[1]!), 'codes-exist')
    expectProblem(await upload(unit), 'invalid-request')
  })
})
