import { setTimeout as sleep } from 'node:timers/promises'
import { beforeEach, expect, test } from 'vitest'
import { auditedWorld } from './audit.ts'
import { expectProblem, ledgerOf, word } from './client.ts'

const { world, client, makeBook } = auditedWorld()
let code: string
let tests = 0
beforeEach(() => {
  code = `RELEASE-${++tests}`
})

/** A book of this policy with one code, which ann holds. */
async function held(policy: object = {}): Promise<string> {
  const book = await makeBook({ ...policy }, [code])
  await client().assignCode(code, 'ann')
  return book
}

const inStock = (code: string, book: string, state = 'UNASSIGNED') => ({
  code,
  book_id: book,
  assigned_user_id: null,
  state,
  redemption_count: 0,
  max_redemptions: 1,
  is_locked: false,
  locked_until: null,
  created_at: null,
  updated_at: null,
  has_redemptions_remaining: true,
  remaining_redemptions: 1,
})

test('release  puts a coupon back into stock, and its holder has it no longer', async () => {
  const book = await held()
  const reply = await client().release(code, { headers: { 'x-request-id': 'release-4711' } })
  const { rows } = await world().database.query('SELECT 1 FROM coupons WHERE code = $1', [code])
  expect(reply.status).toBe(200)
  expect(reply.body).toEqual(inStock(code, book))
  expect(reply.headers.get('durability')).toMatch(/^postgres; entry=/)
  expect(rows).toEqual([])
  const facts = await ledgerOf(world(), code)
  expect(facts.at(-1)).toMatchObject({
    kind: 'release',
    user_id: 'ann',
    version: 2,
    context: {
      actor: `user:${world().adminId}`,
      request_id: 'release-4711',
      address: '127.0.0.1',
    },
  })
  expectProblem(await client().redeem(code, 'ann'), 'coupon-not-found')
  const next = await client().assign(book, 'ben')
  expect(next.body.coupons[0]).toMatchObject({ code, assigned_user_id: 'ben' })
  expect((await client().redeem(code, 'ben')).status).toBe(200)
})

test('release  makes a counter book’s code void for ever, and its unit free', async () => {
  const book = await makeBook({ kind: 'counter', units: 1 })
  const { body } = await client().assign(book, 'ann')
  const [{ code }] = body.coupons
  expectProblem(await client().assign(book, 'ben'), 'sold-out', { left: 0 })
  const reply = await client().release(code)
  expect(reply.body).toEqual(inStock(code, book, 'VOID'))
  expectProblem(await client().show(code), 'coupon-not-found')
  expectProblem(await client().assignCode(code, 'ann'), 'coupon-not-found')
  expectProblem(await client().release(code), 'coupon-not-found')
  const next = await client().assign(book, 'ben')
  expect(next.status).toBe(200)
  expect(next.body.coupons[0].code).not.toBe(code)
})

test('release  frees the place of a user at the limit', async () => {
  const book = await held({ max_assignments_per_user: 1 })
  expectProblem(await client().assign(book, 'ann'), 'assignment-limit', { held: 1, limit: 1 })
  await client().release(code)
  expect((await client().assign(book, 'ann')).status).toBe(200)
})

test('release  refuses what was redeemed, wholly or in part, until that is rolled back', async () => {
  await held({ max_redemptions: 2 })
  const first = await client().redeem(code, 'ann')
  expectProblem(await client().release(code), 'coupon-in-use')
  const second = await client().redeem(code, 'ann')
  expectProblem(await client().release(code), 'coupon-redeemed')
  await client().rollback(first.body.redemption_id)
  await client().rollback(second.body.redemption_id)
  expect((await client().release(code)).status).toBe(200)
})

test('release  waits for a lock to end', async () => {
  await held()
  const { body } = await client().lock(code, 'ann', { lock_duration_seconds: 1 })
  const { locked_until } = body
  const locked = await client().release(code)
  expectProblem(locked, 'coupon-locked', { locked_until })
  expect(locked.headers.get('retry-after')).toBe('1')
  await sleep(Date.parse(locked_until) - Date.now() + 20)
  expect((await client().release(code)).status).toBe(200)
  await client().assignCode(code, 'ben')
  const { lock_token } = body
  expectProblem(await client().redeem(code, 'ben', { lock_token }), 'lock-expired')
})

test('release  finds nothing to release in stock or where there is no such code', async () => {
  await makeBook({}, [code])
  expectProblem(await client().release(code), 'coupon-not-found')
  expectProblem(await client().release('NOSUCH'), 'coupon-not-found')
})

test('release  works in an expired or inactive book and is of no use in an archived one', async () => {
  const book = await held()
  await client().change(book, { is_active: false, expiration_date: '2020-01-01T00:00:00Z' })
  expect((await client().release(code)).body.state).toBe('EXPIRED')
  await client().change(book, { is_active: true, expiration_date: null })
  await client().assignCode(code, 'ann')
  await world().call('DELETE', `books/${book}`, { as: world().admin })
  expectProblem(await client().release(code), 'book-archived')
})

test('release  is for administrators alone', async () => {
  await held()
  const ann = await world().signUp()
  expectProblem(await client().release(code, { as: ann.token }), 'forbidden')
  expectProblem(await client().release(code, { as: world().service }), 'forbidden')
  expect((await client().show(code)).body.state).toBe('ASSIGNED')
})

test('release  answers from Redis alone where request or book say so', async () => {
  await held()
  const careless = await client().release(code, { durability: 'redis' })
  expect(careless.headers.get('durability')).toMatch(/^redis; entry=/)
  code = `${code}-BOOK`
  await held({ durability: 'redis' })
  expect((await client().release(code)).headers.get('durability')).toMatch(/^redis/)
})

test('release  answers the same again for the same Idempotency-Key, and takes nothing twice', async () => {
  const book = await held()
  const first = await client().release(code, { key: 'k' })
  await client().assignCode(code, 'ben')
  const again = await client().release(code, { key: 'k' })
  expect(again.headers.get('idempotent-replayed')).toBe('true')
  expect(again.body).toEqual(first.body)
  expect((await client().show(code)).body.assigned_user_id).toBe('ben')
  await world().call('POST', `books/${book}/codes/upload`, {
    as: world().admin,
    body: { codes: [`${code}-2`] },
  })
  await client().assignCode(`${code}-2`, 'ben')
  expectProblem(await client().release(`${code}-2`, { key: 'k' }), 'idempotency-key-reused')
})

test('release  takes once what several name in one call, and counts per user', async () => {
  const codes = [`${code}-1`, `${code}-2`, `${code}-3`]
  const book = await makeBook({}, codes)
  for (const [i, user] of ['ann', 'ann', 'ben'].entries())
    await client().assignCode(codes[i]!, user)
  const outcomes = await client().together('release', book, [
    { code: codes[0]! },
    { code: codes[0]! },
    { code: codes[1]! },
    { code: codes[2]! },
  ])
  expect(outcomes.map(word)).toEqual(['done', 'coupon-not-found', 'done', 'done'])
})

test('release  does once what came twice in one call under the same Idempotency-Key', async () => {
  const book = await held()
  const ask = { code, key: 'a', hash: 'same' }
  const outcomes = await client().together('release', book, [ask, ask, { ...ask, hash: 'other' }])
  expect(outcomes.map(word)).toEqual(['done', 'again', 'idempotency-key-reused'])
  expect(outcomes[1]).toEqual({ ...outcomes[0], replayed: true })
})
