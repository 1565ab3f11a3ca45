import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { openWorld, type World } from './world.ts'

let world: World
let as: string

beforeAll(async () => {
  world = await openWorld()
  as = world.admin
})
afterAll(() => world?.close())

const get = async (path: string) => (await world.call('GET', path, { as })).body

describe('the list of books', () => {
  test('is read page by page, newest first, without archived ones', async () => {
    const ids: string[] = []
    for (let i = 0; i < 7; i++) ids.unshift(await world.makeBook({ owner_id: 'pager' }))
    await world.call('DELETE', `books/${ids[3]}`, { as })
    const all = ids.filter((_, i) => i !== 3)
    const seen: string[] = []
    let next = ''
    do {
      const page = await get(`books?owner_id=pager&limit=2${next}`)
      seen.push(...page.data.map((book: { book_id: string }) => book.book_id))
      expect(page.has_more).toBe(seen.length < all.length)
      next = page.next_cursor ? `&starting_after=${page.next_cursor}` : ''
    } while (next)
    expect(seen).toEqual(all)
    const idsOf = async (query: string) =>
      (await get(`books?owner_id=pager&${query}`)).data.map((b: { book_id: string }) => b.book_id)
    expect(await idsOf('archived=true')).toEqual(ids)
    expect(await idsOf('skip=2&limit=2')).toEqual(all.slice(2, 4))
  })

  test('filters by is_active, and refuses a cursor it did not give', async () => {
    const id = await world.makeBook({ owner_id: 'switch', is_active: false })
    expect((await get('books?owner_id=switch&is_active=false')).data[0].book_id).toBe(id)
    expect((await get('books?owner_id=switch&is_active=true')).data).toEqual([])
    const nobody = '00000000-0000-4000-8000-000000000000'
    expect((await get(`books?starting_after=${nobody}`)).code).toBe('invalid-cursor')
    expect((await get('books?starting_after=x')).code).toBe('invalid-request')
    expect((await get('books?limit=0')).code).toBe('invalid-request')
  })

  test('accepts a trailing slash', async () => {
    expect((await get('books/')).data).toBeInstanceOf(Array)
  })
})

describe('what a book holds', () => {
  /** Six codes: one in stock, one assigned, one locked, one redeemed, one used once of twice. */
  async function mixedBook(policy: Record<string, unknown> = {}) {
    const stamp = Math.random().toString(36).slice(2, 8).toUpperCase()
    const codes = ['A-STOCK', 'B-ASSIGNED', 'C-LOCKED', 'D-REDEEMED', 'E-USED'].map(
      (name) => `${stamp}-${name}`,
    )
    const id = await world.makeBook(policy, codes.slice(0, 4))
    const upload = { codes: codes.slice(4), max_redemptions: 2 }
    await world.call('POST', `books/${id}/codes/upload`, { as, body: upload })
    const coupons = (verb: string, code: string, user_id: string) =>
      world.call('POST', `coupons/${verb}/${code}`, { as: world.service, body: { user_id } })
    for (const code of codes.slice(1)) await coupons('assign', code, 'user-1')
    await coupons('lock', codes[2]!, 'user-1')
    await coupons('redeem', codes[3]!, 'user-1')
    await coupons('redeem', codes[4]!, 'user-1')
    return { id, codes }
  }
  const statesOf = (page: { data: { code: string; state: string }[] }) =>
    page.data.map(({ state }) => state)

  test('is counted by state', async () => {
    const { id } = await mixedBook()
    expect(await get(`books/${id}/stats`)).toEqual({
      book_id: id,
      total: 5,
      available: 1,
      assigned: 2,
      locked: 1,
      redeemed: 1,
      expired: 0,
      users: 1,
      void: 0,
    })
  })

  test('is listed by code with those in stock, and by state', async () => {
    const { id, codes } = await mixedBook()
    const page = await get(`books/${id}/coupons`)
    expect(Object.keys(page.data[0]).slice(0, 2)).toEqual(['code', 'book_id'])
    expect(page.data.map(({ code }: { code: string }) => code)).toEqual(codes)
    const states = ['UNASSIGNED', 'ASSIGNED', 'LOCKED', 'REDEEMED', 'ASSIGNED']
    expect(statesOf(page)).toEqual(states)
    expect(page.data[4]).toMatchObject({ max_redemptions: 2, remaining_redemptions: 1 })
    for (const state of ['UNASSIGNED', 'ASSIGNED', 'LOCKED', 'REDEEMED', 'EXPIRED'])
      expect(statesOf(await get(`books/${id}/coupons?state=${state}`))).toEqual(
        states.filter((one) => one === state),
      )
    const rest = await get(`books/${id}/coupons?limit=2&starting_after=${codes[1]}`)
    expect(statesOf(rest)).toEqual(['LOCKED', 'REDEEMED'])
    expect(rest).toMatchObject({ has_more: true, next_cursor: codes[3] })
  })

  test('is expired, but for what was redeemed, once the book is', async () => {
    const { id } = await mixedBook()
    const body = { expiration_date: '2020-01-01T00:00:00Z' }
    await world.call('PATCH', `books/${id}`, { as, body })
    const stats = await get(`books/${id}/stats`)
    expect(stats).toMatchObject({ available: 0, assigned: 0, locked: 0, redeemed: 1, expired: 4 })
    const states = ['EXPIRED', 'EXPIRED', 'EXPIRED', 'REDEEMED', 'EXPIRED']
    expect(statesOf(await get(`books/${id}/coupons`))).toEqual(states)
    expect(statesOf(await get(`books/${id}/coupons?state=EXPIRED`))).toHaveLength(4)
    expect(statesOf(await get(`books/${id}/coupons?state=ASSIGNED`))).toEqual([])
  })

  test('comes back into stock by a release, and a redemption is marked by its rollback', async () => {
    const { id, codes } = await mixedBook()
    const post = async (path: string) => (await world.call('POST', path, { as })).status
    expect(await post(`coupons/release/${codes[1]}`)).toBe(200)
    const { data } = await get(`books/${id}/redemption-history`)
    expect(await post(`redemptions/${data[1].redemption_id}/rollback`)).toBe(200)
    const states = ['UNASSIGNED', 'UNASSIGNED', 'LOCKED', 'ASSIGNED', 'ASSIGNED']
    expect(statesOf(await get(`books/${id}/coupons`))).toEqual(states)
    const history = (await get(`books/${id}/redemption-history`)).data
    expect(history[0].rolled_back_at).toBeNull()
    expect(history[1].rolled_back_at).toMatch(/Z$/)
    const other = await world.makeBook()
    const cursor = `starting_after=${history[0].redemption_id}`
    expect((await get(`books/${id}/redemption-history?${cursor}`)).data).toEqual([history[1]])
    expect((await get(`books/${other}/redemption-history?${cursor}`)).code).toBe('invalid-cursor')
    expect(await get(`books/${id}/stats`)).toMatchObject({ available: 2, redeemed: 0, assigned: 2 })
  })

  test('is void where it was taken out of circulation, whatever the book is', async () => {
    const { id, codes } = await mixedBook()
    for (const code of codes.slice(0, 2)) await world.call('POST', `coupons/void/${code}`, { as })
    const states = ['VOID', 'VOID', 'LOCKED', 'REDEEMED', 'ASSIGNED']
    expect(statesOf(await get(`books/${id}/coupons`))).toEqual(states)
    for (const state of ['UNASSIGNED', 'ASSIGNED', 'LOCKED', 'REDEEMED', 'EXPIRED', 'VOID'])
      expect(statesOf(await get(`books/${id}/coupons?state=${state}`))).toEqual(
        states.filter((one) => one === state),
      )
    const counts = { total: 5, redeemed: 1, users: 1, void: 2 }
    expect(await get(`books/${id}/stats`)).toMatchObject({
      ...{ ...counts, available: 0, assigned: 1, locked: 1, expired: 0 },
    })
    const body = { expiration_date: '2020-01-01T00:00:00Z' }
    await world.call('PATCH', `books/${id}`, { as, body })
    const later = ['VOID', 'VOID', 'EXPIRED', 'REDEEMED', 'EXPIRED']
    expect(statesOf(await get(`books/${id}/coupons`))).toEqual(later)
    expect(statesOf(await get(`books/${id}/coupons?state=EXPIRED`))).toHaveLength(2)
    expect(await get(`books/${id}/stats`)).toMatchObject({ ...counts, available: 0, expired: 2 })
  })

  test('of a counter book is what was assigned', async () => {
    const id = await world.makeBook({ kind: 'counter', units: 5 })
    const body = { book_id: id, user_id: 'user-2', count: 2 }
    await world.call('POST', 'coupons/assign', { as: world.service, body })
    expect(statesOf(await get(`books/${id}/coupons`))).toEqual(['ASSIGNED', 'ASSIGNED'])
    expect(await get(`books/${id}/stats`)).toMatchObject({ total: 5, available: 3, assigned: 2 })
  })

  test('was redeemed by someone, newest first', async () => {
    const { id, codes } = await mixedBook()
    const path = `coupons/redeem/${codes[4]}`
    const metadata = { till: 7 }
    const body = { user_id: 'user-1', metadata }
    const last = await world.call('POST', path, { as: world.service, body })
    const history = await get(`books/${id}/redemption-history`)
    expect(history.data).toHaveLength(3)
    expect(history.data[0]).toEqual({
      history_id: last.body.redemption_id,
      redemption_id: last.body.redemption_id,
      code: codes[4],
      user_id: 'user-1',
      book_id: id,
      redeemed_at: last.body.redeemed_at,
      redemption_metadata: metadata,
      rolled_back_at: null,
    })
    const [first, ...others] = history.data
    const cursor = `limit=1&starting_after=${first.redemption_id}`
    const page = await get(`books/${id}/redemption-history?${cursor}`)
    expect(page).toEqual({
      data: [others[0]],
      has_more: true,
      next_cursor: others[0].redemption_id,
    })
    const nobody = '00000000-0000-4000-8000-000000000000'
    const wrong = await get(`books/${id}/redemption-history?starting_after=${nobody}`)
    expect(wrong.code).toBe('invalid-cursor')
  })

  test('is nothing where there is no such book', async () => {
    const nobody = 'books/00000000-0000-4000-8000-000000000000'
    for (const path of ['', '/stats', '/coupons', '/redemption-history'])
      expect((await get(nobody + path)).code).toBe('book-not-found')
  })
})

describe('who may', () => {
  test('read books: anyone signed in; write them and read their coupons: admin or service', async () => {
    const id = await world.makeBook({}, 1)
    const { token } = await world.signUp()
    const status = async (method: string, path: string, who?: string, body?: object) =>
      (await world.call(method, path, { as: who, body })).status
    for (const path of [`books/${id}`, 'books', `books/${id}/stats`]) {
      expect(await status('GET', path, token)).toBe(200)
      expect(await status('GET', path)).toBe(401)
    }
    const guarded: [string, string, object?][] = [
      ['POST', 'books', { name: 'x' }],
      ['PATCH', `books/${id}`, {}],
      ['GET', `books/${id}/coupons`],
      ['GET', `books/${id}/redemption-history`],
      ['POST', `books/${id}/codes/generate`, { count: 1 }],
      ['POST', `books/${id}/codes/upload`, { codes: [`BY-SERVICE-${Date.now()}`] }],
      ['DELETE', `books/${id}`],
    ]
    for (const [method, path, body] of guarded) {
      expect(await status(method, path, token, body)).toBe(403)
      expect(await status(method, path, undefined, body)).toBe(401)
      expect(await status(method, path, world.service, body)).toBeLessThan(300)
    }
  })
})
