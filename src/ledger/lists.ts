import type { SQL } from 'drizzle-orm'
import { type Problem, problem } from '../problems.ts'
import type { Book } from './books.ts'
import type { Database } from './database.ts'
import { and, desc, drizzle, eq, gt, isNull, sql } from './drizzle.ts'
import { books, codes, coupons, redemptions } from './schema.ts'

/** What lists show. All give up to limit + 1 rows: one more than asked for says that there are more. */
export type Page = { limit: number; after?: string; skip: number }
export type BookFilter = Page & {
  owner_id?: string
  is_active?: boolean
  archived: boolean
}

/** Newest first. */
export async function listBooks(database: Database, filter: BookFilter): Promise<Book[] | Problem> {
  const { owner_id, is_active, archived, limit, after, skip } = filter
  const db = drizzle(database)
  const position = sql`(${books.created_at}, ${books.book_id})`
  const last = db
    .select({ at: books.created_at, id: books.book_id })
    .from(books)
    .where(eq(books.book_id, after ?? ''))
  if (after !== undefined && (await last).length === 0) return problem('invalid-cursor')
  return db
    .select()
    .from(books)
    .where(
      and(
        owner_id === undefined ? undefined : eq(books.owner_id, owner_id),
        is_active === undefined ? undefined : eq(books.is_active, is_active),
        archived ? undefined : isNull(books.archived_at),
        // Compared inside PostgreSQL, because its times are finer than a Date.
        after === undefined ? undefined : sql`${position} < (${last})`,
      ),
    )
    .orderBy(desc(books.created_at), desc(books.book_id))
    .limit(limit + 1)
    .offset(skip)
}

export type CouponState = 'UNASSIGNED' | 'ASSIGNED' | 'LOCKED' | 'REDEEMED' | 'EXPIRED' | 'VOID'

/** A code as the list of its book shows it; `coupon` is null while it is in stock. Nobody has a void one. */
export type ListedCode = {
  code: string
  /** The code's own limit: null = the book's, 0 = no limit. */
  max_redemptions: number | null
  coupon: typeof coupons.$inferSelect | null
}

const usedUp = sql`(${coupons.max_redemptions} > 0
  AND ${coupons.redemptions} >= ${coupons.max_redemptions})`
const isLocked = sql`coalesce(${coupons.locked_until} > now(), false)`
const isVoid = sql`coalesce(${coupons.user_id} = '', false)`

/** Which coupons are in a state now. Order of precedence: VOID, REDEEMED, EXPIRED, LOCKED, ... */
export function inState(state: CouponState, expired: boolean): SQL {
  if (state === 'VOID') return isVoid
  if (state === 'REDEEMED') return usedUp
  if (state === 'EXPIRED')
    return expired ? sql`NOT ${isVoid} AND coalesce(${usedUp}, false) = false` : sql`false`
  if (expired) return sql`false`
  if (state === 'UNASSIGNED') return isNull(coupons.code)
  return state === 'LOCKED'
    ? sql`NOT ${usedUp} AND ${isLocked}`
    : sql`NOT ${usedUp} AND NOT ${isLocked} AND NOT ${isVoid}`
}

/** The codes of a book in byte order, with those in stock, and the time at which this was so. */
export async function listCodes(
  database: Database,
  book: Pick<Book, 'book_id' | 'kind' | 'expiration_date'>,
  { state, after = '', limit, skip }: Page & { state?: CouponState },
): Promise<{ now: Date; rows: ListedCode[] }> {
  const db = drizzle(database)
  const { rows: clock } = await database.query<{ now: Date }>('SELECT now() AS now')
  const { now } = clock[0]!
  const expired = book.expiration_date !== null && book.expiration_date <= now
  const condition = state && inState(state, expired)
  // A counter book's codes come into being with their coupons; and no other stands in these states.
  if (
    book.kind === 'counter' ||
    state === 'ASSIGNED' ||
    state === 'LOCKED' ||
    state === 'REDEEMED' ||
    state === 'VOID'
  ) {
    const rows = await db
      .select()
      .from(coupons)
      .where(and(eq(coupons.book_id, book.book_id), gt(coupons.code, after), condition))
      .orderBy(coupons.code)
      .limit(limit + 1)
      .offset(skip)
    return { now, rows: rows.map((coupon) => ({ ...coupon, coupon })) }
  }
  const rows = await db
    .select({
      code: codes.code,
      max_redemptions: codes.max_redemptions,
      coupon: coupons,
    })
    .from(codes)
    .leftJoin(coupons, eq(coupons.code, codes.code))
    .where(and(eq(codes.book_id, book.book_id), gt(codes.code, after), condition))
    .orderBy(codes.code)
    .limit(limit + 1)
    .offset(skip)
  return { now, rows }
}

/** Coupons of a book that someone has locked right now. */
export async function countLocked(database: Database, bookId: string): Promise<number> {
  return drizzle(database).$count(
    coupons,
    and(eq(coupons.book_id, bookId), isLocked, sql`NOT ${usedUp}`),
  )
}

export type Redemption = typeof redemptions.$inferSelect

/** Newest first, those that were rolled back too. */
export async function listRedemptions(
  database: Database,
  bookId: string,
  { limit, after, skip }: Page,
): Promise<Redemption[] | Problem> {
  const db = drizzle(database)
  const { redemption_id, redeemed_at } = redemptions
  const last = db
    .select({ at: redeemed_at })
    .from(redemptions)
    .where(and(eq(redemption_id, after ?? ''), eq(redemptions.book_id, bookId)))
  if (after !== undefined && (await last).length === 0) return problem('invalid-cursor')
  return db
    .select()
    .from(redemptions)
    .where(
      and(
        eq(redemptions.book_id, bookId),
        after === undefined
          ? undefined
          : sql`(${redeemed_at} < (${last})
              OR ${redeemed_at} = (${last}) AND ${redemption_id} > ${after})`,
      ),
    )
    .orderBy(desc(redeemed_at), redemption_id)
    .limit(limit + 1)
    .offset(skip)
}
