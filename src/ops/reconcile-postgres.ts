import type { Database } from '../ledger/database.ts'

/** PostgreSQL's side in bulk: pages by key, each a statement of its own, packed into one text. */
const pageSize = 20_000

const ms = (column: string) =>
  `coalesce(((extract(epoch FROM ${column}) * 1000)::bigint)::text, '')`
/** A coupon as lua/include/record.lua packs it. `of`: alias of a row of coupons, or of the ledger. */
export const packed = (of: string, updated: 'updated_at' | 'at') =>
  `concat_ws(E'\\t', ${of}.book_id, ${of}.user_id, ${of}.version, ${ms(`${of}.assigned_at`)},
    ${ms(`${of}.${updated}`)}, ${of}.redemptions, ${of}.max_redemptions,
    coalesce(${of}.lock_token, ''), ${ms(`${of}.locked_until`)})`

/**
 * Places of facts that stand aside: parked, or given up by an operator. They count as facts that there
 * were, and for nothing in the coupons.
 */
export const aside = `(SELECT shard, epoch, n, i FROM parked_facts
  UNION SELECT p[1]::int, p[2]::bigint, p[3]::bigint, p[4]::int
  FROM audit_log, regexp_match(target, '^fact:(\\d+)/(\\d+)-(\\d+)/(\\d+)$') AS p
  WHERE action = 'parked.discard' AND p IS NOT NULL)`
/** A row of the ledger, by its alias, that the coupons rest on. */
export const counts = (of: string) => `(${of}.shard, ${of}.epoch, ${of}.n, ${of}.i) NOT IN ${aside}`

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

/** Coupons of a book: code, packed record, code, packed record, ... */
export async function* heldPages(database: Database, book: string): AsyncGenerator<string[]> {
  const sql = `SELECT string_agg(k.code || E'\\t' || ${packed('k', 'updated_at')}, E'\\n') AS text,
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
  const sql = `SELECT string_agg(c.code || E'\\t' || coalesce(c.max_redemptions::text, ''), E'\\n')
        FILTER (WHERE NOT EXISTS (SELECT FROM coupons k WHERE k.code = c.code)
          AND ($3 OR c.load_id NOT IN
            (SELECT load_id FROM loads WHERE book_id = $2 AND state <> 'pushed'))) AS text,
      max(c.code) AS last, count(*)::int AS rows
    FROM (SELECT code, load_id, max_redemptions FROM codes WHERE book_id = $2 AND code > $1
      ORDER BY code LIMIT ${pageSize}) AS c`
  for await (const { count, lines } of pages(database, sql, [book, all]))
    yield { count, pairs: lines.flatMap((line) => line.split('\t')) }
}

/** Those of `codes` that nobody has, by the coupons table. */
export async function withoutCoupon(database: Database, codes: string[]): Promise<string[]> {
  return keysOf(
    database,
    `SELECT w.key FROM unnest($1::text[]) AS w(key)
     WHERE NOT EXISTS (SELECT FROM coupons k WHERE k.code = w.key)`,
    [codes],
  )
}

/** Those of `codes` that are not codes of this book that nobody has. */
export async function notInStock(database: Database, book: string, codes: string[]) {
  return keysOf(
    database,
    `SELECT w.key FROM unnest($1::text[]) AS w(key) LEFT JOIN codes c ON c.code = w.key
     WHERE c.book_id IS DISTINCT FROM $2 OR EXISTS (SELECT FROM coupons k WHERE k.code = w.key)`,
    [codes, book],
  )
}

/** Those of `users` who hold nothing of this book. */
export async function withoutHolding(database: Database, book: string, users: string[]) {
  return keysOf(
    database,
    `SELECT w.key FROM unnest($1::text[]) AS w(key) WHERE NOT EXISTS
       (SELECT FROM coupons k WHERE k.user_id = w.key AND k.book_id = $2)`,
    [users, book],
  )
}

const uuid = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/

/** Those of `ids` that are no redemptions. */
export async function notRedemptions(database: Database, ids: string[]): Promise<string[]> {
  const possible = ids.filter((id) => uuid.test(id))
  const unknown = await keysOf(
    database,
    `SELECT w.key FROM unnest($1::uuid[]) AS w(key)
     WHERE NOT EXISTS (SELECT FROM redemptions r WHERE r.redemption_id = w.key)`,
    [possible],
  )
  return [...unknown, ...ids.filter((id) => !uuid.test(id))]
}

async function keysOf(database: Database, sql: string, values: unknown[]): Promise<string[]> {
  return (await database.query<{ key: string }>(sql, values)).rows.map(({ key }) => key)
}
