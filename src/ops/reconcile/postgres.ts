import pg, { type Submittable } from 'pg'
import { to as copyTo } from 'pg-copy-streams'
import type { Database, Transaction } from '../../ledger/database.ts'

/**
 * PostgreSQL's side in bulk: pages by key, each a statement of its own. During a sale they are small, and long
 * statements take naps: whoever takes a core for longer than some milliseconds makes the sale queue behind it.
 */
const pageSize = (exact: boolean) => (exact ? 10_000 : 2_000)
/** SQL: true, but of so many rows once only after a nap. */
export const napping = (rows: number) => `(random() > ${1 / rows} OR pg_sleep(0.004) IS NOT NULL)`
/**
 * SQL: true, for whoever looks at about `rows` rows in one statement. During a sale only after a nap now and then, at
 * least so many rows `apart`: for a second in all, because PostgreSQL says nothing before its end.
 */
export const gently = (exact: boolean, rows: number, apart = 20_000) =>
  exact ? 'true' : napping(Math.max(apart, rows / 250))

/** Coupons of a book that are read in one statement, about. */
const couponsPerPage = 100_000
const samplePercent = 2
/** Lines of a COPY are handed on when there are so many bytes of them. */
const bite = 150_000
const aDayMs = 86_400_000
const quoted = pg.escapeLiteral

/** By date_part, whose double has a time in milliseconds to the last one: extract's numeric is slow. */
const time = (column: string) => `(date_part('epoch', ${column}) * 1000)::bigint`
const ms = (column: string) => `coalesce(${time(column)}::text, '')`
/** A coupon as lua/include/record.lua packs it. `of`: alias of a row of coupons, or of the ledger. */
export const packed = (of: string, updated: 'updated_at' | 'at') =>
  `concat_ws(E'\\t', ${of}.book_id, ${of}.user_id, ${of}.version, ${ms(`${of}.assigned_at`)},
    ${ms(`${of}.${updated}`)}, ${of}.redemptions, ${of}.max_redemptions,
    coalesce(${of}.lock_token, ''), ${ms(`${of}.locked_until`)})`

/** A row of coupons as Redis has it: of a void code the book and nobody. */
export const record = (of: string) =>
  `CASE ${of}.user_id WHEN '' THEN ${of}.book_id || E'\\t' ELSE ${packed(of, 'updated_at')} END`

/** COPY's text format writes these as a backslash and a letter. */
const escapes: Record<string, string> = { b: '\b', f: '\f', n: '\n', r: '\r', t: '\t', v: '\v' }
const unescaped = (text: string) =>
  text.replace(/\\(.)/g, (_, sign: string) => escapes[sign] ?? sign)

/**
 * The rows of a query, which come as COPY writes them: lines with tabs between their columns, null as
 * nothing. That costs PostgreSQL less than half of what it takes to put a page together as one text. COPY
 * takes no parameters: whatever `sql` has of others has to be quoted in it.
 */
async function* copyOut(tx: Transaction, sql: string): AsyncGenerator<string[]> {
  const view = (lines: string) => {
    const all = lines.split('\n')
    return lines.includes('\\') ? all.map(unescaped) : all
  }
  const out = copyTo(`COPY (${sql}) TO STDOUT (NULL '')`)
  // Of a COPY pg hears neither how long it may take nor when it is over, unless it is told.
  const query: Submittable & { query_timeout?: number; callback?: () => void } = out
  query.query_timeout = aDayMs
  let rest: Buffer[] = []
  let size = 0
  try {
    for await (const chunk of tx.query(out) as AsyncIterable<Buffer>) {
      rest.push(chunk)
      size += chunk.length
      if (size < bite) continue
      const text = Buffer.concat(rest)
      const end = text.lastIndexOf('\n')
      if (end >= 0) yield view(text.toString('utf8', 0, end))
      rest = [text.subarray(end + 1)]
      size = text.length - end - 1
    }
  } finally {
    query.callback?.()
  }
  if (size > 0) yield view(Buffer.concat(rest).toString('utf8', 0, size - 1))
}

/** Hands a connection to whoever reads by COPY; where that was not read to its end, nobody gets it again. */
async function* lines(
  database: Database,
  read: (tx: Transaction) => AsyncGenerator<string[]>,
): AsyncGenerator<string[]> {
  const tx = await database.connect()
  let isWhole = false
  try {
    yield* read(tx)
    isWhole = true
  } finally {
    tx.release(!isWhole)
  }
}

/** One page of such lines. */
async function page(database: Database, sql: string): Promise<string[]> {
  const all: string[] = []
  for await (const some of lines(database, (tx) => copyOut(tx, sql)))
    for (const line of some) all.push(line)
  return all
}

/**
 * Coupons of a book, and its void codes: code, packed record, code, packed record, ... Many at a time, as
 * they lie in the table: in the order of their codes nearly each would be another page of it.
 */
export async function* heldPages(database: Database, book: string, exact: boolean) {
  const nobodys = `${book}\t\t`
  let after = ''
  for (const upto of [...(await endsOfPages(database, book, exact)), null]) {
    const sql = `SELECT code, book_id, user_id, version, ${time('assigned_at')}, ${time('updated_at')},
        redemptions, max_redemptions, lock_token, ${time('locked_until')}
      FROM coupons WHERE book_id = ${quoted(book)} AND code > ${quoted(after)}
        ${upto === null ? '' : `AND code <= ${quoted(upto)}`} ${exact ? '' : `AND ${napping(1_000)}`}`
    const asTheyLie = 'SET LOCAL enable_indexscan = off; SET LOCAL enable_seqscan = off'
    // As a whole: who reads it may have to look at something carefully, and PostgreSQL waits for nobody for long.
    const pairs: string[] = []
    for await (const some of lines(database, (tx) => patiently(tx, sql, asTheyLie)))
      for (const line of some) {
        const tab = line.indexOf('\t')
        const record = line.slice(tab + 1)
        pairs.push(line.slice(0, tab), record.startsWith(nobodys) ? nobodys.slice(0, -1) : record)
      }
    if (pairs.length > 0) yield pairs
    after = upto ?? after
  }
}

/** Codes with which pages of coupons end, in order, but for the last one; of a sample, because it does not matter how long they are. */
async function endsOfPages(database: Database, book: string, exact: boolean): Promise<string[]> {
  // A sample is of the whole table, whatever a book has of it.
  const { rowCount } = await database.query(
    `SELECT FROM coupons WHERE book_id = $1 OFFSET ${couponsPerPage} LIMIT 1`,
    [book],
  )
  if (rowCount === 0) return []
  const perPage = (couponsPerPage * samplePercent) / 100
  const { rows } = await database.query<{ code: string }>(
    `SELECT code FROM (SELECT code, row_number() OVER (ORDER BY code) AS place
       FROM coupons TABLESAMPLE SYSTEM (${samplePercent})
       WHERE book_id = $1 AND ${exact ? 'true' : napping(5_000)}) AS sample
     WHERE place % ${perPage} = 0 ORDER BY code`,
    [book],
  )
  return rows.map(({ code }) => code)
}

/** Reads what takes as long as whoever looks at it takes; all rows are of one moment. */
async function* patiently(tx: Transaction, sql: string, settings = ''): AsyncGenerator<string[]> {
  // PostgreSQL may have written all of it long before somebody has looked at the half.
  const patience =
    "SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = '60s'"
  await tx.query(`BEGIN READ ONLY; ${patience}; ${settings}`)
  yield* copyOut(tx, sql)
  await tx.query('ROLLBACK')
}

/** Whether codes of a book have limits of their own, and whether loads of it have yet to come to Redis. */
async function loadsOf(database: Database, book: string) {
  const { rows } = await database.query<{ own: boolean; open: boolean }>(
    `SELECT EXISTS (SELECT FROM codes WHERE book_id = $1 AND max_redemptions IS NOT NULL) AS own,
       EXISTS (SELECT FROM loads WHERE book_id = $1 AND state <> 'pushed') AS open`,
    [book],
  )
  return rows[0]!
}

/**
 * Codes of a book that nobody has, each with its own limit ('' where it has none). `exact`: also those
 * of loads that Redis does not have yet. `count`: codes of the book that were looked at; `open`: of such
 * loads there are some.
 */
export async function* stockPages(database: Database, book: string, exact: boolean) {
  const size = pageSize(exact)
  const its = quoted(book)
  const { own, open } = await loadsOf(database, book)
  // Of a book without either the index tells everything, which takes half as long as to look at the rows.
  const isPlain = !own && !open
  const isOpen = open
    ? `load_id IN (SELECT load_id FROM loads WHERE book_id = ${its} AND state <> 'pushed')`
    : 'false'
  const columns = isPlain ? 'code' : `code, max_redemptions, ${isOpen}`
  for (let after = ''; ; ) {
    const between = `book_id = ${its} AND code > ${quoted(after)}`
    const codes = await page(
      database,
      `SELECT ${columns} FROM codes WHERE ${between} ORDER BY code LIMIT ${size}`,
    )
    if (codes.length === 0) return
    const limits: string[] = []
    if (!isPlain)
      for (const [c, line] of codes.entries()) {
        const [code, limit, onItsWay] = line.split('\t') as [string, string, string]
        codes[c] = code
        // '-': nobody asks for this one.
        limits.push(onItsWay === 't' && !exact ? '-' : limit)
      }
    after = codes.at(-1)!
    const pairs: string[] = []
    const free = (c: number) => {
      const limit = limits[c] ?? ''
      if (limit !== '-') pairs.push(codes[c]!, limit)
    }
    // Both indexes in their order: whatever PostgreSQL would make of a join takes thrice as long, and
    // where it has no statistics yet, as in a sale that has just begun, it may take for ever.
    const held = `SELECT code FROM coupons WHERE ${between} AND code <= ${quoted(after)} ORDER BY code`
    let c = 0
    for await (const some of lines(database, (tx) => copyOut(tx, held)))
      for (const code of some) {
        while (c < codes.length && codes[c]! < code) free(c++)
        if (codes[c] === code) c++
      }
    while (c < codes.length) free(c++)
    yield { count: codes.length, open, pairs }
    if (codes.length < size) return
  }
}

/**
 * Who holds coupons of a book, and how many: user, count, user, count, ... All are of one moment. `coupons`: how
 * many there are about.
 */
export async function* holders(database: Database, book: string, exact: boolean, coupons: number) {
  const sql = `SELECT user_id, count(*) FROM coupons WHERE book_id = ${quoted(book)} AND user_id <> ''
    AND ${gently(exact, coupons, 5_000)} GROUP BY user_id`
  const all = lines(database, (tx) => patiently(tx, sql))
  for await (const some of all) yield some.flatMap((line) => line.split('\t'))
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
