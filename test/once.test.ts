import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { openWorld, type World } from './world.ts'

let world: World
beforeAll(async () => {
  world = await openWorld()
})
afterAll(() => world.close())

const post = (path: string, body: unknown, key: string) =>
  world.call('POST', path, { as: world.admin, body, headers: { 'idempotency-key': key } })
const replayed = (reply: { headers: Headers }) => reply.headers.get('idempotent-replayed')
const count = async (table: string) =>
  (await world.database.query(`SELECT count(*)::int FROM ${table}`)).rows[0].count

describe('Idempotency-Key on what is created in PostgreSQL', () => {
  test('a book is made once, and its first answer given again after it changed', async () => {
    const wanted = {
      name: 'Once',
      owner_id: 'o',
      expiration_date: '2030-01-01T00:00:00Z',
      metadata: { launch_date: 'soon', seen_at: '2030-01-01' },
    }
    const first = await post('books', wanted, 'book-1')
    expect([first.status, replayed(first)]).toEqual([201, null])
    await world.call('PATCH', `books/${first.body.book_id}`, {
      as: world.admin,
      body: { name: 'Other' },
    })
    const before = await count('books')
    const second = await post('books', wanted, 'book-1')
    expect([second.status, replayed(second)]).toEqual([201, 'true'])
    expect(second.body).toEqual(first.body)
    expect(await count('books')).toBe(before)
  })

  test('another body under the same key is refused', async () => {
    await post('books', { name: 'A', owner_id: 'o' }, 'book-2')
    const other = await post('books', { name: 'B', owner_id: 'o' }, 'book-2')
    expect([other.status, other.body.code]).toEqual([422, 'idempotency-key-reused'])
  })

  test('ten requests at once under one key make one book', async () => {
    const before = await count('books')
    const wanted = { name: 'Race', owner_id: 'o' }
    const replies = await Promise.all(
      Array.from({ length: 10 }, () => post('books', wanted, 'race')),
    )
    expect(new Set(replies.map(({ body }) => body.book_id)).size).toBe(1)
    expect(replies.filter((reply) => replayed(reply) === null)).toHaveLength(1)
    expect(await count('books')).toBe(before + 1)
  })

  test('codes are generated, uploaded and made by a job once', async () => {
    const book = await world.makeBook()
    const path = `books/${book}/codes/generate?include_codes=true`
    const first = await post(path, { count: 50 }, 'gen')
    const second = await post(path, { count: 50 }, 'gen')
    expect(replayed(second)).toBe('true')
    expect(second.body).toEqual(first.body)

    const list = { codes: ['ONE', 'TWO'] }
    const up = await post(`books/${book}/codes/upload`, list, 'up')
    const again = await post(`books/${book}/codes/upload`, list, 'up')
    expect([again.status, replayed(again)]).toEqual([200, 'true'])
    expect(again.body).toEqual(up.body)

    const job = await post(`books/${book}/codes/generate`, { count: 10_001 }, 'job')
    const same = await post(`books/${book}/codes/generate`, { count: 10_001 }, 'job')
    expect([job.status, same.body.job_id]).toEqual([202, job.body.job_id])
  })

  test('units are added once', async () => {
    const book = await world.makeBook({ kind: 'counter', units: 5 })
    const first = await post(`books/${book}/units`, { count: 7 }, 'units')
    const second = await post(`books/${book}/units`, { count: 7 }, 'units')
    expect(second.body).toEqual(first.body)
    const stats = await world.call('GET', `books/${book}/stats`, { as: world.admin })
    expect(stats.body.total).toBe(12)
  })

  test('a refusal because Redis does not answer changes nothing', async () => {
    const book = await world.makeBook({ kind: 'counter', units: 10 })
    const { rows } = await world.database.query('SELECT shard FROM books WHERE book_id = $1', [
      book,
    ])
    const open = world.house.openGates
    // Its gates are opened again every 20 ms.
    const held = vi.spyOn(world.house.place, 'open').mockImplementation(() => {})
    world.house.place.shut(rows[0].shard, 'for this test')
    const refused = await Promise.all([
      world.call('POST', `books/${book}/units`, { as: world.admin, body: { count: 100 } }),
      world.call('PATCH', `books/${book}`, { as: world.admin, body: { name: 'Other' } }),
      world.call('DELETE', `books/${book}`, { as: world.admin }),
    ])
    expect(refused.map(({ status }) => status)).toEqual([503, 503, 503])
    held.mockRestore()
    await open()
    const shown = await world.call('GET', `books/${book}`, { as: world.admin })
    expect(shown.body).toMatchObject({ total_code_count: 10, name: 'A book', archived_at: null })
  })
})
