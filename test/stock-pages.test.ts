import { randomUUID } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type Database, openDatabase } from '../src/ledger/database.ts'
import { stockPages } from '../src/ops/reconcile/postgres.ts'
import { makeDatabase } from './house.ts'

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
})
