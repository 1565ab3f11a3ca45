import { describe, expect, test } from 'vitest'
import { archiveBook, updateBook } from '../src/ledger/books.ts'
import { keys } from '../src/store/keys.ts'
import { openClient } from './client.ts'
import { aSale, book, held, look, record, shard, sql, stock, used, world } from './sale.ts'
import { until } from './world.ts'

/** What `reconcile` calls no difference, and what it cannot tell. */
aSale()

describe('reconcile', () => {
  test('finds a sale of every verb equal', async () => {
    for (const exact of [true, false])
      for (const of of [undefined, book]) {
        const found = await look(exact, of)
        expect(found.differences).toEqual([])
        const books = found.books.map(({ codes, coupons }) => ({ codes, coupons }))
        expect(books).toContainEqual({ codes: 32, coupons: 10 })
        expect(found.books).toHaveLength(of ? 1 : 2)
        for (const its of found.books) expect(its.digest_redis).toBe(its.digest_postgres)
      }
  })
})

describe('reconcile: what it does not call a difference, and what it cannot tell', () => {
  test('does not go through Redis where both have as many of everything', async () => {
    const scans = async () => {
      const stats = await world.redis.info('commandstats')
      return [...stats.matchAll(/cmdstat_[hs]scan:calls=(\d+)/g)].reduce(
        (sum, [, n]) => sum + Number(n),
        0,
      )
    }
    const before = await scans()
    expect((await look(false)).differences).toEqual([])
    expect((await look(true)).differences).toEqual([])
    expect(await scans()).toBe(before)
    await world.redis.sadd(keys.stock(shard, book), 'MADE-UP')
    await look(false)
    expect(await scans()).toBeGreaterThan(before)
  })

  test('sees what one book has too much, though another one of its shard lacks as much', async () => {
    const { rows } = await sql(
      "SELECT code FROM coupons WHERE book_id <> $1 AND user_id <> '' LIMIT 1",
      book,
    )
    await world.redis.hset(keys.coupons(shard), 'MADE-UP', await record(held[0]!))
    await world.redis.hdel(keys.coupons(shard), rows[0].code)
    for (const exact of [true, false])
      expect((await look(exact, book)).differences).toMatchObject([{ code: 'MADE-UP' }])
  })

  test('has a digest of what Redis holds, whatever differs', async () => {
    const before = await look(true)
    await world.redis.hset(keys.coupons(shard), stock, (await record(held[0]!)).replace('u0', 'u9'))
    await world.redis.srem(keys.stock(shard, book), stock)
    const found = await look(true)
    await sql(
      `INSERT INTO coupons SELECT $2, book_id, 'u9', version, redemptions, max_redemptions, lock_token,
         locked_until, assigned_at, updated_at FROM coupons WHERE code = $1`,
      held[0],
      stock,
    )
    const same = await look(true)
    const of = (some: typeof found, store: 'digest_redis' | 'digest_postgres') =>
      some.books.find(({ book_id }) => book_id === book)![store]
    expect(of(found, 'digest_postgres')).toBe(of(before, 'digest_postgres'))
    expect(of(found, 'digest_redis')).toBe(of(same, 'digest_redis'))
    expect(of(same, 'digest_redis')).toBe(of(same, 'digest_postgres'))
  })

  test('a limit that was lowered after the coupons were assigned', async () => {
    await updateBook(world.database, book, { max_assignments_per_user: 1 })
    for (const exact of [true, false]) expect((await look(exact)).differences).toEqual([])
  })

  test('a limit that was passed, whatever else of the book was changed since', async () => {
    await sql('UPDATE books SET max_assignments_per_user = 1 WHERE book_id = $1', book)
    await sql('UPDATE books SET max_redemptions_per_user = 0 WHERE book_id = $1', book)
    await updateBook(world.database, book, { is_active: false })
    await updateBook(world.database, book, { closes_at: new Date(), max_assignments_per_user: 1 })
    await updateBook(world.database, book, { is_active: true, max_redemptions: 3 })
    await archiveBook(world.database, book)
    for (const exact of [true, false]) {
      const { differences } = await look(exact)
      expect(differences.map(({ class: of, code, what }) => [of, code ?? what])).toEqual([
        ...['u0', 'u1', 'u2', 'u3', 'u4'].map((user) => [
          ...['CAP_EXCEEDED', `user ${user} holds 2 coupons, 1 are allowed`],
        ]),
        ['CAP_EXCEEDED', used],
      ])
    }
  })

  test('a load that Redis does not have yet, unless nothing may be under way', async () => {
    await world.redis.srem(keys.stock(shard, book), 'OWN-1', 'OWN-2')
    await world.redis.hincrby(keys.book(shard, book), 'left', -2)
    await sql("UPDATE loads SET state = 'written' WHERE max_redemptions = 7")
    const live = await look(false)
    expect(live.differences).toEqual([])
    expect(live.books[0]!.digest_redis).toBe(live.books[0]!.digest_postgres)
    const { differences } = await look(true)
    expect(differences.map(({ class: of, code }) => [of, code])).toEqual([
      ['UNDERSOLD', 'OWN-1'],
      ['UNDERSOLD', 'OWN-2'],
    ])
  })

  test('a journal that nobody flushes: live it throws, exact it says so', async () => {
    const client = openClient(world)
    await sql("UPDATE shards SET flush = 'paused'")
    // The journal went back with `restore`: whoever saw it further on refuses until it has checked.
    const assign = () => client.assignCode(stock, 'u0', { durability: 'redis' })
    await until(async () => (await assign()).status === 200, 'the code is assigned')
    await expect(look(false)).rejects.toThrow(
      /at entry 1-\d+, the ledger stays at 1-\d+: its flush/,
    )
    const { differences } = await look(true)
    expect(differences.map(({ class: of }) => of)).toEqual([
      ...['STATE_MISMATCH', 'COUNTER_MISMATCH', 'COUNTER_MISMATCH'],
    ])
  })

  test('twenty-one thousand users and as many redemptions that are wrong', async () => {
    const many = Array.from({ length: 21_000 }, (_, i) => `made-up-${i}`)
    await world.redis.hset(keys.users(shard, book), new Map(many.map((user) => [user, 1])))
    await world.redis.hset(keys.redemptions(shard), new Map(many.map((id) => [id, used])))
    const { totals, differences, more } = await look(false)
    expect(totals).toEqual({ STATE_MISMATCH: 21_000, COUNTER_MISMATCH: 21_000 })
    expect([differences.length, more]).toEqual([1_000, 41_000])
  }, 20_000)

  test('a shard that does not serve', async () => {
    await world.redis.hset(keys.meta(shard), 'phase', 'recovering:somebody')
    const { differences, books } = await look(true)
    expect(differences).toMatchObject([
      { what: 'the shard does not serve', redis: { phase: 'recovering:somebody' } },
    ])
    expect(books[0]).toMatchObject({ codes: 0, digest_redis: '', digest_postgres: '' })
  })

  test('another book', async () => {
    await world.redis.hincrby(keys.users(shard, book), 'u0', 3)
    await world.redis.srem(keys.stock(shard, book), stock)
    await world.redis.hset(keys.coupons(shard), 'MADE-UP', await record(held[0]!))
    const { rows } = await sql('SELECT book_id FROM books WHERE book_id <> $1', book)
    expect((await look(true, rows[0].book_id)).differences).toEqual([])
    const { differences } = await look(true, book)
    expect(differences.map(({ class: of }) => of)).toEqual([
      ...['STATE_MISMATCH', 'UNDERSOLD', 'COUNTER_MISMATCH'],
    ])
    await expect(look(true, 'no-book')).rejects.toThrow('There is no book no-book.')
  })

  test('lists a thousand differences, of each class some, and counts the rest', async () => {
    const codes = Array.from({ length: 1_500 }, (_, c) => `MADE-UP-${c}`)
    await world.redis.sadd(keys.stock(shard, book), ...codes)
    await world.redis.hincrby(keys.users(shard, book), 'u0', 3)
    const { differences, more, totals } = await look(true)
    expect([differences.length, more]).toEqual([1_000, 501])
    expect(totals).toEqual({ STOCK_MISMATCH: 1_500, COUNTER_MISMATCH: 1 })
    expect(differences.at(-1)).toMatchObject({ class: 'COUNTER_MISMATCH', redis: 5, postgres: 2 })
  })
})
