import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { openRefusals } from '../src/http/refusals.ts'
import { addRefusals, openStats } from '../src/ledger/stats.ts'
import { openWorld, until, type World } from './world.ts'

let world: World
beforeAll(async () => {
  world = await openWorld()
})
afterAll(() => world.close())

const get = (path: string, as = world.admin) => world.call('GET', path, { as })
const assign = (book: string, user: string) =>
  world.call('POST', 'coupons/assign', {
    as: world.service,
    body: { book_id: book, user_id: user },
  })
const act = (verb: string, code: string, user: string) =>
  world.call('POST', `coupons/${verb}/${code}`, { as: world.service, body: { user_id: user } })
const refusalsTold = async (book: string) =>
  (
    await world.database.query(
      'SELECT reason, sum(count)::int AS count FROM refusal_minutes WHERE book_id = $1 GROUP BY 1',
      [book],
    )
  ).rows
const sum = (points: Record<string, number>[], what: string) =>
  points.reduce((total, point) => total + point[what]!, 0)

describe('statistics of a book', () => {
  test('show at once what was acknowledged, and what it came to', async () => {
    const book = await world.makeBook({ max_redemptions: 1 }, 4)
    const codes: string[] = []
    for (const user of ['a', 'b', 'c', 'd'])
      codes.push((await assign(book, user)).body.coupons[0].code)
    expect((await assign(book, 'e')).body.code).toBe('sold-out')
    expect((await assign(book, 'f')).body.code).toBe('sold-out')
    await act('lock', codes[0]!, 'a')
    await act('unlock', codes[0]!, 'a')
    const used = await act('redeem', codes[1]!, 'b')
    await act('redeem', codes[2]!, 'c')
    expect((await act('redeem', codes[2]!, 'c')).body.code).toBe('coupon-redeemed')
    await world.call('POST', `redemptions/${used.body.redemption_id}/rollback`, {
      as: world.service,
    })
    await world.call('POST', `coupons/release/${codes[3]}`, { as: world.admin })

    const counted = { assigned: 4, locked: 1, unlocked: 1, redeemed: 2, rolled_back: 1 }
    const others = { released: 1, voided: 0 }
    const { status, body } = await get(`books/${book}/stats/totals`, (await world.signUp()).token)
    expect(status).toBe(200)
    expect(body).toMatchObject({ book_id: book, complete: true, ...counted, ...others })
    expect(body.conversion).toEqual({
      locked: 0.25,
      redeemed: 0.25,
      redeemed_within: [60, 3_600, 86_400, 604_800].map((seconds) => ({
        ...{ seconds, redemptions: 2, share: 0.5 },
      })),
    })
    for (const step of ['minute', 'hour', 'day']) {
      const timeline = (await get(`books/${book}/stats/timeline?step=${step}`)).body
      expect(timeline.points).toHaveLength({ minute: 60, hour: 24, day: 30 }[step]!)
      for (const [what, count] of Object.entries({ ...counted, ...others }))
        expect(`${step} ${what} ${sum(timeline.points, what)}`).toBe(`${step} ${what} ${count}`)
    }
    await until(async () => (await refusalsTold(book)).length === 2, 'refusals are told')
    const told = (await get(`books/${book}/stats/totals`)).body.refused
    expect(told).toEqual({ 'sold-out': 2, 'coupon-redeemed': 1 })
    const { points } = (await get(`books/${book}/stats/timeline?step=day`)).body
    expect(points.at(-1).refused).toEqual(told)
    // What the older route answers is what it was.
    expect((await get(`books/${book}/stats`)).body).toMatchObject({ available: 1, redeemed: 1 })
  })

  test('of a book that nobody has touched are zeros, and no shares', async () => {
    const book = await world.makeBook({}, 1)
    const { body } = await get(`books/${book}/stats/totals`)
    expect(body).toMatchObject({ assigned: 0, refused: {}, complete: true })
    expect(body.conversion).toMatchObject({ locked: null, redeemed: null })
    const { points } = (await get(`books/${book}/stats/timeline`)).body
    expect(points).toHaveLength(60)
    expect(points.every((point: { assigned: number }) => point.assigned === 0)).toBe(true)
  })

  test('are cut into whole steps of UTC, and to what was asked for', async () => {
    const book = await world.makeBook({}, 1)
    await world.database.query(
      `INSERT INTO book_minutes VALUES ($1, '2026-03-01T23:59:00Z', 'assign', 0, 5),
         ($1, '2026-03-02T00:00:00Z', 'assign', 0, 7), ($1, '2026-03-02T01:30:00Z', 'redeem', 60, 1),
         ($1, '2026-03-02T01:30:00Z', 'redeem', 3600, 2), ($1, '2026-03-02T02:00:00Z', 'assign', 0, 9)`,
      [book],
    )
    const of = async (query: string) => {
      const { body } = await get(`books/${book}/stats/timeline?${query}`)
      return body.points.map((p: Record<string, string>) => [p.at, p.assigned, p.redeemed])
    }
    expect(await of('step=hour&from=2026-03-02T00:30:00Z&to=2026-03-02T02:00:00Z')).toEqual([
      ['2026-03-02T00:00:00.000Z', 7, 0],
      ['2026-03-02T01:00:00.000Z', 0, 3],
    ])
    expect(await of('step=day&from=2026-03-02T01:00:00%2B02:00&to=2026-03-02T00:00:01Z')).toEqual([
      ['2026-03-01T00:00:00.000Z', 5, 0],
      ['2026-03-02T00:00:00.000Z', 16, 3],
    ])
  })

  test.each([
    ['from=2026-03-02T00:00:00Z&to=2026-03-02T00:00:00Z', /earlier/],
    ['from=2026-03-02T00:00:00Z&to=2026-03-03T02:00:00Z', /1500 steps/],
    ['step=second', /minute/],
    ['from=yesterday', /date and time/],
    ['until=now', /not known/],
  ])('refuse %s', async (query, why) => {
    const book = await world.makeBook()
    const { status, body } = await get(`books/${book}/stats/timeline?${query}`)
    expect(status).toBe(422)
    expect(body.errors[0].message).toMatch(why)
  })

  test('say that they are incomplete while a worker counts what was there before', async () => {
    const book = await world.makeBook({}, 5)
    await assign(book, 'a')
    await world.level()
    await world.stopWorker()
    const { rows } = await world.database.query('SELECT shard FROM books WHERE book_id = $1', [
      book,
    ])
    await world.database.query('UPDATE shards SET counted = counted - 1 WHERE shard = $1', [
      rows[0].shard,
    ])
    expect((await get(`books/${book}/stats/totals`)).body.complete).toBe(false)
    expect((await get('stats/timeline')).body.complete).toBe(false)
    await world.startWorker()
    const complete = async () => (await get(`books/${book}/stats/totals`)).body.complete
    await until(complete, 'all is counted')
  })

  test('do not exist of a book that does not', async () => {
    const none = '00000000-0000-4000-8000-000000000000'
    for (const what of ['totals', 'timeline'])
      expect((await get(`books/${none}/stats/${what}`)).body.code).toBe('book-not-found')
  })
})

test('statistics of all books add them up', async () => {
  const before = sum((await get('stats/timeline')).body.points, 'assigned')
  const books = await Promise.all([1, 2, 3].map(() => world.makeBook({}, 2)))
  await Promise.all(books.map((book) => assign(book, 'x')))
  const { body } = await get('stats/timeline')
  expect(sum(body.points, 'assigned')).toBe(before + 3)
})

describe('refusals', () => {
  const minute = 60_000
  test('are told by minute and reason, once', async () => {
    const tell = vi.fn(async () => {})
    let now = 5 * minute + 1
    const refusals = openRefusals(tell, { away: () => false, now: () => now })
    for (let i = 0; i < 3; i++) refusals.count('b', 'sold-out')
    now += minute
    refusals.count('b', 'sold-out')
    await refusals.close()
    await refusals.tell()
    expect(tell.mock.calls).toEqual([
      [
        [
          { book: 'b', reason: 'sold-out', minute: 5 * minute, count: 3 },
          { book: 'b', reason: 'sold-out', minute: 6 * minute, count: 1 },
        ],
      ],
    ])
  })

  test('wait for a PostgreSQL that is away, as many as there is room for', async () => {
    let away = true
    const told: { count: number }[][] = []
    const refusals = openRefusals(async (some) => void told.push(some), { away: () => away })
    for (let b = 0; b < 6_000; b++) refusals.count(`book ${b}`, 'sold-out')
    refusals.count('book 0', 'sold-out')
    await refusals.tell()
    expect(told).toEqual([])
    away = false
    await refusals.close()
    expect(told.map((some) => some.length)).toEqual([5_000])
    expect(told[0]![0]).toMatchObject({ count: 2 })
  })

  test('that PostgreSQL did not take are told again', async () => {
    const told: unknown[] = []
    let fails = 1
    const refusals = openRefusals(
      async (some) => {
        if (fails-- > 0) throw new Error('gone')
        told.push(...some)
      },
      { away: () => false },
    )
    refusals.count('b', 'sold-out')
    await refusals.tell()
    refusals.count('b', 'sold-out')
    await refusals.close()
    expect(told).toMatchObject([{ count: 2 }])
  })

  test('of two processes are added up', async () => {
    const books = await Promise.all(Array.from({ length: 5 }, () => world.makeBook()))
    const rows = books.map((book) => ({ ...{ book, minute: 0, reason: 'sold-out', count: 1 } }))
    await Promise.all(
      Array.from({ length: 20 }, (_, i) =>
        addRefusals(world.database, i % 2 ? rows : rows.toReversed()),
      ),
    )
    for (const book of books)
      expect(await refusalsTold(book)).toEqual([{ reason: 'sold-out', count: 20 }])
  })
})

test('statistics read a book’s own rows, however many others there are', async () => {
  const book = await world.makeBook()
  const db = world.database
  // 1,000 books that were busy for 200 minutes, and one that is asked for.
  await db.query(
    `INSERT INTO book_minutes SELECT ('00000000-0000-4000-8000-' || lpad(b::text, 12, '0'))::uuid,
       timestamptz '2026-01-01' + m * interval '1 minute', 'assign', 0, 50
     FROM generate_series(1, 1000) b, generate_series(1, 200) m`,
  )
  await db.query(
    `INSERT INTO book_minutes SELECT $1, timestamptz '2026-01-01' + m * interval '1 minute', 'assign', 0, 50
     FROM generate_series(1, 1000) m`,
    [book],
  )
  await db.query('ANALYZE book_minutes')
  const stats = openStats(db)
  const query = vi.spyOn(db, 'query')
  const from = new Date('2026-01-01T00:00:00Z')
  const to = new Date('2026-01-02T00:00:00Z')
  const of = { book_id: book, shard: 0 }
  const { happened } = await stats.timeline({ book: of, from, to, step: 'hour' })
  expect(happened.reduce((all, { count }) => all + count, 0)).toBe(50_000)
  await stats.totals(of)
  const asked = query.mock.calls.filter(([text]) => String(text).includes('FROM book_minutes'))
  query.mockRestore()
  expect(asked).toHaveLength(2)
  for (const [text, values] of asked as unknown as [string, unknown[]][]) {
    const { rows } = await db.query(`EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) ${text}`, values)
    const { Plan } = rows[0]['QUERY PLAN'][0]
    expect(JSON.stringify(Plan)).toContain('book_minutes_pkey')
    // 201,000 rows lie on thousands of pages.
    expect(Plan['Shared Hit Blocks'] + Plan['Shared Read Blocks']).toBeLessThan(200)
  }
})
