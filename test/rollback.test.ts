import { beforeEach, expect, test } from 'vitest'
import { auditedWorld } from './audit.ts'
import { assigned, expectProblem, ledgerOf, word } from './client.ts'

const { world, client, makeBook } = auditedWorld()
let code: string
let tests = 0
beforeEach(() => {
  code = `ROLLBACK-${++tests}`
})

/** A book with a coupon of ann's that was redeemed `times`; the ids of its redemptions. */
async function redeemed(policy: object = {}, times = 1): Promise<[string, ...string[]]> {
  const book = await makeBook({ ...policy }, [code])
  await client().assignCode(code, 'ann')
  const ids: string[] = []
  for (let i = 0; i < times; i++)
    ids.push((await client().redeem(code, 'ann', { durability: 'redis' })).body.redemption_id)
  return [book, ...ids]
}

test('rollback  undoes a redemption; answered once the ledger has it and who did it', async () => {
  const [book, id] = await redeemed()
  const headers = { 'x-request-id': 'back-4711' }
  const reply = await client().rollback(id!, { as: world().admin, headers })
  const { rows } = await world().database.query(
    'SELECT rolled_back_at, rolled_back_by FROM redemptions WHERE redemption_id = $1',
    [id],
  )
  expect(reply.status).toBe(200)
  expect(reply.body).toEqual(assigned(code, book, 'ann'))
  expect(reply.headers.get('durability')).toMatch(/^postgres; entry=/)
  const actor = `user:${world().adminId}`
  const rolled_back_at = new Date(reply.body.updated_at)
  expect(rows).toEqual([{ rolled_back_at, rolled_back_by: actor }])
  const facts = await ledgerOf(world(), code)
  expect(facts.at(-1)).toMatchObject({
    kind: 'rollback',
    user_id: 'ann',
    redemption_id: id,
    redemptions: 0,
    version: 3,
    context: { actor, request_id: 'back-4711', address: '127.0.0.1' },
  })
  expect((await client().redeem(code, 'ann')).status).toBe(200)
})

test('rollback  happens once', async () => {
  const [, id] = await redeemed()
  await client().rollback(id!)
  expectProblem(await client().rollback(id!), 'already-rolled-back')
  await client().redeem(code, 'ann')
  expectProblem(await client().rollback(id!), 'already-rolled-back')
})

test('rollback  gives back one use of several, whichever redemption is named', async () => {
  const [, first, second] = await redeemed({ max_redemptions: 3 }, 3)
  const reply = await client().rollback(first!)
  expect(reply.body).toMatchObject({
    state: 'ASSIGNED',
    redemption_count: 2,
    remaining_redemptions: 1,
  })
  expect((await client().rollback(second!)).body.remaining_redemptions).toBe(2)
  expectProblem(await client().rollback(first!), 'already-rolled-back')
})

test('rollback  leaves a live lock alone: it was taken on a use that is left', async () => {
  const [, id] = await redeemed({ max_redemptions: 2 })
  const { body } = await client().lock(code, 'ann')
  const reply = await client().rollback(id!)
  expect(reply.body).toMatchObject({ state: 'LOCKED', locked_until: body.locked_until })
  expectProblem(await client().redeem(code, 'ann'), 'coupon-locked')
  const { lock_token } = body
  expect((await client().redeem(code, 'ann', { lock_token })).body.redemption_count).toBe(1)
})

test('rollback  of a coupon without limit counts down as well', async () => {
  const [, id] = await redeemed({ max_redemptions: null }, 2)
  const reply = await client().rollback(id!)
  expect(reply.body).toMatchObject({ redemption_count: 1, remaining_redemptions: null })
})

test('rollback  finds no redemption that never was', async () => {
  const id = '00000000-0000-4000-8000-000000000000'
  expectProblem(await client().rollback(id), 'redemption-not-found')
  const path = (await client().rollback('not-a-uuid')).body
  expect(path).toMatchObject({ code: 'invalid-request', errors: [{ path: 'redemption_id' }] })
})

test('rollback  works in an expired or inactive book and is of no use in an archived one', async () => {
  const [book, id, second] = await redeemed({ max_redemptions: 2 }, 2)
  await client().change(book, { is_active: false, expiration_date: '2020-01-01T00:00:00Z' })
  expect((await client().rollback(id!)).body.state).toBe('EXPIRED')
  await world().call('DELETE', `books/${book}`, { as: world().admin })
  expectProblem(await client().rollback(second!), 'book-archived')
})

test('rollback  is for administrators and services, not for users', async () => {
  const [, id] = await redeemed()
  const ann = await world().signUp()
  expectProblem(await client().rollback(id!, { as: ann.token }), 'forbidden')
  expect((await client().rollback(id!)).status).toBe(200)
})

test('rollback  answers from Redis alone where request or book say so', async () => {
  const [, first, second] = await redeemed({ max_redemptions: 2 }, 2)
  const careless = await client().rollback(first!, { durability: 'redis' })
  expect(careless.headers.get('durability')).toMatch(/^redis; entry=/)
  code = `${code}-BOOK`
  const [, third] = await redeemed({ durability: 'redis' })
  expect((await client().rollback(third!)).headers.get('durability')).toMatch(/^redis/)
  expect((await client().rollback(second!)).headers.get('durability')).toMatch(/^postgres/)
})

test('rollback  answers the same again for the same Idempotency-Key', async () => {
  const [, first, second] = await redeemed({ max_redemptions: 2 }, 2)
  const done = await client().rollback(first!, { key: 'k' })
  const again = await client().rollback(first!, { key: 'k' })
  expect(again.headers.get('idempotent-replayed')).toBe('true')
  expect(again.body).toEqual(done.body)
  expectProblem(await client().rollback(second!, { key: 'k' }), 'idempotency-key-reused')
})

test('rollback  undoes once what several name in one call', async () => {
  const [book, first, second] = await redeemed({ max_redemptions: 2 }, 2)
  const outcomes = await client().together('rollback', book, [
    { code, redemption: first! },
    { code, redemption: first! },
    { code, redemption: second! },
    { code: 'NOSUCH', redemption: second! },
    { code, redemption: '' },
  ])
  expect(outcomes.map(word)).toEqual([
    'done',
    'already-rolled-back',
    'done',
    'redemption-not-found',
    'redemption-not-found',
  ])
})

test('rollback  does once what came twice in one call under the same Idempotency-Key', async () => {
  const [book, first, second] = await redeemed({ max_redemptions: 2 }, 2)
  const ask = { code, redemption: first!, key: 'a', hash: 'same' }
  const other = { code, redemption: second!, key: 'a', hash: 'other' }
  const outcomes = await client().together('rollback', book, [ask, ask, other])
  expect(outcomes.map(word)).toEqual(['done', 'again', 'idempotency-key-reused'])
  expect(outcomes[1]).toEqual({ ...outcomes[0], replayed: true })
})
