import type { Book } from './books.ts'
import type { Database } from './database.ts'
import { drizzle, eq } from './drizzle.ts'
import { books } from './schema.ts'

/** PostgreSQL's side of a rebuild: what Redis must hold, page by page, so that memory stays bounded. */
const pageSize = 20_000

export function booksOf(database: Database, shard: number): Promise<Book[]> {
  return drizzle(database).select().from(books).where(eq(books.shard, shard))
}

/** The rows of a query in pages, from a cursor: the query runs once, and memory stays bounded. */
async function* pages<Row extends object>(
  database: Database,
  sql: string,
  of: string | number,
): AsyncGenerator<Row[]> {
  const tx = await database.connect()
  let broken: Error | undefined
  try {
    await tx.query('BEGIN READ ONLY')
    await tx.query(`DECLARE page NO SCROLL CURSOR FOR ${sql}`, [of])
    for (;;) {
      const { rows } = await tx.query<Row>(`FETCH ${pageSize} FROM page`)
      if (rows.length > 0) yield rows
      if (rows.length < pageSize) return
    }
  } finally {
    await tx.query('ROLLBACK').catch((failure: Error) => {
      broken = failure
    })
    tx.release(broken)
  }
}

/**
 * Codes of a book without a coupon, and the limits of those that have their own. An import that is still
 * being written may be taken back as a whole: its codes come when it is pushed.
 */
export async function* stockOf(database: Database, book: string) {
  const sql = `SELECT c.code AS key, c.max_redemptions AS own FROM codes c
    WHERE c.book_id = $1
      AND NOT EXISTS (SELECT FROM coupons k WHERE k.code = c.code)
      AND c.load_id <> ALL (ARRAY(
        SELECT load_id FROM loads WHERE source = 'import' AND state = 'writing'))`
  for await (const rows of pages<{ key: string; own: number | null }>(database, sql, book))
    yield {
      codes: rows.map(({ key }) => key),
      uses: rows.flatMap(({ key, own }) => (own === null ? [] : [key, String(own)])),
    }
}

type CouponRow = {
  key: string
  record: string
  void: boolean
  used_up: boolean
  own: number | null
  lock_token: string | null
  until: number | null
}

const ms = (column: string) => `(extract(epoch FROM ${column}) * 1000)::bigint`
/** A coupon as lua/include/record.lua packs it. */
export const packed = (updated: string) =>
  `concat_ws(E'\\t', book_id, user_id, version, ${ms('assigned_at')}, ${ms(updated)}, redemptions,
    max_redemptions, coalesce(lock_token, ''), coalesce(${ms('locked_until')}::text, ''))`

/**
 * Coupons of a book: packed records by code, live and dead locks, and own limits of their codes. Of a
 * void code Redis has the book and nobody (lua/void.lua).
 */
export async function* couponsOf(database: Database, book: string) {
  const sql = `SELECT k.code AS key, user_id = '' AS void,
      CASE user_id WHEN '' THEN book_id || E'\\t' ELSE ${packed('updated_at')} END AS record,
      k.max_redemptions > 0 AND redemptions >= k.max_redemptions AS used_up, lock_token,
      ${ms('locked_until')} AS until,
      (SELECT c.max_redemptions FROM codes c WHERE c.code = k.code) AS own
    FROM coupons k WHERE k.book_id = $1`
  for await (const rows of pages<CouponRow>(database, sql, book))
    yield {
      held: rows.filter((row) => !row.void).length,
      void: rows.filter((row) => row.void).length,
      redeemed: rows.filter(({ used_up }) => used_up).length,
      records: rows.flatMap(({ key, record }) => [key, record]),
      uses: rows.flatMap(({ key, own }) => (own === null ? [] : [key, String(own)])),
      locks: rows.flatMap(({ key, lock_token, until }) =>
        lock_token && until ? [{ code: key, token: lock_token, until }] : [],
      ),
    }
}

/** Users of a book and how many coupons each holds. */
export async function* usersOf(database: Database, book: string) {
  const sql = `SELECT user_id AS key, count(*)::int AS held FROM coupons
    WHERE book_id = $1 AND user_id <> '' GROUP BY user_id`
  for await (const rows of pages<{ key: string; held: number }>(database, sql, book))
    yield rows.flatMap(({ key, held }) => [key, String(held)])
}

/** Redemptions of a book: id -> code, a tab before the code once rolled back. */
export async function* redemptionsOf(database: Database, book: string) {
  const sql = `SELECT redemption_id AS key, code, rolled_back_at IS NOT NULL AS undone
    FROM redemptions WHERE book_id = $1`
  for await (const rows of pages<{ key: string; code: string; undone: boolean }>(
    database,
    sql,
    book,
  ))
    yield rows.flatMap(({ key, code, undone }) => [key, undone ? `\t${code}` : code])
}

type AnswerRow = {
  key: string
  hash: string
  head: string
  kind: string
  first: number
  facts: string[]
}

/** How each kind's script begins its line; the rest follows from the facts. */
const words: Record<string, string> = {
  assign: 'assigned',
  lock: 'locked',
  unlock: 'unlocked',
  redeem: 'redeemed',
  rollback: 'rolled-back',
  release: 'released',
  void: 'voided',
}

/**
 * What was answered under Idempotency-Keys in the last day, as lua/include/finish.lua stores it:
 * digest -> hash, entry, time, op and the line of the answer. From the newest entry backwards, a short
 * statement a page: one over all of a busy day would have to sort it first, and run out of time.
 */
export async function* answersOf(database: Database, shard: number) {
  const newest = { epoch: Number.MAX_SAFE_INTEGER, n: 0 }
  for (let before = newest; ; ) {
    const { rows: ends } = await database.query<{ epoch: number; n: number; old: boolean }>(
      `SELECT epoch, n, at < ${dayAgo} AS old FROM ledger
       WHERE shard = $1 AND (epoch, n) < ($2::bigint, $3::bigint)
       ORDER BY epoch DESC, n DESC OFFSET ${pageSize} LIMIT 1`,
      [shard, before.epoch, before.n],
    )
    const end = ends[0]
    const { rows } = await database.query<AnswerRow>(answersSql, [
      ...[shard, before.epoch, before.n, end?.epoch ?? 0, end?.n ?? 0],
    ])
    if (rows.length > 0)
      yield rows.flatMap(({ key, hash, head, kind, first, facts }) => [
        key,
        [hash, `${head}${words[kind]}`, first, ...facts].join('\t'),
      ])
    if (!end || end.old) return
    before = end
  }
}

const dayAgo = `now() - interval '25 hours'`
/** A page ends with a whole entry, and an answer's facts are all of one. */
const answersSql = `SELECT context->>'key' AS key, min(context->>'hash') AS hash, kind,
    concat_ws(E'\\t', epoch || '-' || n, ${ms('min(at)')}, op, '') AS head,
    array_agg(CASE kind
      WHEN 'assign' THEN concat_ws(E'\\t', code, max_redemptions)
      WHEN 'redeem' THEN concat_ws(E'\\t', redemption_id, ${packed('at')})
      ELSE ${packed('at')} END ORDER BY i) AS facts,
    min(i) AS first
  FROM ledger
  WHERE shard = $1 AND (epoch, n) < ($2::bigint, $3::bigint) AND (epoch, n) >= ($4::bigint, $5::bigint)
    AND context ? 'key' AND at > ${dayAgo}
  GROUP BY context->>'key', kind, epoch, n, op`
