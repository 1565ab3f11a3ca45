import type { SQL } from 'drizzle-orm'
import type { Book } from './books.ts'
import { type Database, openDatabase } from './database.ts'
import { PgDialect, sql } from './drizzle.ts'
import { type CouponState, inState } from './lists.ts'
import type { coupons } from './schema.ts'

/**
 * Whole tables as somebody downloads them: one snapshot, read by a cursor on a connection of its own,
 * so that memory stays bounded and nobody else waits for a place in the pool.
 */
export type ExportFilter = {
  state?: string
  user_id?: string
  from?: Date
  to?: Date
  /** Only what comes behind this one: a code, a redemption's id, a fact's name. */
  after?: string
}
export type ExportedCode = {
  code: string
  /** The code's own limit: null = the book's, 0 = no limit. */
  max_redemptions: number | null
  metadata: Record<string, unknown> | null
  coupon: Omit<typeof coupons.$inferSelect, 'code' | 'book_id' | 'version' | 'lock_token'> | null
}
export type ExportedRedemption = {
  redemption_id: string
  code: string
  user_id: string
  redeemed_at: Date
  rolled_back_at: Date | null
  rolled_back_by: string | null
  metadata: unknown
}
export type ExportedFact = {
  fact: string
  at: Date
  kind: string
  code: string
  user_id: string
  version: number
  redemptions: number
  max_redemptions: number
  locked_until: Date | null
  redemption_id: string | null
  actor: string | null
  request_id: string | null
  metadata: unknown
  recorded_at: Date | null
}
export type Exported = 'coupons' | 'assignments' | 'redemptions' | 'facts'
export type ExportedFault = { line: number; code: string; kind: string; reason: string }

/** Exports hold a snapshot each, and the dead rows of everybody stay as long as it does. */
const exportsMax = 3
const pageRows = 1_000
/** A page may have to pass by many facts of other books. */
const pageMs = 60_000
const graceMs = 5_000

export type Exports = ReturnType<typeof openExports>

/** `lists`: for what is asked beside an export, whose connections may all be taken. */
export function openExports(url: string, lists: Database) {
  const database = openDatabase(url, exportsMax, 'export', pageMs + graceMs)
  const dialect = new PgDialect()
  let underway = 0

  /** The pages of a query, and the time at which they were so; ends its transaction however it is left. */
  async function* pages<Row>(query: SQL, view: (row: unknown[]) => Row) {
    const tx = await database.connect()
    let broken: Error | undefined
    try {
      await tx.query('BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY')
      await tx.query(`SET LOCAL statement_timeout = ${pageMs}`)
      await tx.query(`SET LOCAL idle_in_transaction_session_timeout = ${pageMs}`)
      const { rows: clock } = await tx.query<{ now: Date }>('SELECT now() AS now')
      const { now } = clock[0]!
      const { sql: text, params } = dialect.sqlToQuery(query)
      await tx.query(`DECLARE page NO SCROLL CURSOR FOR ${text}`, params)
      for (;;) {
        const fetch = { text: `FETCH ${pageRows} FROM page`, rowMode: 'array' as const }
        const { rows } = await tx.query<unknown[]>({
          ...fetch,
          query_timeout: pageMs + graceMs,
        } as typeof fetch)
        yield { now, rows: rows.map(view) }
        if (rows.length < pageRows) return
      }
    } finally {
      await tx.query('ROLLBACK').catch((failure: Error) => {
        broken = failure
      })
      tx.release(broken)
    }
  }

  return {
    /** Takes a place for an export; undefined: all are taken. Whoever gets one gives it back. */
    enter(): (() => void) | undefined {
      if (underway >= exportsMax) return undefined
      underway += 1
      let isIn = true
      return () => {
        if (isIn) underway -= 1
        isIn = false
      }
    },

    /** Whether a line of this book has, or had, this name: one that an export can go on behind. */
    async hasLine(what: Exported, book: Book, name: string): Promise<boolean> {
      const { sql: text, params } = dialect.sqlToQuery(lineOf(what, book, name))
      return (await lists.query(text, params)).rowCount === 1
    },

    codes: (book: Book, filter: ExportFilter) => pages(codesOf(book, filter), codeView),
    assignments: (book: Book, filter: ExportFilter) => pages(assignmentsOf(book, filter), codeView),
    redemptions: (book: Book, filter: ExportFilter) =>
      pages(redemptionsOf(book, filter), redemptionView),
    facts: (book: Book, filter: ExportFilter) => pages(factsOf(book, filter), factView),
    faults: (importId: number) =>
      pages(
        sql`SELECT line, code, kind, reason FROM import_faults WHERE import_id = ${importId}
          ORDER BY line`,
        faultView,
      ),

    close: () => database.end(),
  }
}

const couponColumns = sql`coupons.user_id, coupons.redemptions, coupons.max_redemptions,
  coupons.locked_until, coupons.assigned_at, coupons.updated_at`

const all = (conditions: (SQL | undefined | false)[]): SQL =>
  sql.join(
    conditions.filter((one) => one !== undefined && one !== false),
    sql` AND `,
  )

function between(column: SQL, { from, to }: ExportFilter): SQL[] {
  return [
    ...(from ? [sql`${column} >= ${from.toISOString()}::timestamptz`] : []),
    ...(to ? [sql`${column} < ${to.toISOString()}::timestamptz`] : []),
  ]
}

/** By the clock of the transaction, which has not begun yet: SQL has to compare. */
const stateOf = (book: Book, state: string | undefined): SQL | undefined => {
  if (state === undefined) return undefined
  const ends = book.expiration_date?.toISOString() ?? 'infinity'
  const when = (expired: boolean) => inState(state as CouponState, expired)
  return sql`CASE WHEN ${ends}::timestamptz <= now() THEN ${when(true)} ELSE ${when(false)} END`
}

function codesOf(book: Book, filter: ExportFilter): SQL {
  const { state, user_id, after } = filter
  const times = between(sql`coupons.assigned_at`, filter)
  const user = user_id !== undefined && sql`coupons.user_id = ${user_id}`
  const home = (table: SQL) =>
    all([
      sql`${table}.book_id = ${book.book_id}`,
      after !== undefined && sql`${table}.code > ${after}`,
    ])
  // A counter book's codes come into being with their coupons.
  if (book.kind === 'counter')
    return sql`SELECT coupons.code, coupons.max_redemptions, NULL, ${couponColumns} FROM coupons
      WHERE ${all([home(sql`coupons`), user, ...times, stateOf(book, state)])} ORDER BY coupons.code`
  return sql`SELECT codes.code, codes.max_redemptions, codes.metadata, ${couponColumns}
    FROM codes LEFT JOIN coupons ON coupons.code = codes.code
    WHERE ${all([home(sql`codes`), user, ...times, stateOf(book, state)])} ORDER BY codes.code`
}

function assignmentsOf(book: Book, filter: ExportFilter): SQL {
  const { state, user_id, after } = filter
  const conditions = [
    sql`coupons.book_id = ${book.book_id} AND coupons.user_id <> ''`,
    after !== undefined && sql`coupons.code > ${after}`,
    user_id !== undefined && sql`coupons.user_id = ${user_id}`,
    ...between(sql`coupons.assigned_at`, filter),
    stateOf(book, state),
  ]
  return sql`SELECT coupons.code, coupons.max_redemptions, codes.metadata, ${couponColumns}
    FROM coupons LEFT JOIN codes ON codes.code = coupons.code
    WHERE ${all(conditions)} ORDER BY coupons.code`
}

/** By primary keys alone. A coupon that was given back is of its book, although it is assigned no more. */
function lineOf(what: Exported, { book_id, kind }: Book, name: string): SQL {
  if (what === 'redemptions')
    return sql`SELECT FROM redemptions WHERE redemption_id = ${name} AND book_id = ${book_id}`
  if (what === 'facts') {
    const [shard, epoch, n, i] = numbersOf(name)
    return sql`SELECT FROM ledger WHERE shard = ${shard} AND epoch = ${epoch} AND n = ${n} AND i = ${i}
      AND book_id = ${book_id}`
  }
  const table = kind === 'counter' ? sql`coupons` : sql`codes`
  return sql`SELECT FROM ${table} WHERE code = ${name} AND book_id = ${book_id}`
}

/** shard/epoch-n/i */
const numbersOf = (fact: string) => fact.split(/\D/).map(Number)

function codeView(row: unknown[]): ExportedCode {
  const [
    code,
    max,
    metadata,
    user_id,
    redemptions,
    max_redemptions,
    locked_until,
    assigned,
    updated,
  ] = row as [string, number | null, null, string | null, number, number, Date | null, Date, Date]
  const times = { locked_until, assigned_at: assigned, updated_at: updated }
  const coupon = user_id === null ? null : { user_id, redemptions, max_redemptions, ...times }
  return { code, max_redemptions: max, metadata, coupon }
}

function redemptionsOf(book: Book, filter: ExportFilter): SQL {
  const { state, user_id, after } = filter
  // Compared inside PostgreSQL, because its times are finer than a Date.
  const last = sql`SELECT redeemed_at FROM redemptions WHERE redemption_id = ${after}`
  const conditions = [
    sql`book_id = ${book.book_id}`,
    after !== undefined &&
      sql`redeemed_at <= (${last}) AND (redeemed_at < (${last}) OR redemption_id > ${after})`,
    user_id !== undefined && sql`user_id = ${user_id}`,
    ...between(sql`redeemed_at`, filter),
    state === 'REDEEMED' && sql`rolled_back_at IS NULL`,
    state === 'ROLLED_BACK' && sql`rolled_back_at IS NOT NULL`,
  ]
  return sql`SELECT redemption_id, code, user_id, redeemed_at, rolled_back_at, rolled_back_by, metadata
    FROM redemptions WHERE ${all(conditions)} ORDER BY redeemed_at DESC, redemption_id`
}

function redemptionView(row: unknown[]): ExportedRedemption {
  const [redemption_id, code, user_id, redeemed_at, rolled_back_at, rolled_back_by, metadata] =
    row as [string, string, string, Date, Date | null, string | null, unknown]
  return { redemption_id, code, user_id, redeemed_at, rolled_back_at, rolled_back_by, metadata }
}

/** In the order in which they happened. No index knows a book's facts: its shard's are read. */
function factsOf(book: Book, filter: ExportFilter): SQL {
  const { user_id, state, after } = filter
  const [, epoch, n, i] = numbersOf(after ?? '')
  const conditions = [
    sql`shard = ${book.shard} AND book_id = ${book.book_id}`,
    after !== undefined && sql`(epoch, n, i) > (${epoch}, ${n}, ${i})`,
    user_id !== undefined && sql`user_id = ${user_id}`,
    state !== undefined && sql`kind = ${state}`,
    ...between(sql`at`, filter),
  ]
  return sql`SELECT shard || '/' || epoch || '-' || n || '/' || i, at, kind, code, user_id, version,
      redemptions, max_redemptions, locked_until, redemption_id, context->>'actor',
      context->>'request_id', context->'metadata', recorded_at
    FROM ledger WHERE ${all(conditions)} ORDER BY epoch, n, i`
}

function factView(row: unknown[]): ExportedFact {
  const [fact, at, kind, code, user_id, version, redemptions, max_redemptions, ...rest] = row as [
    ...[string, Date, string, string, string, number, number, number],
    ...[Date | null, string | null, string | null, string | null, unknown, Date | null],
  ]
  const [locked_until, redemption_id, actor, request_id, metadata, recorded_at] = rest
  const head = { fact, at, kind, code, user_id, version, redemptions, max_redemptions }
  return { ...head, locked_until, redemption_id, actor, request_id, metadata, recorded_at }
}

const faultView = (row: unknown[]): ExportedFault => {
  const [line, code, kind, reason] = row as [number, string, string, string]
  return { line, code, kind, reason }
}
