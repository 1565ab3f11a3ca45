import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest'
import { openWorld, type World } from './world.ts'

let world: World
beforeAll(async () => {
  world = await openWorld()
})
afterAll(() => world.close())
afterEach(() => {
  vi.restoreAllMocks()
})

type Item = { book_id: string; user_id?: string; count?: number; key?: string }
const batch = (items: unknown[], as = world.service, headers: Record<string, string> = {}) =>
  world.call('POST', 'coupons/assign:batch', { as, body: { items }, headers })
const single = ({ key, ...body }: Item, as = world.service) =>
  world.call('POST', 'coupons/assign', {
    as,
    body,
    headers: key ? { 'idempotency-key': key } : {},
  })
const stats = async (book: string) =>
  (await world.call('GET', `books/${book}/stats`, { as: world.admin })).body
const nowhere = '00000000-0000-4000-8000-000000000000'

describe('assign:batch', () => {
  test('answers each item in its order, as a single assignment would', async () => {
    const plenty = await world.makeBook({}, 10)
    const scarce = await world.makeBook({}, 1)
    const counter = await world.makeBook({ kind: 'counter', units: 5 })
    const { status, headers, body } = await batch([
      { book_id: plenty, user_id: 'a', count: 3 },
      { book_id: scarce, user_id: 'b' },
      { book_id: scarce, user_id: 'c' },
      { book_id: nowhere, user_id: 'd' },
      { book_id: counter, user_id: 'e', count: 2 },
      { book_id: plenty },
    ])
    expect(status).toBe(200)
    expect(headers.get('durability')).toBe(null)
    expect(body).toMatchObject({ assigned_count: 6, refused_count: 3 })
    expect(body.results.map((one: { status: number }) => one.status)).toEqual([
      ...[200, 200, 409, 404, 200, 422],
    ])
    const [many, one, soldOut, unknown, units, nobody] = body.results
    expect(many).toMatchObject({ durability: 'redis', replayed: false, operation: null })
    expect(many.entry).toMatch(/^\d+\/\d+-\d+\/\d+$/)
    expect(many.assigned.coupons).toHaveLength(3)
    const alone = (await single({ book_id: plenty, user_id: 'a' })).body
    expect(Object.keys(many.assigned)).toEqual(Object.keys(alone))
    expect(Object.keys(many.assigned.coupons[0])).toEqual(Object.keys(alone.coupons[0]))
    expect(one.assigned.coupons[0]).toMatchObject({ book_id: scarce, assigned_user_id: 'b' })
    expect(soldOut).toMatchObject({
      status: 409,
      retry_after: null,
      problem: { status: 409, code: 'sold-out', left: 0 },
    })
    expect(unknown.problem.code).toBe('book-not-found')
    expect(units.assigned.assigned_count).toBe(2)
    expect(nobody.problem).toMatchObject({ code: 'invalid-request', errors: [{ path: 'user_id' }] })
    await world.level()
    const { rows } = await world.database.query(
      'SELECT DISTINCT book_id FROM ledger WHERE user_id = $1',
      ['e'],
    )
    expect(rows).toEqual([{ book_id: counter }])
  })

  test('decides a thousand items of one book in their order, all or nothing each', async () => {
    const book = await world.makeBook({ max_assignments_per_user: 2 }, 1_100)
    const items = Array.from({ length: 1_000 }, (_, i) => ({
      ...{ book_id: book, user_id: `u${i % 400}` },
    }))
    const { body } = await batch(items)
    expect(body).toMatchObject({ assigned_count: 800, refused_count: 200 })
    // The third of each user is one too many.
    for (const [i, { status }] of body.results.entries()) expect(status).toBe(i < 800 ? 200 : 409)
    const codes = body.results.flatMap((one: { assigned?: { coupons: { code: string }[] } }) =>
      (one.assigned?.coupons ?? []).map(({ code }) => code),
    )
    expect(new Set(codes).size).toBe(800)
    expect(await stats(book)).toMatchObject({ available: 300, assigned: 800 })
  })

  test('knows a key wherever it comes again, and tells another request under it apart', async () => {
    const book = await world.makeBook({}, 10)
    const item = { book_id: book, user_id: 'a', count: 2, key: 'k-1' }
    const first = (await batch([item, { ...item, count: 1 }, item])).body.results
    expect(first[0]).toMatchObject({ status: 200, replayed: false })
    expect(first[1].problem.code).toBe('idempotency-key-reused')
    expect(first[2]).toMatchObject({ status: 200, assigned: first[0].assigned })
    const again = (await batch([item])).body.results[0]
    expect(again).toEqual({ ...first[0], replayed: true })
    const alone = await single(item)
    expect(alone.headers.get('idempotent-replayed')).toBe('true')
    expect(alone.body).toEqual(first[0].assigned)
    // And the other way round.
    const other = { book_id: book, user_id: 'b', key: 'k-2' }
    const made = await single(other)
    const known = (await batch([other])).body.results[0]
    expect(known).toMatchObject({ replayed: true, assigned: made.body })
    expect((await stats(book)).assigned).toBe(3)
  })

  test('lets a user act for nobody else', async () => {
    const book = await world.makeBook({}, 5)
    const { id, token } = await world.signUp()
    const items = [
      { book_id: book },
      { book_id: book, user_id: id },
      { book_id: book, user_id: 'x' },
    ]
    const { results } = (await batch(items, token)).body
    expect(results.map((one: { status: number }) => one.status)).toEqual([200, 200, 403])
    expect(results[2].problem.code).toBe('forbidden')
    expect(results[0].assigned.coupons[0].assigned_user_id).toBe(id)
    expect((await stats(book)).assigned).toBe(2)
  })

  test.each([
    [[], 'items'],
    [Array.from({ length: 1_001 }, () => ({ book_id: nowhere })), 'items'],
    [Array.from({ length: 101 }, () => ({ book_id: nowhere, count: 100 })), 'items'],
    [[{ book_id: nowhere, count: 0 }], 'items[0].count'],
    [[{ book_id: nowhere }, { book_id: nowhere, key: 'a b' }], 'items[1].key'],
    [[{ book_id: nowhere, coupon: 1 }], 'items[0].coupon'],
  ])('does nothing where the list itself is wrong (%#)', async (items, path) => {
    const { status, body } = await batch(items)
    expect(status).toBe(422)
    expect(body.errors[0].path).toBe(path)
  })

  test('refuses a key or a level that it would not keep', async () => {
    const items = [{ book_id: nowhere, user_id: 'a' }]
    const keyed = await batch(items, world.service, { 'idempotency-key': 'k' })
    expect(keyed.body.errors[0]).toMatchObject({ path: 'header Idempotency-Key' })
    const wrong = await batch(items, world.service, { durability: 'always' })
    expect(wrong.body.errors[0]).toMatchObject({ path: 'header Durability' })
  })

  test('asks PostgreSQL once for all books that it does not know', async () => {
    const query = vi.spyOn(world.database, 'query')
    const items = Array.from({ length: 300 }, (_, i) => ({
      book_id: `00000000-0000-4000-8000-${String(i).padStart(12, '0')}`,
      user_id: 'a',
    }))
    const { body } = await batch(items)
    expect(body).toMatchObject({ assigned_count: 0, refused_count: 300 })
    const asked = query.mock.calls.filter(([text]) => String(text).includes('FROM books'))
    expect(asked).toHaveLength(1)
  })
})

describe('assign:batch at postgres durability', () => {
  test('says of an item whose outcome is unknown where to ask, and what became of that item alone', async () => {
    const book = await world.makeBook({}, 5)
    const { store } = world.house.deps
    const { assign } = store
    // Redis did it, and its reply was lost twice.
    vi.spyOn(store, 'assign').mockImplementation(async (place, request, weight) => {
      const n = store.place.gates[place.shard]!.seen
      const outcome = await assign(place, request, weight)
      if (!outcome.ok || request.user !== 'b') return outcome
      const { shard, epoch, op } = outcome.fact!
      return {
        ...{ ok: false, problem: 'outcome-unknown' },
        call: { shard, epoch, n, op, at: outcome.at },
      } as const
    })
    const users = ['a', 'b', 'c']
    const id = 'x'.repeat(64)
    const asked = users.map((user_id) => ({ book_id: book, user_id }))
    const { results } = (await batch(asked, world.service, { 'x-request-id': id })).body
    const { status, retry_after, problem } = results[1]
    expect([status, retry_after, problem.code]).toEqual([503, 1, 'outcome-unknown'])
    expect(problem.request_id).toBe(`${id}.1`)
    await world.level()
    const path = problem.operation.replace('/api/v1/', '')
    const told = (await world.call('GET', path, { as: world.service })).body
    expect(told).toMatchObject({ state: 'durable', facts: [{ user_id: 'b' }] })
    expect(told.facts).toHaveLength(1)
  })

  test('answers once, when the ledger holds all of it', async () => {
    const [asks, other] = [
      await world.makeBook({ durability: 'postgres' }, 5),
      await world.makeBook({}, 5),
    ]
    const mixed = (
      await batch([
        { book_id: asks, user_id: 'a' },
        { book_id: other, user_id: 'a' },
      ])
    ).body
    expect(mixed.results.map((one: { durability: string }) => one.durability)).toEqual([
      ...['postgres', 'redis'],
    ])
    const items = [asks, other].flatMap((book_id) => [
      { book_id, user_id: 'b' },
      { book_id, user_id: 'c' },
    ])
    const { results } = (await batch(items, world.service, { durability: 'postgres' })).body
    for (const one of results) expect(one).toMatchObject({ status: 200, durability: 'postgres' })
    const { rows } = await world.database.query(
      `SELECT shard || '/' || epoch || '-' || n || '/' || i AS name FROM ledger WHERE user_id IN ('b', 'c')
         AND book_id = ANY ($1)`,
      [[asks, other]],
    )
    expect(rows.map(({ name }) => name).sort()).toEqual(
      results.map(({ entry }: { entry: string }) => entry).sort(),
    )
  })

  test('is late as a whole, and says of each item where to ask', async () => {
    await world.stopWorker()
    const book = await world.makeBook({}, 5)
    const items = Array.from({ length: 5 }, () => ({ book_id: book, user_id: 'late' }))
    const began = performance.now()
    const { body } = await batch(items, world.service, { durability: 'postgres' })
    expect(performance.now() - began).toBeLessThan(4_000)
    for (const one of body.results)
      expect(one).toMatchObject({ status: 202, durability: 'redis', operation: expect.any(String) })
    await world.startWorker()
    await world.level()
    for (const { operation, assigned } of body.results) {
      const path = operation.replace('/api/v1/', '')
      expect((await world.call('GET', path, { as: world.service })).body).toMatchObject({
        state: 'durable',
        facts: [{ code: assigned.coupons[0].code }],
      })
    }
  })

  test('tells one item that broke from those that were done', async () => {
    const book = await world.makeBook({}, 5)
    const { store } = world.house.deps
    const { assign } = store
    vi.spyOn(store, 'assign').mockImplementation(async (place, request, weight) => {
      if (request.user === 'bad') throw new Error('a bug')
      await sleep(1)
      return assign(place, request, weight)
    })
    const users = ['a', 'bad', 'c']
    const { results } = (await batch(users.map((user_id) => ({ book_id: book, user_id })))).body
    expect(results.map((one: { status: number }) => one.status)).toEqual([200, 500, 200])
    expect((await stats(book)).assigned).toBe(2)
  })
})
