import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { openWorld, until, type World } from './world.ts'

let world: World
let as: string

beforeAll(async () => {
  world = await openWorld()
  as = world.admin
})
afterAll(() => world?.close())

const make = async (body: Record<string, unknown> = {}) =>
  world.call('POST', 'books', { as, body: { name: 'A book', ...body } })
const policy = async (id: string) => {
  const { rows } = await world.database.query('SELECT shard FROM books WHERE book_id = $1', [id])
  return world.redis.hgetall(`{s${rows[0]!.shard}}:book:${id}`)
}
const fieldsOf = (errors: { path: string }[]) => [...new Set(errors.map(({ path }) => path))]

describe('a new book', () => {
  test('has the policy that nobody named, and its keys in the order of the old clients', async () => {
    const { status, body, headers } = await make()
    expect(status).toBe(201)
    expect(headers.get('location')).toBe(`/api/v1/books/${body.book_id}`)
    expect(Object.keys(body).slice(0, 12)).toEqual([
      'book_id',
      'name',
      'description',
      'owner_id',
      'created_at',
      'expiration_date',
      'allow_multi_redemption',
      'max_redemptions_per_user',
      'max_assignments_per_user',
      'code_pattern',
      'total_code_count',
      'is_active',
    ])
    expect(body).toMatchObject({
      owner_id: world.adminId,
      kind: 'codes',
      max_redemptions: 1,
      allow_multi_redemption: false,
      lock_policy: 'strict',
      lock_seconds: 300,
      durability: null,
      version: 1,
    })
  })

  test('is in Redis, with its policy, before it is answered', async () => {
    const opens = '2030-01-01T12:00:00.000+02:00'
    const { body } = await make({
      max_redemptions: 3,
      max_redemptions_per_user: 2,
      max_assignments_per_user: 4,
      lock_policy: 'required',
      lock_seconds: 60,
      opens_at: opens,
      durability: 'postgres',
    })
    expect(await policy(body.book_id)).toMatchObject({
      version: '1',
      max: '3',
      max_per_user: '2',
      max_held: '4',
      lock_policy: 'required',
      lock_seconds: '60',
      opens_at: String(Date.parse(opens)),
      durability: 'postgres',
      left: '0',
    })
    expect(body.opens_at).toBe('2030-01-01T10:00:00.000Z')
  })

  test('goes to the shard that has the fewest', async () => {
    for (let i = 0; i < 6; i++) await make()
    const { rows } = await world.database.query<{ n: number }>(
      'SELECT count(*)::int AS n FROM books WHERE archived_at IS NULL GROUP BY shard ORDER BY 1',
    )
    expect(rows.at(-1)!.n - rows[0]!.n).toBeLessThanOrEqual(1)
  })

  test.each([
    ['a limit of null means no limit', { max_redemptions: null }, '0', true],
    ['more than one redemption allows several', { max_redemptions: 5 }, '5', true],
    ['allow_multi_redemption false makes the limit 1', off({ max_redemptions: 5 }), '1', false],
  ])('reads its redemptions: %s', async (_, body, max, allows) => {
    const made = await make(body)
    expect(made.body.allow_multi_redemption).toBe(allows)
    expect((await policy(made.body.book_id)).max).toBe(max)
  })

  test('names every field that is wrong', async () => {
    const { status, body } = await make({
      name: '',
      kind: 'pool',
      max_redemptions: 0,
      lock_seconds: 9_999,
      opens_at: 'tomorrow',
      metadata: [],
      color: 'red',
    })
    expect(status).toBe(422)
    expect(fieldsOf(body.errors).sort()).toEqual(
      ['color', 'kind', 'lock_seconds', 'max_redemptions', 'metadata', 'name', 'opens_at'].sort(),
    )
  })

  test('refuses times that contradict each other', async () => {
    const at = '2030-01-01T00:00:00Z'
    const { status, body } = await make({ opens_at: at, closes_at: at })
    expect(status).toBe(422)
    expect(fieldsOf(body.errors)).toEqual(['closes_at'])
  })

  test('refuses a pattern that no code could have', async () => {
    for (const code_pattern of ['{}-{}', 'SUMMER {}', 'SUMMER-{'])
      expect((await make({ code_pattern })).status).toBe(422)
    expect((await make({ code_pattern: 'a{}' })).status).toBe(201)
  })
})

function off(body: Record<string, unknown>) {
  return { ...body, allow_multi_redemption: false }
}

describe('a counter book', () => {
  test('has units from the start, more later, and a prefix of its own', async () => {
    const { body } = await make({ kind: 'counter', units: 3 })
    const id = body.book_id
    expect(body.total_code_count).toBe(3)
    expect(await policy(id)).toMatchObject({ kind: 'counter', left: '3', units: '3' })
    const more = await world.call('POST', `books/${id}/units`, { as, body: { count: 4 } })
    expect(more.body).toEqual({ book_id: id, units_added: 4, total_code_count: 7 })
    expect((await policy(id)).left).toBe('7')
    const { rows } = await world.database.query(
      'SELECT code_prefix FROM books WHERE book_id = $1',
      [id],
    )
    expect(rows[0].code_prefix).toMatch(/^[0-9A-HJKMNP-TV-Z]{6}-$/)
    const loads = await world.database.query('SELECT total FROM loads WHERE book_id = $1', [id])
    expect(loads.rows.map((load) => load.total)).toEqual([3, 4])
  })

  test('is the only kind that takes units, and takes no codes', async () => {
    const counter = (await make({ kind: 'counter' })).body.book_id
    const codes = (await make()).body.book_id
    const unit = await world.call('POST', `books/${codes}/units`, { as, body: { count: 1 } })
    expect(unit.status).toBe(422)
    const path = `books/${counter}/codes/generate`
    const generated = await world.call('POST', path, { as, body: { count: 1 } })
    expect(generated.body.code).toBe('wrong-book-kind')
    expect((await make({ units: 5 })).status).toBe(422)
    expect((await make({ kind: 'counter', code_pattern: 'X{}' })).status).toBe(422)
  })

  test('keeps its units when many add some at once', async () => {
    const id = (await make({ kind: 'counter' })).body.book_id
    await Promise.all(
      Array.from({ length: 20 }, () =>
        world.call('POST', `books/${id}/units`, { as, body: { count: 5 } }),
      ),
    )
    await until(async () => (await policy(id)).left === '100', 'Redis has all units')
    expect((await world.call('GET', `books/${id}`, { as })).body.total_code_count).toBe(100)
  })
})

describe('a change', () => {
  test('is in Redis before it is answered, and raises the version', async () => {
    const { book_id } = (await make({ max_redemptions: 2 })).body
    const body = { is_active: false, max_redemptions: null, name: 'Renamed' }
    const changed = await world.call('PATCH', `books/${book_id}`, { as, body })
    expect(changed.body).toMatchObject({ ...body, version: 2, allow_multi_redemption: true })
    expect(await policy(book_id)).toMatchObject({ version: '2', active: '0', max: '0' })
    expect((await world.call('GET', `books/${book_id}`, { as })).body).toEqual(changed.body)
  })

  test('of max_redemptions to 1 ends multiple redemptions, unless told otherwise', async () => {
    const { book_id } = (await make({ max_redemptions: 2 })).body
    const change = async (body: object) =>
      (await world.call('PATCH', `books/${book_id}`, { as, body })).body
    expect(await change({ max_redemptions: 1 })).toMatchObject({ allow_multi_redemption: false })
    expect(await change({ description: null })).toMatchObject({ allow_multi_redemption: false })
    const both = { max_redemptions: 4, allow_multi_redemption: false }
    expect(await change(both)).toMatchObject(both)
    expect((await policy(book_id)).max).toBe('1')
  })

  test('refuses what contradicts the rest of the book', async () => {
    const { book_id } = (await make({ opens_at: '2030-01-02T00:00:00Z' })).body
    const body = { closes_at: '2030-01-01T00:00:00Z' }
    expect((await world.call('PATCH', `books/${book_id}`, { as, body })).status).toBe(422)
    expect((await world.call('GET', `books/${book_id}`, { as })).body.version).toBe(1)
  })

  test('refuses an unknown book, an unknown field, a bad pattern and another kind', async () => {
    const { book_id } = (await make()).body
    const patch = (id: string, body: object) => world.call('PATCH', `books/${id}`, { as, body })
    const nobody = '00000000-0000-4000-8000-000000000000'
    expect((await patch(nobody, {})).body.code).toBe('book-not-found')
    expect((await patch(book_id, { code_pattern: '{}{}' })).body.code).toBe('invalid-pattern')
    expect((await patch(book_id, { kind: 'counter' })).status).toBe(422)
    expect((await patch('me', {})).status).toBe(422)
  })

  test('that many make at once leaves Redis with the last version', async () => {
    const { book_id } = (await make()).body
    await Promise.all(
      Array.from({ length: 20 }, (_, i) =>
        world.call('PATCH', `books/${book_id}`, { as, body: { lock_seconds: i + 1 } }),
      ),
    )
    const { body } = await world.call('GET', `books/${book_id}`, { as })
    expect(body.version).toBe(21)
    await until(async () => (await policy(book_id)).version === '21', 'Redis has version 21')
    expect((await policy(book_id)).lock_seconds).toBe(String(body.lock_seconds))
  })
})

describe('archiving', () => {
  test('ends the book for every verb, and its history stays readable', async () => {
    const id = await world.makeBook({}, 2)
    expect((await world.call('DELETE', `books/${id}`, { as })).status).toBe(204)
    expect((await world.call('DELETE', `books/${id}`, { as })).status).toBe(204)
    const refused = await Promise.all([
      world.call('PATCH', `books/${id}`, { as, body: { name: 'No' } }),
      world.call('POST', `books/${id}/codes/generate`, { as, body: { count: 1 } }),
      world.call('POST', `books/${id}/codes/upload`, { as, body: { codes: ['ARCHIVED-1'] } }),
      world.call('POST', 'coupons/assign', { as, body: { book_id: id, user_id: 'u' } }),
    ])
    expect(refused.map(({ body }) => body.code)).toEqual(Array(4).fill('book-archived'))
    const { body } = await world.call('GET', `books/${id}`, { as })
    expect(body.archived_at).not.toBeNull()
    expect(body.version).toBe(2)
    expect((await world.call('GET', `books/${id}/coupons`, { as })).body.data).toHaveLength(2)
    expect((await world.call('GET', `books/${id}/redemption-history`, { as })).status).toBe(200)
  })

  test('refuses units, and an unknown book', async () => {
    const id = (await make({ kind: 'counter', units: 1 })).body.book_id
    await world.call('DELETE', `books/${id}`, { as })
    const units = await world.call('POST', `books/${id}/units`, { as, body: { count: 1 } })
    expect(units.body.code).toBe('book-archived')
    const nobody = '00000000-0000-4000-8000-000000000000'
    expect((await world.call('DELETE', `books/${nobody}`, { as })).body.code).toBe('book-not-found')
  })
})
