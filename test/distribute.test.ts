import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { reconcile } from '../src/ops/reconcile/reconcile.ts'
import { openWorld, until, type World } from './world.ts'

let world: World
let as: string
beforeAll(async () => {
  // As the users of Redis that API and worker are in production: a worker assigns here, too.
  world = await openWorld({ acl: true })
  as = world.service
})
afterAll(() => world?.close())

const post = (path: string, body: unknown, headers = {}) =>
  world.call('POST', path, { as, body, headers })
const many = (count: number, name = 'user') =>
  Array.from({ length: count }, (_, u) => `${name}-${u}`)
let names = 0
async function makePool(user_ids: string[]): Promise<string> {
  const made = await post('pools', { name: `Pool ${++names}`, user_ids })
  expect(made.status).toBe(201)
  return made.body.pool_id
}
async function assign(book_id: string, user_id: string, count = 1) {
  expect((await post('coupons/assign', { book_id, user_id, count })).status).toBe(200)
}
type Assignments = Record<string, string[]>
const sharesOf = (assignments: Assignments) =>
  Object.fromEntries(Object.entries(assignments).map(([user, codes]) => [user, codes.length]))

/** What the ledger has: user -> codes. */
async function ledgerOf(book: string): Promise<Assignments> {
  const { rows } = await world.database.query(
    `SELECT user_id, array_agg(code ORDER BY code) AS codes FROM ledger
     WHERE book_id = $1 AND kind = 'assign' GROUP BY 1`,
    [book],
  )
  return Object.fromEntries(rows.map(({ user_id, codes }) => [user_id, codes]))
}
const sorted = (all: Assignments) =>
  Object.fromEntries(Object.entries(all).map(([user, codes]) => [user, codes.toSorted()]))

async function ended(job_id: string) {
  let job: Awaited<ReturnType<typeof world.call>>['body']
  await until(async () => {
    job = (await world.call('GET', `jobs/${job_id}`, { as })).body
    return job.finished_at !== null
  }, 'the distribution is over')
  return job
}

describe('equal', () => {
  test('gives each user as many, and the ledger has them before it is answered', async () => {
    const book = await world.makeBook({}, 20)
    const pool = await makePool(['ann', 'ben', 'constructor'])
    const body = { book_id: book, mode: 'equal', coupons_per_user: 3 }
    const done = await post(`pools/${pool}/distribute`, body)
    expect([done.status, done.body]).toMatchObject([
      200,
      { success: true, total_assigned: 9, errors: [] },
    ])
    expect(done.headers.get('durability')).toBe('postgres')
    expect(sorted(done.body.assignments)).toEqual(await ledgerOf(book))
    expect(Object.values(sharesOf(done.body.assignments))).toEqual([3, 3, 3])
    const told = await world.call('GET', done.headers.get('location')!, { as })
    expect(told.body.data).toHaveLength(3)
    for (const one of told.body.data)
      expect(one).toEqual({
        ...{ user_id: one.user_id, share: 3, settled: true, problem: null },
        codes: await ledgerOf(book).then((all) => expect.arrayContaining(all[one.user_id]!)),
      })
  })

  test('gives in full or not at all, and names who got nothing, and why', async () => {
    const book = await world.makeBook({ max_assignments_per_user: 3 }, 8)
    await assign(book, 'full', 2)
    const pool = await makePool(['full', 'ann', 'ben', 'cyd', 'dan'])
    const body = { book_id: book, pool_id: pool, distribution_mode: 'equal', coupons_per_user: 2 }
    const { status, body: told } = await post('pools/bulk-assign/', body)
    // Six are left: three users of five.
    expect([status, told.success, told.total_assigned]).toEqual([200, true, 6])
    const shares = sharesOf(told.assignments)
    expect(shares.full).toBeUndefined()
    expect(Object.values(shares)).toEqual([2, 2, 2])
    expect(told.errors).toHaveLength(2)
    expect(told.errors).toContainEqual(
      'User full got 0 of 2. This user holds 2 coupons of this book; 3 are allowed.',
    )
    expect(told.errors.join()).toMatch(/User \w+ got 0 of 2. The book has 0 coupons left/)
  })

  test('answers of a user who is called __proto__, too', async () => {
    const book = await world.makeBook({}, 2)
    const pool = await makePool(['__proto__'])
    const reply = await fetch(`${world.base}/api/v1/pools/${pool}/distribute`, {
      method: 'POST',
      headers: { authorization: `Bearer ${as}`, 'content-type': 'application/json' },
      body: JSON.stringify({ book_id: book, mode: 'equal' }),
    })
    expect(await reply.text()).toMatch(/"assignments":{"__proto__":\["[0-9A-Z]{16}"\]}/)
  })

  test('of a counter book makes the codes that it gives', async () => {
    const book = await world.makeBook({ kind: 'counter', units: 10 })
    const pool = await makePool(many(3))
    const done = await post(`pools/${pool}/distribute`, { book_id: book, mode: 'equal', count: 2 })
    expect(done.body.total_assigned).toBe(6)
    expect(sorted(done.body.assignments)).toEqual(await ledgerOf(book))
  })
})

describe('random', () => {
  test('gives so many in all; shares differ by one at most', async () => {
    const book = await world.makeBook({}, 50)
    const pool = await makePool(many(7))
    const { body } = await post(`pools/${pool}/distribute`, { book_id: book, count: 17 })
    expect(body).toMatchObject({ success: true, total_assigned: 17, errors: [] })
    expect(Object.values(sharesOf(body.assignments)).sort()).toEqual([2, 2, 2, 2, 3, 3, 3])
  })

  test('minds limits: who is at theirs gets less, and the others share the rest', async () => {
    const book = await world.makeBook({ max_assignments_per_user: 4 }, 60)
    await assign(book, 'full', 4)
    await assign(book, 'nearly', 3)
    const pool = await makePool(['full', 'nearly', 'ann', 'ben', 'cyd'])
    const one = await post(`pools/${pool}/distribute`, { book_id: book, count: 9 })
    expect(one.body.total_assigned).toBe(9)
    const { full, nearly, ...others } = sharesOf(one.body.assignments)
    expect([full, nearly]).toEqual([undefined, 1])
    expect(Object.values(others).sort()).toEqual([2, 3, 3])
    expect(one.body.errors).toEqual([
      'User full got none. This user holds 4 coupons of this book; 4 are allowed.',
    ])
    const rest = await post(`pools/${pool}/distribute`, { book_id: book, count: 30 })
    expect(rest.body.total_assigned).toBe(4)
    expect(rest.body.errors.at(-1)).toBe('26 of 30 coupons were not given to anybody.')
    for (const codes of Object.values(await ledgerOf(book)))
      expect(codes.length).toBeLessThanOrEqual(4)
  })

  test('without a count gives all that are in stock, as far as limits allow', async () => {
    const book = await world.makeBook({ max_assignments_per_user: 2 }, 9)
    const pool = await makePool(many(4))
    const { body } = await post('pools/bulk-assign', { book_id: book, pool_id: pool })
    expect(body).toMatchObject({ success: true, total_assigned: 8, errors: [] })
    const again = await post('pools/bulk-assign', { book_id: book, pool_id: pool })
    expect(again.body).toMatchObject({ total_assigned: 0, assignments: {} })
    expect(again.body.errors).toHaveLength(4)
  })

  test('gives less to whom a limit was set after the plan, and never more in all', async () => {
    const book = await world.makeBook({ max_assignments_per_user: 5 }, 40)
    const pool = await makePool(many(4))
    const { store } = world.house.deps
    const { heldBy } = store
    vi.spyOn(store, 'heldBy').mockImplementation(async (...args) => {
      const held = await heldBy(...args)
      await assign(book, 'user-2', 4)
      return held
    })
    const { body } = await post(`pools/${pool}/distribute`, { book_id: book, count: 12 })
    vi.restoreAllMocks()
    expect(sharesOf(body.assignments)).toEqual({
      'user-0': 3,
      'user-1': 3,
      'user-2': 1,
      'user-3': 3,
    })
    expect(body.errors).toEqual([
      'User user-2 got 1 of 3. This user holds 4 coupons of this book; 5 are allowed.',
      '2 of 12 coupons were not given to anybody.',
    ])
  })
})

describe('a distribution is refused', () => {
  test('where there is nothing to give, nobody to give it to, or no right to', async () => {
    const book = await world.makeBook({}, 3)
    const pool = await makePool(['ann', 'ben'])
    const empty = await makePool([])
    const gone = '00000000-0000-4000-8000-000000000000'
    const refusal = async (path: string, body: object) => {
      const { status, body: told } = await post(path, body)
      return [status, told.code]
    }
    const at = (id: string) => `pools/${id}/distribute`
    const wanted = { book_id: book, count: 1 }
    expect(await refusal(at(gone), wanted)).toEqual([404, 'pool-not-found'])
    expect(await refusal(at(empty), wanted)).toEqual([400, 'pool-empty'])
    expect(await refusal(at(pool), { ...wanted, book_id: gone })).toEqual([404, 'book-not-found'])
    expect(await refusal(at(pool), { ...wanted, count: 4 })).toEqual([409, 'sold-out'])
    expect(await refusal(at(pool), { ...wanted, count: 201 })).toEqual([422, 'invalid-request'])
    expect(await refusal(at(pool), { book_id: book })).toEqual([422, 'invalid-request'])
    const equal = { book_id: book, mode: 'equal', count: 1 }
    expect(await refusal(at(pool), { ...equal, coupons_per_user: 1 })).toEqual([
      ...[422, 'invalid-request'],
    ])
    expect(await refusal(at(pool), { ...equal, count: 101 })).toEqual([422, 'invalid-request'])
    await world.call('PATCH', `books/${book}`, { as, body: { is_active: false } })
    expect(await refusal(at(pool), equal)).toEqual([409, 'book-inactive'])
    await world.call('PATCH', `books/${book}`, {
      as,
      body: { is_active: true, expiration_date: '2001-01-01T00:00:00Z' },
    })
    expect(await refusal(at(pool), equal)).toEqual([410, 'book-expired'])
    await world.call('PATCH', `pools/${pool}`, { as, body: { is_active: 'False' } })
    expect(await refusal(at(pool), equal)).toEqual([409, 'pool-inactive'])
    const { rows } = await world.database.query('SELECT FROM jobs WHERE book_id = $1', [book])
    expect(rows).toEqual([])
    expect(await ledgerOf(book)).toEqual({})
  })
})

describe('under an Idempotency-Key', () => {
  test('it is done once, also by two requests at once, and answered the same', async () => {
    const book = await world.makeBook({}, 30)
    const pool = await makePool(many(5))
    const ask = (count: number) =>
      post(`pools/${pool}/distribute`, { book_id: book, count }, { 'idempotency-key': 'one' })
    const replies = await Promise.all([ask(8), ask(8), ask(8)])
    for (const reply of replies) {
      expect(reply.status).toBe(200)
      expect(reply.body).toEqual(replies[0]!.body)
    }
    expect(replies.filter(({ headers }) => headers.has('idempotent-replayed'))).toHaveLength(2)
    expect(sorted(replies[0]!.body.assignments)).toEqual(await ledgerOf(book))
    expect((await ask(9)).body.code).toBe('idempotency-key-reused')
  })
})

describe('a pool of more than 1,000 users', () => {
  test('is served by a job, which says how far it is and what each user got', async () => {
    const book = await world.makeBook({}, 6_000)
    const pool = await makePool(many(1_500))
    const body = { book_id: book, mode: 'equal', coupons_per_user: 3 }
    const key = { 'idempotency-key': 'large' }
    const asked = await post(`pools/${pool}/distribute`, body, key)
    expect([asked.status, asked.body.kind, asked.body.total]).toEqual([202, 'distribute', 1_500])
    const job = await ended(asked.body.job_id)
    expect(job).toMatchObject({ state: 'done', done: 1_500, total: 1_500, error: null })
    expect(job.result).toEqual({
      ...{ pool_id: pool, book_id: book, mode: 'equal' },
      ...{ users: 1_500, total_assigned: 4_500, users_short: 0 },
    })
    const told: Assignments = {}
    for (let after = ''; ; ) {
      const page = await world.call(
        'GET',
        `distributions/${job.job_id}/results?limit=1000${after}`,
        { as },
      )
      for (const { user_id, codes } of page.body.data) told[user_id] = codes
      if (!page.body.has_more) break
      after = `&starting_after=${page.body.next_cursor}`
    }
    expect(sorted(told)).toEqual(await ledgerOf(book))
    const again = await post(`pools/${pool}/distribute`, body, key)
    expect([again.status, again.body.job_id]).toEqual([202, job.job_id])
    const { redis, database } = world
    const { verdict } = await reconcile({ redis, database }, { exact: false })
    expect(verdict).toBe('equal')
  })

  test('names in its results who got fewer', async () => {
    const book = await world.makeBook({}, 1_150)
    const pool = await makePool(many(1_200))
    const asked = await post(`pools/${pool}/distribute`, { book_id: book, mode: 'equal', count: 1 })
    const job = await ended(asked.body.job_id)
    expect(job.result).toMatchObject({ users: 1_200, total_assigned: 1_150, users_short: 50 })
    const path = `distributions/${job.job_id}/results?short=True`
    const { body } = await world.call('GET', path, { as })
    expect(body.data).toHaveLength(50)
    expect(body.data[0]).toMatchObject({
      ...{ share: 1, codes: [], settled: true, problem: { code: 'sold-out' } },
    })
    expect(Object.keys(await ledgerOf(book))).toHaveLength(1_150)
  })
})

test('results  are of distributions alone', async () => {
  const none = '00000000-0000-4000-8000-000000000000'
  for (const [method, path] of [
    ['GET', `distributions/${none}/results`],
    ['POST', `distributions/${none}/cancel`],
  ] as const)
    expect((await world.call(method, path, { as })).body.code).toBe('job-not-found')
})
