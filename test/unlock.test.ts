import { setTimeout as sleep } from 'node:timers/promises'
import { beforeEach, expect, test } from 'vitest'
import { auditedWorld } from './audit.ts'
import { assigned, expectProblem, ledgerOf, word } from './client.ts'

const { world, client, makeBook } = auditedWorld()
let book: string
let code: string
let tests = 0

/** Each test has a coupon that ann holds and has locked, and one that nobody has. */
beforeEach(async () => {
  code = `UNLOCK-${++tests}`
  book = await makeBook({}, [code, `${code}-FREE`])
  await client().assignCode(code, 'ann')
  await client().lock(code, 'ann')
})

test('unlock  ends a lock at once, without its token, and the ledger has it', async () => {
  const reply = await client().unlock(code, 'ann', { headers: { 'x-request-id': 'un-4711' } })
  expect(reply.status).toBe(200)
  expect(reply.body).toEqual(assigned(code, book, 'ann'))
  expect(reply.headers.get('durability')).toMatch(/^redis; entry=/)
  expect((await client().redeem(code, 'ann')).status).toBe(200)
  const facts = await ledgerOf(world(), code)
  expect(facts.map(({ kind, version }) => `${kind} ${version}`)).toEqual([
    'assign 1',
    'lock 2',
    'unlock 3',
    'redeem 4',
  ])
  expect(facts[2]).toMatchObject({
    user_id: 'ann',
    lock_token: null,
    locked_until: null,
    context: { request_id: 'un-4711', address: '127.0.0.1', actor: expect.stringMatching(/^key:/) },
  })
})

test('unlock  ends the token’s power with the lock', async () => {
  await client().unlock(code, 'ann')
  const { body } = await client().lock(code, 'ann')
  await client().unlock(code, 'ann')
  const { lock_token } = body
  expectProblem(await client().lock(code, 'ann', { lock_token }), 'lock-expired')
  expectProblem(await client().redeem(code, 'ann', { lock_token }), 'lock-expired')
})

test('unlock  answers with the coupon as it is where there is no lock, and writes nothing', async () => {
  const first = await client().unlock(code, 'ann')
  const second = await client().unlock(code, 'ann')
  expect(second.status).toBe(200)
  expect(second.body).toEqual(first.body)
  expect(second.headers.get('durability')).toBe('redis')
  const careful = await client().unlock(code, 'ann', { durability: 'postgres' })
  expect(careful.headers.get('durability')).toBe('postgres')
  expect(await ledgerOf(world(), code)).toHaveLength(3)
})

test('unlock  has nothing to end once the lock is over by time', async () => {
  await client().unlock(code, 'ann')
  await client().lock(code, 'ann', { lock_duration_seconds: 1 })
  await sleep(1_020)
  const reply = await client().unlock(code, 'ann')
  expect(reply.body).toMatchObject({ state: 'ASSIGNED', is_locked: false, locked_until: null })
  expect(reply.headers.get('durability')).toBe('redis')
})

test('unlock  answers alike for a stranger’s coupon, one in stock and one there never was', async () => {
  const blank = { request_id: '', instance: '' }
  const replies = [
    await client().unlock(code, 'ben'),
    await client().unlock(`${code}-FREE`, 'ben'),
    await client().unlock('NOSUCH', 'ben'),
  ]
  for (const reply of replies) expectProblem(reply, 'coupon-not-found')
  const bodies = replies.map(({ body }) => JSON.stringify({ ...body, ...blank }))
  expect(new Set(bodies).size).toBe(1)
})

test('unlock  refuses a redeemed coupon and an archived book', async () => {
  await client().unlock(code, 'ann')
  await client().redeem(code, 'ann')
  expectProblem(await client().unlock(code, 'ann'), 'coupon-redeemed')
  await world().call('DELETE', `books/${book}`, { as: world().admin })
  expectProblem(await client().unlock(code, 'ann'), 'book-archived')
})

test('unlock  works where the book is inactive or expired: it takes nothing from anybody', async () => {
  await client().change(book, { is_active: false, expiration_date: '2020-01-01T00:00:00Z' })
  const reply = await client().unlock(code, 'ann')
  expect(reply.status).toBe(200)
  expect(reply.body.state).toBe('EXPIRED')
  expect(reply.headers.get('durability')).toMatch(/entry=/)
})

test('unlock  is for users themselves, who need no body', async () => {
  const ben = await world().signUp()
  await client().assignCode(`${code}-FREE`, ben.id)
  await client().lock(`${code}-FREE`, ben.id)
  const own = await client().unlock(`${code}-FREE`, undefined, { as: ben.token, bare: true })
  expect(own.body).toMatchObject({ state: 'ASSIGNED', assigned_user_id: ben.id })
  expectProblem(await client().unlock(code, undefined, { as: ben.token }), 'coupon-not-found')
  expectProblem(await client().unlock(code, 'ann', { as: ben.token }), 'forbidden')
  const nobody = await client().unlock(code, undefined)
  expectProblem(nobody, 'invalid-request', { errors: [{ path: 'user_id' }] })
})

test('unlock  waits for the ledger if the request asks for it', async () => {
  const reply = await client().unlock(code, 'ann', { durability: 'postgres' })
  const { rows } = await world().database.query('SELECT lock_token FROM coupons WHERE code = $1', [
    code,
  ])
  expect(rows).toEqual([{ lock_token: null }])
  expect(reply.headers.get('durability')).toMatch(/^postgres; entry=/)
})

test('unlock  answers the same again for the same Idempotency-Key', async () => {
  const first = await client().unlock(code, 'ann', { key: 'k' })
  await client().lock(code, 'ann')
  const again = await client().unlock(code, 'ann', { key: 'k' })
  expect(again.headers.get('idempotent-replayed')).toBe('true')
  expect(again.body).toEqual(first.body)
  expect((await client().show(code)).body.state).toBe('LOCKED')
  await client().assignCode(`${code}-FREE`, 'ann')
  const other = await client().unlock(`${code}-FREE`, 'ann', { key: 'k' })
  expectProblem(other, 'idempotency-key-reused')
})

test('unlock  ends a lock once where several ask in one call', async () => {
  const outcomes = await client().together('unlock', book, [
    { code, user: 'ben' },
    { code, user: 'ann' },
    { code, user: 'ann' },
  ])
  expect(outcomes.map(word)).toEqual(['coupon-not-found', 'done', 'done'])
  expect(outcomes.map((one) => one.ok && one.fact?.i)).toEqual([false, 0, undefined])
})

test('unlock  does once what came twice in one call under the same Idempotency-Key', async () => {
  const ask = { code, user: 'ann', key: 'a', hash: 'same' }
  const outcomes = await client().together('unlock', book, [ask, ask, { ...ask, hash: 'other' }])
  expect(outcomes.map(word)).toEqual(['done', 'again', 'idempotency-key-reused'])
  expect(outcomes[1]).toEqual({ ...outcomes[0], replayed: true })
})
