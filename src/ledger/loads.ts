import { audit } from './audit.ts'
import type { Database, Transaction } from './database.ts'
import type { loads } from './schema.ts'

/**
 * A load brings codes into a book, PostgreSQL first.
 *
 *   writing -> written -> pushed      rows are being added; all are there; Redis has them too
 *
 * Codes, `written` and the book's count commit together, so wherever a load is killed, what is left
 * to do can be read off its row.
 */
export type Load = typeof loads.$inferSelect
export type NewLoad = Pick<
  Load,
  'book_id' | 'job_id' | 'source' | 'total' | 'max_redemptions' | 'created_by'
> & {
  /** Of the HTTP request that asked for it. */
  request_id?: string | undefined
}

/** Opens a load, on record: how many codes were asked for, by whom. */
export async function openLoad(tx: Transaction, load: NewLoad): Promise<Load> {
  const { rows } = await tx.query<Load>(
    `INSERT INTO loads (book_id, job_id, source, state, total, max_redemptions, created_by)
     VALUES ($1, $2, $3, 'writing', $4, $5, $6) RETURNING *`,
    [load.book_id, load.job_id, load.source, load.total, load.max_redemptions, load.created_by],
  )
  const { created_by: actor, source, book_id, total, job_id, max_redemptions, request_id } = load
  await audit(tx, {
    ...{ actor, action: `codes.${source}`, target: `book:${book_id}`, request_id },
    ...{ before: null, after: { load_id: rows[0]!.load_id, total, job_id, max_redemptions } },
  })
  return rows[0]!
}

export async function getLoad(on: Database | Transaction, loadId: number) {
  const sql = `SELECT * FROM loads WHERE load_id = $1`
  return (await on.query<Load>(sql, [loadId])).rows[0]
}

export async function loadOfJob(on: Database | Transaction, jobId: string) {
  const sql = `SELECT * FROM loads WHERE job_id = $1`
  return (await on.query<Load>(sql, [jobId])).rows[0]
}

/**
 * Counts `added` codes in: the load's `written`, then the book's total; returns the load as it is
 * now. Throws, and the transaction falls, if another process has moved this load meanwhile.
 */
export async function countIn(tx: Transaction, load: Load, added: number): Promise<Load> {
  const { rows } = await tx.query<Load>(
    `UPDATE loads SET written = written + $3::bigint,
       state = CASE WHEN written + $3::bigint >= total THEN 'written' ELSE state END
     WHERE load_id = $1 AND written = $2 AND state = 'writing' RETURNING *`,
    [load.load_id, load.written, added],
  )
  if (!rows[0]) throw new Error(`load ${load.load_id} was moved by another process`)
  await tx.query('UPDATE books SET total_code_count = total_code_count + $2 WHERE book_id = $1', [
    load.book_id,
    added,
  ])
  return rows[0]
}

/** Ends a load where it is: what was written counts, the rest never comes. */
export async function cutLoad(on: Database | Transaction, loadId: number): Promise<Load> {
  const { rows } = await on.query<Load>(
    `UPDATE loads SET state = CASE state WHEN 'writing' THEN 'written' ELSE state END,
       total = written WHERE load_id = $1 RETURNING *`,
    [loadId],
  )
  return rows[0]!
}

/** Redis has them all. */
export async function markPushed(on: Database | Transaction, loadId: number): Promise<void> {
  await on.query(`UPDATE loads SET state = 'pushed' WHERE load_id = $1 AND state = 'written'`, [
    loadId,
  ])
}

/** How many codes of the book Redis must have once this load is there too. */
export async function countPushed(database: Database, bookId: string, loadId = 0) {
  const { rows } = await database.query<{ count: number }>(
    `SELECT coalesce(sum(written), 0)::bigint AS count FROM loads
     WHERE book_id = $1 AND source <> 'units' AND (state = 'pushed' OR load_id = $2)`,
    [bookId, loadId],
  )
  return rows[0]!.count
}

/**
 * Loads of these shards that no job will come back for: uploads and small generations whose process
 * died between PostgreSQL and Redis, and what a failed job left behind.
 */
export async function unpushedLoads(database: Database, shards: number[]): Promise<number[]> {
  const { rows } = await database.query<{ load_id: number }>(
    `SELECT load_id FROM loads JOIN books USING (book_id) LEFT JOIN jobs USING (job_id)
     WHERE loads.state = 'written' AND shard = ANY($1)
       AND (loads.job_id IS NULL OR finished_at IS NOT NULL)
     ORDER BY load_id LIMIT 100`,
    [shards],
  )
  return rows.map((row) => row.load_id)
}

/** Codes with the limit they share: null = the book's, 0 = no limit. */
export type CodeGroup = { max: number | null; codes: string[] }

/** The load's next codes after `after` in byte order, and where to go on; null at the end. */
export async function loadPage(
  database: Database,
  load: Load,
  after: string,
  size: number,
): Promise<{ groups: CodeGroup[]; next: string | null }> {
  // No index knows a load's codes, so a page is a page of its book: it costs the same wherever the
  // load's codes stand. Codes have no spaces, and one string is read far faster than an array.
  type Group = { max: number | null; codes: string | null; last: string; n: number }
  const { rows } = await database.query<Group>(
    `SELECT max_redemptions AS max, string_agg(code, ' ') FILTER (WHERE load_id = $3) AS codes,
       max(code) AS last, count(*) AS n
     FROM (SELECT code, load_id, max_redemptions FROM codes WHERE book_id = $1 AND code > $2
           ORDER BY code LIMIT $4) page
     GROUP BY max_redemptions`,
    [load.book_id, after, load.load_id, size],
  )
  const groups = rows.flatMap(({ max, codes }) => (codes ? [{ max, codes: codes.split(' ') }] : []))
  const isLast = rows.reduce((sum, { n }) => sum + n, 0) < size
  const last = rows.map((row) => row.last).sort()
  return { groups, next: isLast ? null : last.at(-1)! }
}

/** All codes of a load that one request made: ten thousand at most. */
export async function codesOf(database: Database, loadId: number): Promise<string[]> {
  const { rows } = await database.query<{ codes: string | null }>(
    `SELECT string_agg(c.code, ' ' ORDER BY c.code) AS codes
     FROM codes c JOIN loads l USING (book_id, load_id) WHERE l.load_id = $1`,
    [loadId],
  )
  return rows[0]!.codes?.split(' ') ?? []
}
