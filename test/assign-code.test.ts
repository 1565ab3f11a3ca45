import { expect, test } from 'vitest'
import { auditedWorld } from './audit.ts'
import { assigned, expectProblem, ledgerOf, word } from './client.ts'

const { world, client, makeBook } = auditedWorld()
const past = '2020-01-01T00:00:00.000Z'
const future = '2090-01-01T00:00:00.000Z'

test('assign_code  gives the code that was named, and it leaves stock', async () => {
  const book = await makeBook({}, ['NAMED-1', 'NAMED-2'])
  const reply = await client().assignCode('NAMED-2', 'ann')
  expect(reply.status).toBe(200)
  expect(reply.body).toEqual(assigned('NAMED-2', book, 'ann'))
  expect(reply.headers.get('durability')).toMatch(/^redis; entry=\d\/1-\d+\/0$/)
  const [fact] = await ledgerOf(world(), 'NAMED-2')
  expect(fact).toMatchObject({ kind: 'assign', user_id: 'ann', version: 1 })
  const rest = await client().assign(book, 'ben')
  expect(rest.body.coupons[0].code).toBe('NAMED-1')
})

test('assign_code  takes any visible character in a code, percent-encoded in the path', async () => {
  const code = `a/b?c#d%20"e'\\f&+`
  await makeBook({}, [code])
  const reply = await client().assignCode(encodeURIComponent(code), 'ann')
  expect(reply.body.code).toBe(code)
})

test('assign_code  tells its holder apart from everyone else, who learn nothing', async () => {
  await makeBook({}, ['TAKEN'])
  await client().assignCode('TAKEN', 'ann')
  expectProblem(await client().assignCode('TAKEN', 'ann'), 'already-assigned')
  const taken = await client().assignCode('TAKEN', 'ben')
  const unknown = await client().assignCode('NOSUCH', 'ben')
  expectProblem(taken, 'coupon-not-found')
  const blank = { request_id: '', instance: '' }
  expect({ ...taken.body, ...blank }).toEqual({ ...unknown.body, ...blank })
  await client().redeem('TAKEN', 'ann')
  expectProblem(await client().assignCode('TAKEN', 'ann'), 'already-assigned')
  expectProblem(await client().assignCode('TAKEN', 'ben'), 'coupon-not-found')
})

test('assign_code  refuses what the book does not give now, and says since or until when', async () => {
  const book = await makeBook({}, ['WINDOW-1', 'WINDOW-2'])
  const ask = () => client().assignCode('WINDOW-1', 'ann')
  const change = (policy: object) => client().change(book, { ...policy })
  await change({ is_active: false })
  expectProblem(await ask(), 'book-inactive')
  await change({ is_active: true, opens_at: future })
  const early = await ask()
  expectProblem(early, 'book-not-open', { opens_at: future })
  expect(Number(early.headers.get('retry-after'))).toBeGreaterThan(1e9)
  await change({ opens_at: null, closes_at: past })
  expectProblem(await ask(), 'book-closed', { closes_at: past })
  await change({ closes_at: null, expiration_date: past })
  expectProblem(await ask(), 'book-expired', { expiration_date: past })
  await world().call('DELETE', `books/${book}`, { as: world().admin })
  expectProblem(await ask(), 'book-archived')
})

test('assign_code  stops at the limit per user', async () => {
  await makeBook({ max_assignments_per_user: 1 }, ['LIMIT-1', 'LIMIT-2'])
  await client().assignCode('LIMIT-1', 'ann')
  const limited = await client().assignCode('LIMIT-2', 'ann')
  expectProblem(limited, 'assignment-limit', { held: 1, limit: 1 })
  expect((await client().assignCode('LIMIT-2', 'ben')).status).toBe(200)
})

test('assign_code  does not find what a counter book has not made', async () => {
  const book = await makeBook({ kind: 'counter', units: 2 })
  const { body } = await client().assign(book, 'ann')
  const [{ code }] = body.coupons
  expectProblem(await client().assignCode(code, 'ann'), 'already-assigned')
  expectProblem(await client().assignCode(code, 'ben'), 'coupon-not-found')
  const invented = `${code.slice(0, 7)}0000000000000000`
  expectProblem(await client().assignCode(invented, 'ben'), 'coupon-not-found')
})

test('assign_code  tells the code’s own limit', async () => {
  const book = await makeBook({}, ['OWN-1'])
  await world().call('POST', `books/${book}/codes/upload`, {
    as: world().admin,
    body: { codes: ['OWN-5'], max_redemptions: 5 },
  })
  expect((await client().assignCode('OWN-5', 'ann')).body.max_redemptions).toBe(5)
  expect((await client().assignCode('OWN-1', 'ann')).body.max_redemptions).toBe(1)
})

test('assign_code  lets users act as themselves only, and needs no body then', async () => {
  await makeBook({}, ['SELF-1', 'SELF-2', 'SELF-3'])
  const ann = await world().signUp()
  const own = await client().assignCode('SELF-1', undefined, { as: ann.token, bare: true })
  expect(own.body.assigned_user_id).toBe(ann.id)
  expectProblem(await client().assignCode('SELF-2', 'ben', { as: ann.token }), 'forbidden')
  const other = await client().assignCode('SELF-2', 'ben', { as: world().admin })
  expect(other.body.assigned_user_id).toBe('ben')
  const nobody = await client().assignCode('SELF-3', undefined)
  expectProblem(nobody, 'invalid-request', { errors: [{ path: 'user_id' }] })
})

test('assign_code  waits for the ledger if request or book ask for it', async () => {
  await makeBook({}, ['LEVEL-1', 'LEVEL-2'])
  await makeBook({ durability: 'postgres' }, ['LEVEL-3', 'LEVEL-4'])
  const level = async (code: string, durability?: string) => {
    const reply = await client().assignCode(code, 'ann', durability ? { durability } : {})
    const { rows } = await world().database.query('SELECT 1 FROM coupons WHERE code = $1', [code])
    const said = reply.headers.get('durability')!.split(';')[0]
    if (said === 'postgres') expect(rows).toHaveLength(1)
    return said
  }
  expect(await level('LEVEL-1')).toBe('redis')
  expect(await level('LEVEL-2', 'postgres')).toBe('postgres')
  expect(await level('LEVEL-3')).toBe('postgres')
  expect(await level('LEVEL-4', 'redis')).toBe('redis')
})

test('assign_code  answers the same again for the same Idempotency-Key', async () => {
  await makeBook({}, ['KEYED-1', 'KEYED-2'])
  const first = await client().assignCode('KEYED-1', 'ann', { key: 'k' })
  const again = await client().assignCode('KEYED-1', 'ann', { key: 'k' })
  expect(again.headers.get('idempotent-replayed')).toBe('true')
  expect(again.body).toEqual(first.body)
  const other = await client().assignCode('KEYED-2', 'ann', { key: 'k' })
  expectProblem(other, 'idempotency-key-reused')
})

test('assign_code  gives a code that several name in one call to the first of them', async () => {
  const book = await makeBook({ max_assignments_per_user: 2 }, ['ONE-1', 'ONE-2', 'ONE-3'])
  const outcomes = await client().together('assignCode', book, [
    { user: 'ann', code: 'ONE-1' },
    { user: 'ben', code: 'ONE-1' },
    { user: 'ann', code: 'ONE-1' },
    { user: 'ann', code: 'ONE-2' },
    { user: 'ann', code: 'ONE-3' },
    { user: 'ben', code: 'NOSUCH' },
  ])
  expect(outcomes.map(word)).toEqual([
    'done',
    'coupon-not-found',
    'already-assigned',
    'done',
    'assignment-limit',
    'coupon-not-found',
  ])
})

test('assign_code  does once what came twice in one call under the same Idempotency-Key', async () => {
  const book = await makeBook({}, ['TWICE-1', 'TWICE-2'])
  const outcomes = await client().together('assignCode', book, [
    { user: 'ann', code: 'TWICE-1', key: 'a', hash: 'same' },
    { user: 'ann', code: 'TWICE-1', key: 'a', hash: 'same' },
    { user: 'ann', code: 'TWICE-2', key: 'a', hash: 'other' },
  ])
  expect(outcomes.map(word)).toEqual(['done', 'again', 'idempotency-key-reused'])
  expect(outcomes[1]).toEqual({ ...outcomes[0], replayed: true })
})
