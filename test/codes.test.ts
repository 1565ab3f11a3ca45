import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { codeShape, drawCodes, drawCounterCodes, drawPrefix, type Shape } from '../src/codes.ts'
import { openWorld, type World } from './world.ts'

describe('drawing', () => {
  test('gives every character of a charset the same chance', () => {
    const charset = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789'
    const text = drawCodes({ before: '', after: '', length: 50, charset }, 20_000).join('')
    const counts = Array.from(charset, (one) => text.split(one).length - 1)
    const expected = text.length / charset.length
    const chiSquare = counts.reduce((sum, n) => sum + (n - expected) ** 2 / expected, 0)
    expect(chiSquare).toBeLessThan(90) // 35 degrees of freedom: one run in a million is above
  })

  test('makes a million codes in less than two seconds of CPU', () => {
    const before = process.cpuUsage()
    const codes = drawCodes(codeShape({}) as Shape, 1_000_000)
    const { user, system } = process.cpuUsage(before)
    expect(user + system).toBeLessThan(2_000_000)
    expect(new Set(codes).size).toBe(1_000_000)
  })

  test.each([
    [{}, /^[0-9A-HJKMNP-TV-Z]{16}$/],
    [{ length: 6 }, /^[0-9A-HJKMNP-TV-Z]{6}$/],
    [{ pattern: 'SUMMER-{}-26' }, /^SUMMER-[A-Z0-9]{8}-26$/],
    [{ pattern: 'VIP_' }, /^VIP_[A-Z0-9]{8}$/],
    [{ pattern: '{}', length: 4, charset: '\\"<' }, /^[\\"<]{4}$/],
  ])('follows the pattern %j', (input, form) => {
    const shape = codeShape(input) as Shape
    for (const code of drawCodes(shape, 50)) expect(code).toMatch(form)
  })

  test('marks the codes of a counter book with its prefix', () => {
    const prefix = drawPrefix()
    const [code] = drawCounterCodes(prefix, 1)
    expect(code).toMatch(new RegExp(`^${prefix}[0-9A-HJKMNP-TV-Z]{16}$`))
  })
})

let world: World
let as: string
let id: string

beforeAll(async () => {
  world = await openWorld()
  as = world.admin
  id = await world.makeBook()
})
afterAll(() => world?.close())

const generate = (body: object, book = id, query = '') =>
  world.call('POST', `books/${book}/codes/generate${query}`, { as, body })
const upload = (codes: string[], query = '', rest: object = {}) =>
  world.call('POST', `books/${id}/codes/upload${query}`, { as, body: { codes, ...rest } })
const stats = async (book = id) => (await world.call('GET', `books/${book}/stats`, { as })).body
/** What PostgreSQL and Redis say of a book's codes; both must say the same. */
async function bothHave(book = id): Promise<string[]> {
  const { rows } = await world.database.query<{ code: string; shard: number }>(
    'SELECT code, shard FROM codes JOIN books USING (book_id) WHERE book_id = $1 ORDER BY code',
    [book],
  )
  const codes = rows.map((row) => row.code)
  const stock = await world.redis.smembers(`{s${rows[0]?.shard ?? 0}}:stock:${book}`)
  expect(stock.sort()).toEqual(codes)
  const { body } = await world.call('GET', `books/${book}`, { as })
  expect(body.total_code_count).toBe(codes.length)
  return codes
}

describe('generate', () => {
  test('answers codes that are in both stores and can be assigned at once', async () => {
    const book = await world.makeBook()
    const body = { count: 500, pattern: 'GEN-{}', length: 6 }
    const made = await generate(body, book, '?include_codes=true')
    expect(made.body).toMatchObject({ book_id: book, codes_created: 500 })
    expect(await bothHave(book)).toEqual(made.body.codes.toSorted())
    const user_id = 'first'
    const assigned = await world.call('POST', 'coupons/assign', {
      as: world.service,
      body: { book_id: book, user_id, count: 100 },
    })
    for (const { code } of assigned.body.coupons) expect(made.body.codes).toContain(code)
    expect((await generate({ count: 1 }, book)).body.codes).toBeNull()
  })

  test("uses the book's pattern where none is named", async () => {
    const book = await world.makeBook({ code_pattern: 'OWN-{}' })
    const made = await generate({ count: 3 }, book, '?include_codes=true')
    for (const code of made.body.codes) expect(code).toMatch(/^OWN-[A-Z0-9]{8}$/)
  })

  test('makes half of all there are, without a duplicate, and refuses one more', async () => {
    const body = { pattern: 'DENSE{}', length: 4, charset: '0123456789' }
    const made = await generate({ ...body, count: 5_000 })
    expect(made.body.codes_created).toBe(5_000)
    const refused = await generate({ ...body, count: 2_501 })
    expect(refused.body).toMatchObject({ code: 'pattern-too-small', possible: 2_500, count: 2_501 })
    expect((await generate({ ...body, count: 2_500 })).status).toBe(200)
    await bothHave()
  })

  test('refuses a job that could not end as it refuses a small one', async () => {
    const body = { pattern: 'TINY{}', length: 4, charset: 'AB', count: 20_000 }
    const refused = await generate(body)
    expect(refused.body).toMatchObject({ code: 'pattern-too-small', possible: 8 })
  })

  test('gives two who draw from the same small pattern different codes', async () => {
    const book = await world.makeBook()
    const body = { pattern: 'SAME{}', length: 4, charset: '0123456789', count: 700 }
    const made = await Promise.all(
      Array.from({ length: 5 }, () => generate(body, book, '?include_codes=true')),
    )
    expect(made.map(({ status }) => status)).toEqual(Array(5).fill(200))
    const codes = made.flatMap((one) => one.body.codes)
    expect(new Set(codes).size).toBe(3_500)
    expect(await bothHave(book)).toEqual(codes.toSorted())
  })

  test('never makes a reserved word', async () => {
    const book = await world.makeBook()
    const body = { pattern: '{}', length: 4, charset: 'lockLOCK', count: 2_000 }
    expect((await generate(body, book)).status).toBe(200)
    for (const code of await bothHave(book)) expect(code).not.toMatch(/^lock$/i)
  })

  test('refuses the prefix of a counter book', async () => {
    const counter = await world.makeBook({ kind: 'counter' })
    const { rows } = await world.database.query(
      'SELECT code_prefix FROM books WHERE book_id = $1',
      [counter],
    )
    const prefix = rows[0].code_prefix
    expect((await generate({ pattern: `${prefix}{}`, count: 1 })).body.code).toBe('invalid-pattern')
    const uploaded = await upload(['FINE-1', `${prefix}1`])
    expect(uploaded.body).toMatchObject({ code: 'invalid-request', errors: [{ path: 'codes[1]' }] })
  })

  test.each([
    [{ count: 0 }, ['count']],
    [{ count: 1_000_001 }, ['count']],
    [{ count: 1, length: 3 }, ['length']],
    [{ count: 1, pattern: 'X{}', length: 50 }, ['pattern']],
    [{ count: 1, charset: 'AA' }, ['charset']],
    [{ count: 1, charset: 'A B' }, ['charset']],
    [{ count: 1, max_redemptions: 0 }, ['max_redemptions']],
    [{ count: 1, size: 4 }, ['size']],
  ])('refuses %j', async (body, fields) => {
    const refused = await generate(body)
    expect(refused.status).toBe(422)
    expect(refused.body.errors.map(({ path }: { path: string }) => path)).toEqual(fields)
  })

  test('refuses an unknown book and a pattern with two placeholders', async () => {
    const nobody = '00000000-0000-4000-8000-000000000000'
    expect((await generate({ count: 1 }, nobody)).body.code).toBe('book-not-found')
    expect((await generate({ count: 1, pattern: '{}{}' })).body.code).toBe('invalid-pattern')
  })
})

describe('upload', () => {
  test('adds codes of any visible characters, case by case', async () => {
    const codes = ['up-1', 'UP-1', 'a\\tb', '"<&>"', '100%', '\\N', '\\.', 'ü'.normalize('NFD')[0]!]
    const added = await upload(codes)
    expect(added.body).toMatchObject({ codes_created: 8, codes_skipped: 0, codes: null })
    expect(await bothHave()).toEqual(expect.arrayContaining(codes))
  })

  test('refuses all if one exists, in whatever book, and names the first', async () => {
    const other = await world.makeBook({}, ['TAKEN-1', 'TAKEN-2'])
    const refused = await upload(['NEW-1', 'TAKEN-2', 'TAKEN-1'])
    expect(refused.body).toMatchObject({ code: 'codes-exist', codes: 'TAKEN-2, TAKEN-1' })
    expect(await bothHave()).not.toContain('NEW-1')
    expect(await bothHave(other)).toHaveLength(2)
    const many = Array.from({ length: 8 }, (_, i) => `MANY-${i}`)
    await upload(many)
    expect((await upload(many)).body.codes).toMatch(/^MANY-0, .*MANY-4 and 3 more$/)
  })

  test('skips those that exist when told to, and reports them', async () => {
    const { body } = await upload(['TAKEN-1', 'SKIP-1', 'SKIP-2'], '?on_duplicate=skip')
    expect(body).toMatchObject({ codes_created: 2, codes_skipped: 1, skipped: ['TAKEN-1'] })
    const again = await upload(['SKIP-1', 'SKIP-2'], '?on_duplicate=skip')
    expect(again.body).toMatchObject({ codes_created: 0, codes_skipped: 2 })
    await bothHave()
  })

  test('refuses a list that names a code twice, or one that cannot be', async () => {
    const twice = await upload(['TWICE', 'ONCE', 'TWICE'])
    expect(twice.body.errors).toEqual([{ path: 'codes[2]', message: expect.any(String) }])
    const bad = ['', 'a b', 'x'.repeat(51), 'é', 'Redeem', 'ME', '.', 'tab\t', '\u0000']
    const refused = await upload(bad)
    expect(refused.body.errors.length).toBeGreaterThanOrEqual(bad.length)
    expect((await upload([])).status).toBe(422)
    expect((await upload(['OK'], '?on_duplicate=maybe')).status).toBe(422)
  })

  test('takes 10,000 codes in one body, and not one more', async () => {
    const codes = Array.from({ length: 10_001 }, (_, i) => `BULK-${String(i).padStart(40, '0')}`)
    expect((await upload(codes)).status).toBe(422)
    expect((await upload(codes.slice(1))).body.codes_created).toBe(10_000)
    await bothHave()
  })

  test('lets each code win once when two lists are sent at once', async () => {
    const list = (from: number) => Array.from({ length: 400 }, (_, i) => `RACE-${from + i}`)
    const results = await Promise.all([
      upload(list(0), '?on_duplicate=skip'),
      upload(list(200).reverse(), '?on_duplicate=skip'),
      upload(list(100), '?on_duplicate=skip'),
    ])
    const created = results.map(({ body }) => body.codes_created)
    expect(created.reduce((sum, n) => sum + n)).toBe(600)
    await bothHave()
  })
})

describe('max_redemptions of a load', () => {
  test("is the book's unless the load has its own; null means no limit", async () => {
    const book = await world.makeBook({ max_redemptions: 3 })
    const limits = async (body: object) => {
      const { body: made } = await generate({ count: 1, ...body }, book, '?include_codes=true')
      return (await world.call('GET', `coupons/${made.codes[0]}`, { as })).body.max_redemptions
    }
    expect(await limits({})).toBe(3)
    expect(await limits({ max_redemptions: 7 })).toBe(7)
    expect(await limits({ max_redemptions: null })).toBeNull()
    const page = (await world.call('GET', `books/${book}/coupons`, { as })).body.data
    const listed = page.map((one: { max_redemptions: number | null }) => one.max_redemptions)
    expect(listed.toSorted()).toEqual([3, 7, null])
    expect((await stats(book)).total).toBe(3)
  })
})

describe('the challenge’s paths', () => {
  let other: World
  beforeAll(async () => {
    other = await openWorld()
  })
  afterAll(() => other.close())

  test('make a book and fill it, and its codes are assigned', async () => {
    const as = other.admin
    const made = await other.call('POST', 'coupons', { as, body: { name: 'B', owner_id: 'o' } })
    expect(made.status).toBe(201)
    const { book_id } = made.body
    const listed = await other.call('POST', 'coupons/codes', {
      as,
      body: { book_id, codes: ['X1'] },
    })
    expect([listed.status, listed.body.codes_created]).toEqual([200, 1])
    const generated = await other.call('POST', 'coupons/codes', {
      as,
      body: { book_id, count: 3, include_codes: true },
    })
    expect([generated.status, generated.body.codes.length]).toEqual([200, 3])
    const within = `books/${book_id}/codes`
    const more = await other.call('POST', within, { as, body: { codes: ['X2'] } })
    expect([more.status, more.body.codes_created]).toEqual([200, 1])
    const drawn = await other.call('POST', within, { as, body: { count: 2, include_codes: true } })
    expect([drawn.status, drawn.body.codes.length]).toEqual([200, 2])
    const wrong = await other.call('POST', 'coupons/codes', { as, body: { book_id } })
    expect(wrong.body.code).toBe('invalid-request')
    const all = await other.call('POST', 'coupons/assign', {
      as: other.service,
      body: { book_id, user_id: 'u', count: 7 },
    })
    expect(all.body.assigned_count).toBe(7)
  })
})
