import { setTimeout as sleep } from 'node:timers/promises'
import { beforeEach, expect, test } from 'vitest'
import { keys } from '../src/store/keys.ts'
import { auditedWorld } from './audit.ts'
import { assigned, expectProblem, ledgerOf, placeOf, word } from './client.ts'

const { world, client, makeBook } = auditedWorld()
const past = '2020-01-01T00:00:00.000Z'
let book: string
let code: string
let tests = 0

/** Each test has a book of its own, with a coupon that ann holds and one that nobody has. */
beforeEach(async () => {
  code = `LOCK-${++tests}`
  book = await makeBook({}, [code, `${code}-FREE`])
  await client().assignCode(code, 'ann')
})

test('lock  keeps a coupon for the book’s 300 seconds, and the ledger gets token and deadline', async () => {
  const before = Date.now()
  const reply = await client().lock(code, 'ann', { headers: { 'x-request-id': 'lock-4711' } })
  expect(reply.status).toBe(200)
  const { lock_token, locked_until } = reply.body
  expect(reply.body).toEqual({
    ...assigned(code, book, 'ann'),
    state: 'LOCKED',
    is_locked: true,
    locked_until: expect.any(String),
    lock_token: expect.stringMatching(/^[\w-]{22}$/),
  })
  expect(Date.parse(locked_until)).toBeGreaterThanOrEqual(before + 300_000)
  expect(Date.parse(locked_until)).toBeLessThanOrEqual(Date.now() + 300_000)
  expect(reply.headers.get('durability')).toMatch(/^redis; entry=/)
  const [, fact] = await ledgerOf(world(), code)
  expect(fact).toMatchObject({ kind: 'lock', user_id: 'ann', version: 2, lock_token })
  expect(fact.locked_until.toISOString()).toBe(locked_until)
  expect(fact.context).toMatchObject({
    actor: expect.stringMatching(/^key:/),
    request_id: 'lock-4711',
    address: '127.0.0.1',
  })
})

test('lock  lasts as long as the request says, else as the book says now', async () => {
  const lasts = async (options = {}) => {
    const { body } = await client().lock(code, 'ann', options)
    await client().unlock(code, 'ann')
    return Math.round((Date.parse(body.locked_until) - Date.parse(body.updated_at)) / 1000)
  }
  expect(await lasts()).toBe(300)
  expect(await lasts({ lock_duration_seconds: 3_600 })).toBe(3_600)
  await client().change(book, { lock_seconds: 7 })
  expect(await lasts()).toBe(7)
  for (const lock_duration_seconds of [0, 3_601, 1.5, '60'])
    expectProblem(await client().lock(code, 'ann', { lock_duration_seconds }), 'invalid-request')
})

test('lock  lets nobody in who has another token or none, the holder included', async () => {
  const { body } = await client().lock(code, 'ann')
  const { locked_until } = body
  const second = await client().lock(code, 'ann')
  expectProblem(second, 'coupon-locked', { locked_until })
  const wait = Number(second.headers.get('retry-after'))
  expect(wait).toBeGreaterThan(290)
  expect(wait).toBeLessThanOrEqual(300)
  const wrong = await client().lock(code, 'ann', { lock_token: 'another' })
  expectProblem(wrong, 'coupon-locked', { locked_until })
})

test('lock  is extended by its own token, and keeps it', async () => {
  const first = await client().lock(code, 'ann', { lock_duration_seconds: 10 })
  const { lock_token } = first.body
  const longer = await client().lock(code, 'ann', { lock_token, lock_duration_seconds: 100 })
  expect(longer.body.lock_token).toBe(lock_token)
  const gained = Date.parse(longer.body.locked_until) - Date.parse(first.body.locked_until)
  expect(gained).toBeGreaterThanOrEqual(90_000)
  expect(gained).toBeLessThan(91_000)
  expect((await ledgerOf(world(), code)).map((fact) => fact.version)).toEqual([1, 2, 3])
})

test('lock  ends by time, without anything having to run; then a new one may begin', async () => {
  const { body } = await client().lock(code, 'ann', { lock_duration_seconds: 1 })
  await sleep(Date.parse(body.locked_until) - Date.now() - 300)
  expect((await client().show(code)).body.state).toBe('LOCKED')
  expectProblem(await client().lock(code, 'ann'), 'coupon-locked')
  await sleep(Date.parse(body.locked_until) - Date.now() + 20)
  const shown = await client().show(code)
  expect(shown.body).toMatchObject({ state: 'ASSIGNED', is_locked: false, locked_until: null })
  const late = await client().lock(code, 'ann', { lock_token: body.lock_token })
  expectProblem(late, 'lock-expired')
  const fresh = await client().lock(code, 'ann')
  expect(fresh.status).toBe(200)
  expect(fresh.body.lock_token).not.toBe(body.lock_token)
  const old = await client().lock(code, 'ann', { lock_token: body.lock_token })
  expectProblem(old, 'coupon-locked')
})

test('lock  needs a lock for a token to belong to', async () => {
  expectProblem(await client().lock(code, 'ann', { lock_token: 'invented' }), 'lock-expired')
  const malformed = await client().lock(code, 'ann', { lock_token: 'a b' })
  expectProblem(malformed, 'invalid-request', { errors: [{ path: 'lock_token' }] })
})

test('lock  answers alike for a stranger’s coupon, one in stock and one there never was', async () => {
  const blank = { request_id: '', instance: '' }
  const replies = [
    await client().lock(code, 'ben'),
    await client().lock(`${code}-FREE`, 'ben'),
    await client().lock('NOSUCH', 'ben'),
  ]
  for (const reply of replies) expectProblem(reply, 'coupon-not-found')
  const bodies = replies.map(({ body }) => JSON.stringify({ ...body, ...blank }))
  expect(new Set(bodies).size).toBe(1)
})

test('lock  is of no use to a redeemed coupon, an expired book or an archived one', async () => {
  await client().assignCode(`${code}-FREE`, 'ann')
  await client().redeem(code, 'ann')
  expectProblem(await client().lock(code, 'ann'), 'coupon-redeemed')
  await client().change(book, { expiration_date: past })
  const expired = await client().lock(`${code}-FREE`, 'ann')
  expectProblem(expired, 'book-expired', { expiration_date: past })
  await world().call('DELETE', `books/${book}`, { as: world().admin })
  expectProblem(await client().lock(code, 'ann'), 'book-archived')
})

test('lock  works where the book is inactive: holders keep their rights', async () => {
  await client().change(book, { is_active: false })
  expect((await client().lock(code, 'ann')).status).toBe(200)
})

test('lock  is for users themselves, who need no body', async () => {
  const ben = await world().signUp()
  await client().assignCode(`${code}-FREE`, ben.id)
  const own = await client().lock(`${code}-FREE`, undefined, { as: ben.token, bare: true })
  expect(own.body).toMatchObject({ state: 'LOCKED', assigned_user_id: ben.id })
  expectProblem(await client().lock(code, undefined, { as: ben.token }), 'coupon-not-found')
  expectProblem(await client().lock(code, 'ann', { as: ben.token }), 'forbidden')
  const nobody = await client().lock(code, undefined)
  expectProblem(nobody, 'invalid-request', { errors: [{ path: 'user_id' }] })
})

test('lock  waits for the ledger if the request asks for it', async () => {
  const reply = await client().lock(code, 'ann', { durability: 'postgres' })
  const { rows } = await world().database.query('SELECT lock_token FROM coupons WHERE code = $1', [
    code,
  ])
  expect(rows).toEqual([{ lock_token: reply.body.lock_token }])
  expect(reply.headers.get('durability')).toMatch(/^postgres; entry=/)
})

test('lock  answers with the same token again for the same Idempotency-Key', async () => {
  const first = await client().lock(code, 'ann', { key: 'k' })
  const again = await client().lock(code, 'ann', { key: 'k' })
  expect(again.headers.get('idempotent-replayed')).toBe('true')
  expect(again.body).toEqual(first.body)
  const other = await client().lock(code, 'ann', { key: 'k', lock_duration_seconds: 5 })
  expectProblem(other, 'idempotency-key-reused')
  await client().unlock(code, 'ann')
  const later = await client().lock(code, 'ann', { key: 'k' })
  expect(later.body).toEqual(first.body)
  expect((await client().show(code)).body.state).toBe('ASSIGNED')
})

const ask = (user: string, fresh: string, token = '') => ({ code, user, token, fresh, ttl_ms: '' })

test('lock  goes to the first of several that come in one call', async () => {
  const outcomes = await client().together('lock', book, [
    ask('ben', 'zero'),
    ask('ann', 'one'),
    ask('ann', 'two'),
    ask('ann', 'three', 'guess'),
  ])
  expect(outcomes.map(word)).toEqual(['coupon-not-found', 'done', 'coupon-locked', 'coupon-locked'])
  const { redis } = world()
  const guards = await redis.keys(`*:lock:${code}`)
  expect(await redis.get(guards[0]!)).toBe('one')
})

test('lock  that begins and is extended in one call has its guard, too', async () => {
  const outcomes = await client().together('lock', book, [
    ask('ann', 'one'),
    { ...ask('ann', 'two', 'one'), ttl_ms: '60000' },
  ])
  expect(outcomes.map(word)).toEqual(['done', 'done'])
  expect(outcomes[1]).toMatchObject({ value: { lockToken: 'one', version: 3 } })
})

test('lock  and redeem of one tick are two calls, and one of them wins', async () => {
  const redeem = { code, user: 'ann', token: '', redemption: crypto.randomUUID() }
  const [[locked], [redeemed]] = await Promise.all([
    client().together('lock', book, [ask('ann', 'one')]),
    client().together('redeem', book, [redeem]),
  ])
  const words = [word(locked!), word(redeemed!)]
  const [lockFirst, redeemFirst] = [
    ['done', 'coupon-locked'],
    ['coupon-redeemed', 'done'],
  ]
  expect([lockFirst, redeemFirst]).toContainEqual(words)
})

test('lock  goes by the guard as well: while one stands that no record tells of, nobody locks', async () => {
  const { shard } = await placeOf(world(), book)
  const guard = keys.lock(shard, code)
  await world().redis.set(guard, 'of another', 'PX', 60_000)
  const reply = await client().lock(code, 'ann')
  expectProblem(reply, 'coupon-locked')
  const left = Date.parse(reply.body.locked_until) - Date.now()
  expect(left).toBeGreaterThan(55_000)
  expect(left).toBeLessThanOrEqual(60_000)
  await world().redis.del(guard)
  expect((await client().lock(code, 'ann')).status).toBe(200)
})

test('lock  does once what came twice in one call under the same Idempotency-Key', async () => {
  const outcomes = await client().together('lock', book, [
    { ...ask('ann', 'one'), key: 'a', hash: 'same' },
    { ...ask('ann', 'two'), key: 'a', hash: 'same' },
    { ...ask('ann', 'three'), key: 'a', hash: 'other' },
  ])
  expect(outcomes.map(word)).toEqual(['done', 'again', 'idempotency-key-reused'])
  expect(outcomes[1]).toEqual({ ...outcomes[0], replayed: true })
})
