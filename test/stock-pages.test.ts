import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { type Database, openDatabase } from '../src/ledger/database.ts'
import { heldPages, holders, stockPages } from '../src/ops/reconcile/postgres.ts'
import { makeDatabase } from './house.ts'
import { makeWire } from './wire.ts'

describe('stockPages', () => {
  let database: Database
  let drop: () => Promise<void>
  const book = randomUUID()
  beforeAll(async () => {
    const made = await makeDatabase()
    drop = made.drop
    database = openDatabase(made.url, 2, 'test')
    // As a sale that has just begun: PostgreSQL last looked at the tables when they were almost empty.
    await database.query('ALTER TABLE coupons SET (autovacuum_enabled = off)')
    await database.query('ALTER TABLE codes SET (autovacuum_enabled = off)')
    await sell(1)
    await database.query('ANALYZE coupons')
    await database.query('ANALYZE codes')
    await sell(30_000)
    // Somebody holds what is no code of the book.
    await database.query(
      `INSERT INTO coupons (code, book_id, user_id, version, redemptions, max_redemptions, assigned_at, updated_at)
       VALUES ('C30000-000002-STRAY', $1, 'u', 1, 0, 1, now(), now())`,
      [book],
    )
  })
  afterAll(async () => {
    await database.end()
    await drop()
  })

  /** Codes, two of three of which somebody has. */
  async function sell(count: number) {
    await database.query(
      `INSERT INTO codes (code, book_id, load_id)
       SELECT 'C' || $2::int || '-' || lpad(g::text, 6, '0'), $1, 1 FROM generate_series(1, $2::int) AS g`,
      [book, count],
    )
    await database.query(
      `INSERT INTO coupons (code, book_id, user_id, version, redemptions, max_redemptions, assigned_at, updated_at)
       SELECT 'C' || $2::int || '-' || lpad(g::text, 6, '0'), $1, 'u' || g, 1, 0, 1, now(), now()
       FROM generate_series(1, $2::int) AS g WHERE g % 3 > 0`,
      [book, count],
    )
  }

  test('is quick where PostgreSQL has no statistics of what was sold', async () => {
    let looked = 0
    const free = []
    const began = performance.now()
    for await (const { count, pairs } of stockPages(database, book, true)) {
      looked += count
      free.push(...pairs.filter((_, i) => i % 2 === 0))
    }
    expect(performance.now() - began).toBeLessThan(3_000)
    expect(looked).toBe(30_001)
    expect(free).toHaveLength(10_000)
    expect(free).toContain('C30000-000003')
  })

  test('tells codes with limits of their own, and leaves out those of a load on its way', async () => {
    const mixed = randomUUID()
    await database.query(
      `INSERT INTO books (book_id, shard, name, owner_id, kind, allow_multi_redemption, lock_policy,
         lock_seconds, is_active) VALUES ($1, 0, 'Mixed', 'o', 'codes', false, 'holder', 300, true)`,
      [mixed],
    )
    const { rows } = await database.query<{ load_id: number }>(
      `INSERT INTO loads (book_id, source, state, total, created_by)
       VALUES ($1, 'upload', 'written', 1, 'test') RETURNING load_id`,
      [mixed],
    )
    await database.query(
      `INSERT INTO codes (code, book_id, load_id, max_redemptions)
       VALUES ('MIXED-OWN', $1, 999, 3), ('MIXED-PLAIN', $1, 999, null), ('MIXED-LATER', $1, $2, null)`,
      [mixed, rows[0]!.load_id],
    )
    const told = async (all: boolean) =>
      (await gather(stockPages(database, mixed, all))).flatMap(({ pairs }) => pairs)
    expect((await told(false)).toSorted()).toEqual(['', '3', 'MIXED-OWN', 'MIXED-PLAIN'])
    expect((await told(true)).length).toBe(6)
  })
})

describe('heldPages', () => {
  let database: Database
  let drop: () => Promise<void>
  let url: string
  const book = randomUUID()
  beforeAll(async () => {
    const made = await makeDatabase()
    ;({ url, drop } = made)
    database = openDatabase(url, 1, 'test')
  })
  afterAll(async () => {
    await database.end()
    await drop()
  })
  const odd = 'back\\slash\\n "quoted" \\. ünï'
  async function hold(code: string, user: string) {
    await database.query(
      `INSERT INTO coupons (code, book_id, user_id, version, redemptions, max_redemptions, assigned_at, updated_at)
       VALUES ($2, $1, $3, 1, 0, 5, to_timestamp(1.5), to_timestamp(2))`,
      [book, code, user],
    )
  }

  /** A book whose 60,000 users take longer to read than sockets hold. */
  async function holdMuch(letter: string): Promise<string> {
    const id = randomUUID()
    await database.query(
      `INSERT INTO coupons (code, book_id, user_id, version, redemptions, max_redemptions, assigned_at, updated_at)
       SELECT $2 || g::text, $1, repeat('long', 100) || g, 1, 0, 1, now(), now() FROM generate_series(1, 60000) AS g`,
      [id, letter],
    )
    return id
  }

  test('gives whatever stands there as it is: COPY escapes some of it', async () => {
    await hold('A\\B', odd)
    await hold('VOID', '')
    expect((await gather(heldPages(database, book, false))).flat()).toEqual([
      ...['A\\B', `${book}\t${odd}\t1\t1500\t2000\t0\t5\t\t`],
      ...['VOID', `${book}\t`],
    ])
    expect((await gather(holders(database, book, false, 1))).flat()).toEqual([odd, '1'])
  })

  test('gives each coupon of a large book once, in more than one statement, and none of another book', async () => {
    const [large, other] = [randomUUID(), randomUUID()]
    // By turns, so that they lie in the same pages of the table.
    await database.query(
      `INSERT INTO coupons (code, book_id, user_id, version, redemptions, max_redemptions, assigned_at, updated_at)
       SELECT 'P' || lpad(g::text, 7, '0'), CASE g % 4 WHEN 0 THEN $2 ELSE $1 END::uuid, 'u' || g, 1, 0, 1, now(), now()
       FROM generate_series(1, 320000) AS g`,
      [large, other],
    )
    const asked = vi.spyOn(pg.Client.prototype, 'query')
    for (const exact of [true, false]) {
      const codes = (await gather(heldPages(database, large, exact)))
        .flat()
        .filter((_, i) => i % 2 === 0)
      expect(codes).toHaveLength(240_000)
      expect(new Set(codes).size).toBe(240_000)
    }
    const statements = asked.mock.calls.filter(([sql]) => String(sql).startsWith('BEGIN'))
    asked.mockRestore()
    expect(statements.length).toBeGreaterThan(2)
    await database.query('DELETE FROM coupons WHERE book_id = ANY ($1)', [[large, other]])
  })

  test('leaves nothing behind, also where it is not read to its end', async () => {
    const timers = () =>
      process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length
    await database.query('SELECT 1')
    const before = timers()
    await gather(heldPages(database, book, false))
    expect(timers()).toBe(before)
    for (let u = 0; u < 30; u++)
      await database.query(
        `INSERT INTO coupons (code, book_id, user_id, version, redemptions, max_redemptions, assigned_at, updated_at)
       SELECT 'U' || $2 || '-' || g, $1, 'user ' || $2 || ' ' || g, 1, 0, 1, now(), now() FROM generate_series(1, 1000) AS g`,
        [book, String(u)],
      )
    for await (const some of holders(database, book, false, 1)) {
      expect(some.length).toBeGreaterThan(1)
      break
    }
    expect((await database.query<{ one: number }>('SELECT 1 AS one')).rows).toEqual([{ one: 1 }])
    expect(timers()).toBeLessThanOrEqual(before)
  })

  test('fails where PostgreSQL ends it in the middle, and the next one is another connection', async () => {
    await database.query(
      `INSERT INTO coupons (code, book_id, user_id, version, redemptions, max_redemptions, assigned_at, updated_at)
       SELECT 'L' || g, $1, repeat('long', 100) || g, 1, 0, 1, now(), now() FROM generate_series(1, 60000) AS g`,
      [book],
    )
    const all = holders(database, book, false, 1)
    expect((await all.next()).done).toBe(false)
    const other = openDatabase(url, 1, 'other')
    await other.query(
      `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
       WHERE datname = current_database() AND application_name = 'stampede-test'`,
    )
    await other.end()
    await expect(gather(all)).rejects.toThrow(/terminat|clos|reset/)
    expect((await database.query<{ one: number }>('SELECT 1 AS one')).rows).toEqual([{ one: 1 }])
  })

  test('is not broken off where whoever reads it is busy with what it read', async () => {
    const wordy = await holdMuch('W')
    const impatient = openDatabase(url, 1, 'impatient', 400)
    let users = 0
    for await (const some of holders(impatient, wordy, false, 1)) {
      if (users === 0) await sleep(1_500)
      users += some.length / 2
    }
    expect(users).toBe(60_000)
    await impatient.end()
  })

  test('is broken off where PostgreSQL falls silent in the middle', async () => {
    const wordy = await holdMuch('S')
    const wire = await makeWire(url)
    const cut = openDatabase(wire.url, 1, 'cut', 400)
    const all = holders(cut, wordy, false, 1)
    expect((await all.next()).done).toBe(false)
    wire.set('silent')
    const begun = performance.now()
    await expect(gather(all)).rejects.toThrow(/terminat|clos|reset/)
    expect(performance.now() - begun).toBeLessThan(3_000)
    await cut.end()
    wire.close()
  })
})

async function gather<T>(pages: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = []
  for await (const page of pages) all.push(page)
  return all
}
