import { randomUUID } from 'node:crypto'
import { drawPrefix } from '../codes.ts'
import { failpoint } from '../failpoint.ts'
import { type Problem, problem } from '../problems.ts'
import { audit, type Deed } from './audit.ts'
import { type Database, isUniqueViolation, type Transaction, transaction } from './database.ts'
import { and, drizzle, eq, inArray, isNull, lt, sql } from './drizzle.ts'
import { type Once, remember } from './once.ts'
import { books, codes, loads, shards } from './schema.ts'

/** A book's row: its policy, and how far Redis has followed it. null in a limit: no limit. */
export type Book = typeof books.$inferSelect

type Policy = Pick<
  Book,
  | 'name'
  | 'description'
  | 'owner_id'
  | 'code_pattern'
  | 'max_redemptions'
  | 'max_redemptions_per_user'
  | 'max_assignments_per_user'
  | 'lock_policy'
  | 'lock_seconds'
  | 'opens_at'
  | 'closes_at'
  | 'expiration_date'
  | 'is_active'
  | 'durability'
  | 'metadata'
>
/** allow_multi_redemption left out: whatever max_redemptions implies. */
export type NewBook = Policy & {
  kind: Book['kind']
  allow_multi_redemption?: boolean
  units?: number
  created_by: string
  once?: Once
}
export type BookChange = Partial<Policy> & {
  allow_multi_redemption?: boolean
  /** Of all its verbs, as a drain stops it; left out: whoever sets is_active opens it. */
  intake?: Book['intake']
}

/** Says no where a book's times contradict each other. */
function timesRefusal(book: Pick<Book, 'opens_at' | 'closes_at'>): Problem | undefined {
  const { opens_at, closes_at } = book
  if (!opens_at || !closes_at || opens_at < closes_at) return undefined
  const message = 'must be later than opens_at'
  return { ok: false, problem: 'invalid-request', errors: [{ path: 'closes_at', message }] }
}

/**
 * Makes a book on that one of `onto` which has the fewest; it never moves. `deedOf`: what the audit log
 * is to say of it.
 */
export async function createBook(
  database: Database,
  wanted: NewBook,
  onto: number[],
  deedOf?: (book: Book) => Deed,
): Promise<Book | Problem> {
  const refusal = timesRefusal(wanted)
  if (refusal) return refusal
  const { units = 0, created_by, once, ...policy } = wanted
  for (;;) {
    try {
      return await transaction(database, async (tx) => {
        const [book] = await drizzle(tx)
          .insert(books)
          .values({
            ...policy,
            book_id: randomUUID(),
            shard: emptiest(onto),
            code_prefix: policy.kind === 'counter' ? await freePrefix(tx) : null,
            allow_multi_redemption: policy.allow_multi_redemption ?? policy.max_redemptions !== 1,
            total_code_count: units,
          })
          .returning()
        if (units > 0) await noteUnits(tx, book!.book_id, units, created_by)
        await remember(tx, once, { book: book! })
        await onRecord(tx, deedOf?.(book!), null, book)
        return book!
      })
    } catch (error) {
      // Another counter book drew the same prefix at the same moment: draw again.
      const { cause } = error as Error
      if (!isUniqueViolation(cause, 'books_code_prefix_key')) throw error
    }
  }
}

/** Whoever creates books at the same moment spreads them by chance. */
const emptiest = (onto: number[]) => sql<number>`(
  SELECT ${shards.shard} FROM ${shards}
  LEFT JOIN ${books} ON ${books.shard} = ${shards.shard} AND ${books.archived_at} IS NULL
  WHERE ${shards.shard} = ANY(${sql.param(onto)}::integer[])
  GROUP BY 1 ORDER BY count(${books.book_id}), random() LIMIT 1)`

/** A prefix with which no code begins. */
async function freePrefix(tx: Transaction): Promise<string> {
  for (;;) {
    const prefix = drawPrefix()
    const [clash] = await drizzle(tx)
      .select({ code: codes.code })
      .from(codes)
      .where(sql`${codes.code} >= ${prefix} AND ${codes.code} < ${`${prefix}\x7f`}`)
      .limit(1)
    if (!clash) return prefix
  }
}

/** Units of a counter book stand in its total; a load's row says who added them, and when. */
async function noteUnits(tx: Transaction, book_id: string, count: number, created_by: string) {
  await drizzle(tx).insert(loads).values({
    book_id,
    source: 'units',
    state: 'pushed',
    total: count,
    written: count,
    created_by,
  })
}

export async function getBook(
  database: Database | Transaction,
  id: string,
): Promise<Book | undefined> {
  const rows = await drizzle(database).select().from(books).where(eq(books.book_id, id))
  return rows[0]
}

/** Limits of a user: what was given under another one is no violation of today's. */
const limits = ['max_assignments_per_user', 'max_redemptions_per_user'] as const

const risen = { version: sql`${books.version} + 1`, updated_at: sql`now()` }

/** In the transaction of what an operator does: a deed whose record could be lost was done by nobody. */
async function onRecord(
  tx: Transaction,
  deed: Deed | undefined,
  before: Book | null | undefined,
  after: Book | undefined,
): Promise<void> {
  if (!deed) return
  failpoint('book.before-audit')
  await audit(tx, { ...deed, before, after })
}

/**
 * Changes a book's policy. Its version rises, so that Redis takes it for newer than what it has.
 * `deed`: what the audit log is to say of it.
 */
export async function updateBook(
  database: Database,
  id: string,
  change: BookChange,
  deed?: Deed,
): Promise<Book | Problem> {
  return transaction(database, async (tx) => {
    const db = drizzle(tx)
    const [old] = await db.select().from(books).where(eq(books.book_id, id)).for('update')
    if (!old) return problem('book-not-found')
    if (old.archived_at) return problem('book-archived')
    const refusal = timesRefusal({ ...old, ...change })
    if (refusal) return refusal
    const derived =
      change.max_redemptions === undefined
        ? {}
        : { allow_multi_redemption: change.max_redemptions !== 1 }
    const isOther = limits.some((of) => change[of] !== undefined && change[of] !== old[of])
    const limited = isOther ? { limits_changed_at: sql`now()` } : {}
    const opened = change.is_active === undefined ? {} : { intake: 'open' as const }
    const [book] = await db
      .update(books)
      .set({ ...derived, ...opened, ...change, ...limited, ...risen })
      .where(eq(books.book_id, id))
      .returning()
    await onRecord(tx, deed, old, book)
    return book!
  })
}

/** Archives a book for ever. A book that is archived already stays as it is, and that is fine. */
export async function archiveBook(
  database: Database,
  id: string,
  deed?: Deed,
): Promise<Book | Problem> {
  return transaction(database, async (tx) => {
    const db = drizzle(tx)
    const [old] = await db.select().from(books).where(eq(books.book_id, id)).for('update')
    const rows = await db
      .update(books)
      .set({ ...risen, archived_at: sql`now()` })
      .where(and(eq(books.book_id, id), isNull(books.archived_at)))
      .returning()
    const book = rows[0] ?? old
    if (!book) return problem('book-not-found')
    if (rows[0]) await onRecord(tx, deed, old, rows[0])
    return book
  })
}

/** Adds units to a counter book: they reach Redis as part of its next version. */
export async function addUnits(
  database: Database,
  id: string,
  count: number,
  created_by: string,
  once?: Once,
  request_id?: string,
): Promise<Book | undefined> {
  return transaction(database, async (tx) => {
    const [book] = await drizzle(tx)
      .update(books)
      .set({ ...risen, total_code_count: sql`${books.total_code_count} + ${count}` })
      .where(and(eq(books.book_id, id), eq(books.kind, 'counter'), isNull(books.archived_at)))
      .returning()
    if (!book) return undefined
    await noteUnits(tx, id, count, created_by)
    await remember(tx, once, { book })
    const { total_code_count } = book
    await audit(tx, {
      ...{ actor: created_by, action: 'books.units', target: `book:${id}`, request_id },
      before: { total_code_count: total_code_count - count },
      after: { total_code_count },
    })
    return book
  })
}

/** Redis has this version of the book. */
export async function markBookPushed(database: Database, { book_id, version }: Book) {
  await drizzle(database)
    .update(books)
    .set({ pushed_version: version })
    .where(and(eq(books.book_id, book_id), lt(books.pushed_version, version)))
}

/** Books of these shards whose last change Redis may not have. */
export async function unpushedBooks(database: Database, onShards: number[]): Promise<string[]> {
  const rows = await drizzle(database)
    .select({ id: books.book_id })
    .from(books)
    .where(and(lt(books.pushed_version, books.version), inArray(books.shard, onShards)))
    .limit(100)
  return rows.map((row) => row.id)
}
