import type { Database } from '../../ledger/database.ts'

/** PostgreSQL's side in bulk: pages by key, each a statement of its own, packed into one text. */
const pageSize = 20_000

/** By date_part, whose double has a time in milliseconds to the last one: extract's numeric is slow. */
const ms = (column: string) =>
  `coalesce(((date_part('epoch', ${column}) * 1000)::bigint)::text, '')`
/** A coupon as lua/include/record.lua packs it. `of`: alias of a row of coupons, or of the ledger. */
export const packed = (of: string, updated: 'updated_at' | 'at') =>
  `concat_ws(E'\\t', ${of}.book_id, ${of}.user_id, ${of}.version, ${ms(`${of}.assigned_at`)},
    ${ms(`${of}.${updated}`)}, ${of}.redemptions, ${of}.max_redemptions,
    coalesce(${of}.lock_token, ''), ${ms(`${of}.locked_until`)})`

/** A row of coupons as Redis has it: of a void code the book and nobody. */
export const record = (of: string) =>
  `CASE ${of}.user_id WHEN '' THEN ${of}.book_id || E'\\t' ELSE ${packed(of, 'updated_at')} END`

type Page = { text: string | null; last: string | null; rows: number }

/** Pages of lines, each with how many rows it was made of: some may have had nothing to say. */
async function* pages(database: Database, sql: string, values: unknown[]) {
  for (let after = ''; ; ) {
    const { rows } = await database.query<Page>(sql, [after, ...values])
    const { text, last, rows: count } = rows[0]!
    if (count > 0) yield { count, lines: text?.split('\n') ?? [] }
    if (count < pageSize) return
    after = last!
  }
}

/** Coupons of a book, and its void codes: code, packed record, code, packed record, ... */
export async function* heldPages(database: Database, book: string): AsyncGenerator<string[]> {
  const sql = `SELECT string_agg(k.code || E'\\t' || ${record('k')}, E'\\n') AS text,
      max(k.code) AS last, count(*)::int AS rows
    FROM (SELECT * FROM coupons WHERE book_id = $2 AND code > $1 ORDER BY code
      LIMIT ${pageSize}) AS k`
  for await (const { lines } of pages(database, sql, [book]))
    yield lines.flatMap((line) => {
      const tab = line.indexOf('\t')
      return [line.slice(0, tab), line.slice(tab + 1)]
    })
}

/**
 * Codes of a book that nobody has, each with its own limit ('' where it has none). `all`: also those
 * of loads that Redis does not have yet. `count`: codes of the book that were looked at.
 */
export async function* stockPages(database: Database, book: string, all: boolean) {
  // A full join cannot be a nested loop. Of a left one PostgreSQL makes that where it has no statistics
  // yet, as in a sale that has just begun, and reads all of `held` again for every code of the page.
  const sql = `WITH page AS MATERIALIZED (
      SELECT code, load_id, max_redemptions FROM codes WHERE book_id = $2 AND code > $1
      ORDER BY code LIMIT ${pageSize}),
    held AS (SELECT code FROM coupons
      WHERE book_id = $2 AND code > $1 AND code <= (SELECT max(code) FROM page))
    SELECT string_agg(page.code || E'\\t' || coalesce(max_redemptions::text, ''), E'\\n')
        FILTER (WHERE held.code IS NULL AND ($3 OR load_id NOT IN
          (SELECT load_id FROM loads WHERE book_id = $2 AND state <> 'pushed'))) AS text,
      max(page.code) AS last, count(page.code)::int AS rows
    FROM page FULL JOIN held USING (code)`
  for await (const { count, lines } of pages(database, sql, [book, all]))
    yield { count, pairs: lines.flatMap((line) => line.split('\t')) }
}

/** Those of `codes` that nobody has, by the coupons table. */
export function withoutCoupon(database: Database, codes: string[]): Promise<string[]> {
  return unknown(database, 'SELECT code AS key FROM coupons WHERE code = ANY ($1)', codes)
}

/** Those of `codes` that are not codes of this book, or that somebody has. */
export async function notInStock(database: Database, book: string, codes: string[]) {
  const sql = 'SELECT code AS key FROM codes WHERE book_id = $2 AND code = ANY ($1)'
  const strays = await unknown(database, sql, codes, book)
  const free = new Set(await withoutCoupon(database, codes))
  return [...strays, ...codes.filter((code) => !free.has(code))]
}

/** Those of `users` who hold nothing of this book. */
export function withoutHolding(database: Database, book: string, users: string[]) {
  // As text, so that no index of books comes in: without statistics, as after a great sale, PostgreSQL
  // would read all of the book's index for every user.
  const sql =
    'SELECT DISTINCT user_id AS key FROM coupons WHERE user_id = ANY ($1) AND book_id::text = $2'
  return unknown(database, sql, users, book)
}

const uuid = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/

/** Those of `ids` that are no redemptions. */
export async function notRedemptions(database: Database, ids: string[]): Promise<string[]> {
  const sql = 'SELECT redemption_id::text AS key FROM redemptions WHERE redemption_id = ANY ($1)'
  const possible = ids.filter((id) => uuid.test(id))
  return [...(await unknown(database, sql, possible)), ...ids.filter((id) => !uuid.test(id))]
}

/**
 * Those of `keys` that `sql` does not find. By an index, key for key: asked for what is missing instead,
 * PostgreSQL may read the whole table each time. No key has a line break.
 */
async function unknown(database: Database, sql: string, keys: string[], ...values: string[]) {
  const { rows } = await database.query<{ found: string | null }>(
    `SELECT string_agg(key, E'\n') AS found FROM (${sql}) AS known`,
    [keys, ...values],
  )
  const found = new Set(rows[0]!.found?.split('\n'))
  return keys.filter((key) => !found.has(key))
}
