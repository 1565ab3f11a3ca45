import { z } from '@hono/zod-openapi'
import type { Deps } from '../app.ts'
import type { Book } from '../ledger/books.ts'
import type { ListedCode, Redemption } from '../ledger/lists.ts'
import { CouponResponse, couponView, stockView } from './coupon-view.ts'
import { answer, problemResponse } from './respond.ts'
import { resource } from './route.ts'
import { bookId, code, instant, listOf, page, strict, uuid } from './schemas.ts'

const params = strict({ book_id: bookId })
const readers = ['admin', 'service'] as const
const cursor = { description: '`next_cursor` of the page before' }

const StatsResponse = z
  .object({
    book_id: bookId,
    total: z.number(),
    available: z.number().openapi({ description: 'in stock' }),
    assigned: z.number(),
    locked: z.number(),
    redeemed: z.number(),
    expired: z.number().openapi({ description: 'all that was not redeemed of an expired book' }),
    users: z.number().openapi({ description: 'who hold a coupon of it, redeemed or not' }),
    void: z.number().openapi({ description: 'taken out of circulation for good' }),
  })
  .openapi('BookStats')

const HistoryResponse = z
  .object({
    history_id: uuid,
    redemption_id: uuid,
    code,
    user_id: z.string(),
    book_id: bookId,
    redeemed_at: instant,
    redemption_metadata: z.record(z.string(), z.unknown()).nullable(),
    rolled_back_at: instant.nullable(),
  })
  .openapi('RedemptionHistory')

const historyView = (one: Redemption): z.infer<typeof HistoryResponse> => ({
  history_id: one.redemption_id,
  redemption_id: one.redemption_id,
  code: one.code,
  user_id: one.user_id,
  book_id: one.book_id,
  redeemed_at: one.redeemed_at.toISOString(),
  redemption_metadata: one.metadata as Record<string, unknown> | null,
  rolled_back_at: one.rolled_back_at?.toISOString() ?? null,
})

type Listed = Pick<ListedCode, 'code'> & {
  max: number
  coupon: Omit<NonNullable<ListedCode['coupon']>, 'book_id' | 'version' | 'lock_token'> | null
}

/** A code of a book as it is at a time. */
export function codeView(book: Book, { code, max, coupon }: Listed, at: Date) {
  const about = {
    book: book.book_id,
    expiresAt: book.expiration_date?.getTime() ?? 0,
    now: at.getTime(),
  }
  if (!coupon) return stockView(code, max, about)
  if (coupon.user_id === '') return stockView(code, max, about, 'VOID')
  const record = {
    user: coupon.user_id,
    redemptions: coupon.redemptions,
    max: coupon.max_redemptions,
    lockedUntil: coupon.locked_until?.getTime() ?? 0,
    assignedAt: coupon.assigned_at.getTime(),
    updatedAt: coupon.updated_at.getTime(),
  }
  return couponView(code, record, about)
}

/** What a book holds. Counters come from Redis, lists from PostgreSQL once it is level. */
export function bookListRoutes(deps: Deps) {
  const { books, durable } = deps

  return resource(deps, 'Books')
    .route(
      {
        method: 'get',
        path: '/books/{book_id}/stats',
        summary: 'How many coupons of a book are in which state now',
        needs: 'anyone',
        params,
        answers: { 200: StatsResponse },
        problems: ['book-not-found'],
      },
      async (c, { params }) => {
        const book = await books.get(params.book_id)
        if ('problem' in book) return problemResponse(c, book)
        const level = await durable.barrier([book.shard])
        if (!level.ok) return problemResponse(c, level)
        const counts = await books.counts(book)
        if (!counts.ok) return problemResponse(c, counts)
        const { left, held, redeemed, users } = counts
        const open = held - redeemed
        const isExpired =
          book.expiration_date !== null && book.expiration_date.getTime() <= Date.now()
        const locked = isExpired ? 0 : Math.min(counts.locked, open)
        return answer(c, 200, {
          book_id: book.book_id,
          total: left + held + counts.void,
          available: isExpired ? 0 : left,
          assigned: isExpired ? 0 : open - locked,
          locked,
          redeemed,
          expired: isExpired ? left + open : 0,
          users,
          void: counts.void,
        })
      },
    )
    .route(
      {
        method: 'get',
        path: '/books/{book_id}/coupons',
        summary: 'The coupons of a book by code, those in stock too',
        description:
          'Of a counter book, those that were assigned: a unit in stock has no code yet.',
        needs: readers,
        params,
        query: strict({
          state: z
            .enum(['UNASSIGNED', 'ASSIGNED', 'LOCKED', 'REDEEMED', 'EXPIRED', 'VOID'])
            .optional(),
          ...page,
          starting_after: code.optional().openapi(cursor),
        }),
        answers: { 200: listOf(CouponResponse) },
        problems: ['book-not-found'],
      },
      async (c, { params, query }) => {
        const book = await books.get(params.book_id)
        if ('problem' in book) return problemResponse(c, book)
        const level = await durable.barrier([book.shard])
        if (!level.ok) return problemResponse(c, level)
        const { starting_after: after, ...rest } = query
        const { now, rows } = await books.codes(book, { ...rest, after })
        const data = rows.slice(0, query.limit).map((row) => codeView(book, row, now))
        const has_more = rows.length > query.limit
        return answer(c, 200, { data, has_more, next_cursor: has_more ? data.at(-1)!.code : null })
      },
    )
    .route(
      {
        method: 'get',
        path: '/books/{book_id}/redemption-history',
        summary: 'The redemptions of a book, newest first, those that were rolled back too',
        needs: readers,
        params,
        query: strict({ ...page, starting_after: uuid.optional().openapi(cursor) }),
        answers: { 200: listOf(HistoryResponse) },
        problems: ['book-not-found', 'invalid-cursor'],
      },
      async (c, { params, query }) => {
        const book = await books.get(params.book_id)
        if ('problem' in book) return problemResponse(c, book)
        const level = await durable.barrier([book.shard])
        if (!level.ok) return problemResponse(c, level)
        const { starting_after: after, ...rest } = query
        const rows = await books.redemptions(book.book_id, { ...rest, after })
        if ('problem' in rows) return problemResponse(c, rows)
        const data = rows.slice(0, query.limit).map(historyView)
        const has_more = rows.length > query.limit
        const next_cursor = has_more ? data.at(-1)!.redemption_id : null
        return answer(c, 200, { data, has_more, next_cursor })
      },
    )
}
