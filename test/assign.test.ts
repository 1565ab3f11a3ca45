import { expect, test } from 'vitest'
import { auditedWorld } from './audit.ts'
import { assigned, expectProblem, ledgerOf, word } from './client.ts'

const { world, client, makeBook } = auditedWorld()
const past = '2020-01-01T00:00:00.000Z'
const future = '2090-01-01T00:00:00.000Z'

test('assign  gives a code from stock, and the ledger remembers who asked and from where', async () => {
  const book = await makeBook({}, ['ASSIGN-1'])
  const headers = { 'x-request-id': 'req-4711', 'user-agent': 'a till/1.0' }
  const reply = await client().assign(book, 'ann', { headers })
  expect(reply.status).toBe(200)
  expect(reply.body).toEqual({
    success: true,
    assigned_count: 1,
    coupons: [assigned('ASSIGN-1', book, 'ann')],
  })
  expect(reply.headers.get('durability')).toMatch(/^redis; entry=\d\/1-\d+\/0$/)
  expect(reply.headers.get('idempotent-replayed')).toBeNull()
  const [fact] = await ledgerOf(world(), 'ASSIGN-1')
  expect(fact).toMatchObject({ kind: 'assign', user_id: 'ann', version: 1, max_redemptions: 1 })
  expect(fact.context).toEqual({
    actor: `key:${world().service.split('_')[1]}`,
    request_id: 'req-4711',
    address: '127.0.0.1',
    agent: 'a till/1.0',
  })
  expect(fact.at.toISOString()).toBe(reply.body.coupons[0].created_at)
})

test('assign  gives all that were asked for, or none and says how many are left', async () => {
  const book = await makeBook({}, 5)
  const three = await client().assign(book, 'ann', { count: 3 })
  expect(three.body.assigned_count).toBe(3)
  expectProblem(await client().assign(book, 'ben', { count: 3 }), 'sold-out', { left: 2 })
  const two = await client().assign(book, 'ben', { count: 2 })
  expect(two.status).toBe(200)
  const codes = [...three.body.coupons, ...two.body.coupons].map(({ code }) => code)
  expect(new Set(codes).size).toBe(5)
  expectProblem(await client().assign(book, 'cat'), 'sold-out', { left: 0 })
})

test('assign  answers at /assign/random as well', async () => {
  const book = await makeBook({}, ['RANDOM-1'])
  const reply = await client().assignCode('random', 'ann', { book_id: book })
  expect(reply.body.coupons).toEqual([assigned('RANDOM-1', book, 'ann')])
})

test('assign  refuses what the book does not give now, and says since or until when', async () => {
  const book = await makeBook({}, 2)
  const refused = async (
    policy: object,
    code: Parameters<typeof expectProblem>[1],
    values = {},
  ) => {
    await client().change(book, { ...policy })
    const reply = await client().assign(book, 'ann')
    expectProblem(reply, code, values)
    await client().change(book, { is_active: true, opens_at: null, closes_at: null })
    return reply
  }
  await refused({ is_active: false }, 'book-inactive')
  const early = await refused({ opens_at: future }, 'book-not-open', { opens_at: future })
  expect(Number(early.headers.get('retry-after'))).toBeGreaterThan(1e9)
  await refused({ closes_at: past }, 'book-closed', { closes_at: past })
  expect((await client().assign(book, 'ann')).status).toBe(200)
  await refused({ expiration_date: past }, 'book-expired', { expiration_date: past })
  await world().call('DELETE', `books/${book}`, { as: world().admin })
  expectProblem(await client().assign(book, 'ann'), 'book-archived')
  const unknown = await client().assign('00000000-0000-4000-8000-000000000000', 'ann')
  expectProblem(unknown, 'book-not-found')
})

test('assign  stops at the limit per user; what was redeemed counts, what was released does not', async () => {
  const book = await makeBook({ max_assignments_per_user: 3 }, 10)
  const { body } = await client().assign(book, 'ann', { count: 2 })
  const limited = await client().assign(book, 'ann', { count: 2 })
  expectProblem(limited, 'assignment-limit', { held: 2, limit: 3 })
  expect((await client().assign(book, 'ann')).status).toBe(200)
  await client().redeem(body.coupons[0].code, 'ann')
  expectProblem(await client().assign(book, 'ann'), 'assignment-limit', { held: 3, limit: 3 })
  await client().release(body.coupons[1].code)
  expect((await client().assign(book, 'ann')).status).toBe(200)
  expect((await client().assign(book, 'ben', { count: 3 })).status).toBe(200)
})

test('assign  makes the codes of a counter book, and no more than it has units', async () => {
  const book = await makeBook({ kind: 'counter', units: 3 })
  const { body } = await client().assign(book, 'ann', { count: 2 })
  const codes: string[] = body.coupons.map(({ code }: { code: string }) => code)
  expect(codes[0]).toMatch(/^[0-9A-Z]{6}-[0-9A-Z]{16}$/)
  expect(codes[1]!.slice(0, 7)).toBe(codes[0]!.slice(0, 7))
  expectProblem(await client().assign(book, 'ben', { count: 2 }), 'sold-out', { left: 1 })
  await world().call('POST', `books/${book}/units`, { as: world().admin, body: { count: 1 } })
  expect((await client().assign(book, 'ben', { count: 2 })).status).toBe(200)
  expectProblem(await client().assign(book, 'ben'), 'sold-out', { left: 0 })
})

test('assign  tells how often a code may be redeemed: its own limit, else the book’s, else none', async () => {
  const book = await makeBook({ max_redemptions: 3 }, ['USES-3'])
  const add = (code: string, max_redemptions: number | null) =>
    world().call('POST', `books/${book}/codes/upload`, {
      as: world().admin,
      body: { codes: [code], max_redemptions },
    })
  await add('USES-7', 7)
  await add('USES-UNLIMITED', null)
  const { body } = await client().assign(book, 'ann', { count: 3 })
  const limits = body.coupons.map((one: Record<string, unknown>) => [
    one.code,
    [one.max_redemptions, one.remaining_redemptions, one.has_redemptions_remaining],
  ])
  expect(Object.fromEntries(limits)).toEqual({
    'USES-3': [3, 3, true],
    'USES-7': [7, 7, true],
    'USES-UNLIMITED': [null, null, true],
  })
  const unlimited = await makeBook({ max_redemptions: null }, ['USES-NULL'])
  const [coupon] = (await client().assign(unlimited, 'ann')).body.coupons
  expect(coupon).toMatchObject({ max_redemptions: null, remaining_redemptions: null })
})

test('assign  lets users act as themselves only, administrators and services for anybody', async () => {
  const book = await makeBook({}, 5)
  const ann = await world().signUp()
  const own = await client().assign(book, undefined, { as: ann.token })
  expect(own.body.coupons[0].assigned_user_id).toBe(ann.id)
  const [fact] = await ledgerOf(world(), own.body.coupons[0].code)
  expect(fact.context.actor).toBe(`user:${ann.id}`)
  expect((await client().assign(book, ann.id, { as: ann.token })).status).toBe(200)
  expectProblem(await client().assign(book, 'ben', { as: ann.token }), 'forbidden')
  const admin = world().admin
  const self = await client().assign(book, undefined, { as: admin })
  expect(self.body.coupons[0].assigned_user_id).toBe(world().adminId)
  const other = await client().assign(book, 'ben', { as: admin })
  expect(other.body.coupons[0].assigned_user_id).toBe('ben')
  const nobody = await client().assign(book, undefined)
  expectProblem(nobody, 'invalid-request', { errors: [{ path: 'user_id' }] })
  const stranger = await world().call('POST', 'coupons/assign', { body: { book_id: book } })
  expectProblem(stranger, 'unauthenticated')
})

test('assign  waits for the ledger if request or book ask for it; the request has the last word', async () => {
  const book = await makeBook({}, 9)
  const careful = await makeBook({ durability: 'postgres' }, 9)
  const level = async (of: string, durability?: string) => {
    const reply = await client().assign(of, 'ann', durability ? { durability } : {})
    const header = reply.headers.get('durability')!
    if (header.startsWith('postgres')) {
      const [, n] = /-(\d+)\//.exec(header)!
      const { rows } = await world().database.query(
        'SELECT 1 FROM ledger WHERE n = $1 AND code = $2',
        [n, reply.body.coupons[0].code],
      )
      expect(rows).toHaveLength(1)
    }
    return header.split(';')[0]
  }
  expect(await level(book)).toBe('redis')
  expect(await level(book, 'postgres')).toBe('postgres')
  expect(await level(careful)).toBe('postgres')
  expect(await level(careful, 'redis')).toBe('redis')
  const vague = await client().assign(book, 'ann', { durability: 'disk' })
  expectProblem(vague, 'invalid-request', { errors: [{ path: 'header Durability' }] })
})

test('assign  answers the same again for the same Idempotency-Key, and refuses it for another body', async () => {
  const book = await makeBook({}, 9)
  const first = await client().assign(book, 'ann', { key: 'k1', count: 2 })
  const again = await client().assign(book, 'ann', { key: 'k1', count: 2 })
  expect(again.headers.get('idempotent-replayed')).toBe('true')
  expect(again.body).toEqual(first.body)
  expect(again.headers.get('durability')).toBe(first.headers.get('durability'))
  const other = await client().assign(book, 'ann', { key: 'k1', count: 1 })
  expectProblem(other, 'idempotency-key-reused')
  const another = await client().assign(book, 'ann', { key: 'k1', count: 2, as: world().admin })
  expect(another.headers.get('idempotent-replayed')).toBeNull()
  const key = await client().assign(book, 'ann', { key: 'with a space' })
  expectProblem(key, 'invalid-request', { errors: [{ path: 'header Idempotency-Key' }] })
})

test('assign  decides a refused request anew under the same Idempotency-Key', async () => {
  const book = await makeBook({ is_active: false }, 1)
  expectProblem(await client().assign(book, 'ann', { key: 'k2' }), 'book-inactive')
  await client().change(book, { is_active: true })
  const reply = await client().assign(book, 'ann', { key: 'k2' })
  expect(reply.status).toBe(200)
  expect(reply.headers.get('idempotent-replayed')).toBeNull()
})

test('assign  serves in order what arrives together: the last of three finds two codes gone', async () => {
  const book = await makeBook({ max_assignments_per_user: 2 }, 3)
  const ask = (user: string, count: string) => ({ user, count, codes: '' })
  const outcomes = await client().together('assign', book, [
    ask('ann', '1'),
    ask('ben', '3'),
    ask('ann', '2'),
    ask('ann', '1'),
    ask('cat', '2'),
    ask('cat', '1'),
  ])
  expect(outcomes.map(word)).toEqual([
    'done',
    'assignment-limit',
    'assignment-limit',
    'done',
    'sold-out',
    'done',
  ])
  expect(outcomes[2]).toMatchObject({ values: { held: 1, limit: 2 } })
  expect(outcomes[4]).toMatchObject({ values: { left: 1 } })
  expect(outcomes.map((one) => one.ok && one.fact?.i)).toEqual([0, false, false, 1, false, 2])
})

test('assign  parts what arrives together into calls of at most 400 facts, in order', async () => {
  const book = await makeBook({}, 950)
  const ask = (i: number) => ({ user: `user-${i}`, count: '100', codes: '' })
  const asks = Array.from({ length: 10 }, (_, i) => ask(i))
  const outcomes = await client().together('assign', book, asks, 3)
  expect(outcomes.map(word)).toEqual([...Array(9).fill('done'), 'sold-out'])
  await world().level()
  const { rows } = await world().database.query(
    'SELECT n, count(*) FROM ledger WHERE book_id = $1 GROUP BY n ORDER BY n',
    [book],
  )
  expect(rows.map(({ count }) => count)).toEqual([400, 400, 100])
})

test('assign  does once what came twice in one call under the same Idempotency-Key', async () => {
  const book = await makeBook({}, 3)
  const ask = (user: string, key: string, hash: string) => ({
    user,
    count: '1',
    codes: '',
    key,
    hash,
  })
  const outcomes = await client().together('assign', book, [
    ask('ann', 'a', 'same'),
    ask('ann', 'a', 'same'),
    ask('ann', 'a', 'other'),
    ask('ben', 'b', 'same'),
  ])
  expect(outcomes.map(word)).toEqual(['done', 'again', 'idempotency-key-reused', 'done'])
  const [first, second] = outcomes
  expect(second).toEqual({ ...first, replayed: true })
})
