import type { Database } from './database.ts'
import { and, count, drizzle, eq, gt } from './drizzle.ts'
import { books, coupons } from './schema.ts'

export type Holding = typeof coupons.$inferSelect & { expiration_date: Date | null }

export type HoldingsPage = { bookId?: string; after?: string; limit: number; skip: number }
export type Holdings = (
  user: string,
  page: HoldingsPage,
) => Promise<{ total: number; rows: Holding[] }>

/**
 * Reads what a user holds, in byte order of the codes: up to limit + 1 rows after `after`, and how
 * many there are in all. `bookId` narrows both.
 */
export function openHoldings(database: Database): Holdings {
  const db = drizzle(database)
  return async (user, { bookId, after = '', limit, skip }) => {
    const theirs = and(
      eq(coupons.user_id, user),
      bookId === undefined ? undefined : eq(coupons.book_id, bookId),
    )
    const [counted, rows] = await Promise.all([
      db.select({ total: count() }).from(coupons).where(theirs),
      db
        .select({ coupon: coupons, expiration_date: books.expiration_date })
        .from(coupons)
        .innerJoin(books, eq(books.book_id, coupons.book_id))
        .where(and(theirs, gt(coupons.code, after)))
        .orderBy(coupons.code)
        .limit(limit + 1)
        .offset(skip),
    ])
    return {
      total: counted[0]!.total,
      rows: rows.map(({ coupon, expiration_date }) => ({ ...coupon, expiration_date })),
    }
  }
}
