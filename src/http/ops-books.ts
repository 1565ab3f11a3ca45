import { z } from '@hono/zod-openapi'
import type { Deps } from '../app.ts'
import { BookResponse, bookView } from './book-view.ts'
import { type Context, factContext, type Principal } from './context.ts'
import { refuseEffect } from './effect.ts'
import { actors, admins, by, reason, Switched } from './ops.ts'
import { answer, problemResponse } from './respond.ts'
import { resource } from './route.ts'
import { bookId, code, strict, uuid } from './schemas.ts'

const Done = z
  .object({
    code,
    entry: z.string().openapi({ description: 'The fact, as shard/epoch-n/i' }),
    durable: z.boolean().openapi({ description: 'false: done in Redis, the ledger is late' }),
  })
  .openapi('CouponDeed')

/** What any of the three may answer besides its own refusals. */
const usual = ['coupon-not-found', 'book-archived', 'intake-stopped', 'backlog'] as const
const unsure = ['outcome-unknown', 'not-durable', 'not-ready'] as const

const body = strict({ reason })
type Body = { reason: string }
const ofBook = {
  method: 'post',
  params: strict({ book_id: bookId }),
  body,
  problems: ['book-not-found', 'book-archived'],
} as const
type OfBook = { params: { book_id: string }; body: Body }
const ofCode = {
  method: 'post',
  guesses: true,
  params: strict({ code }),
  body,
  answers: { 200: Done, 202: Done },
  problems: [
    'coupon-void',
    'coupon-redeemed',
    'coupon-in-use',
    'coupon-locked',
    ...usual,
    ...unsure,
  ],
} as const
type OfCode = { params: { code: string }; body: Body }

/** One book or one coupon, as an operator changes it: with a reason, which stands in the audit log. */
export function opsBookRoutes(deps: Deps) {
  const { ops } = deps

  const set =
    (state: 'active' | 'paused') =>
    async (c: Context, { params, body }: OfBook, who: Principal) => {
      const done = await ops.setBook(params.book_id, state, by(c, who, body.reason))
      return 'problem' in done ? problemResponse(c, done) : answer(c, 200, done)
    }
  const end =
    (how: 'close' | 'archive') =>
    async (c: Context, { params, body }: OfBook, who: Principal) => {
      const book = await ops.endBook(params.book_id, how, by(c, who, body.reason))
      return 'problem' in book ? problemResponse(c, book) : answer(c, 200, bookView(book))
    }
  const act = async (
    c: Context,
    who: Principal,
    wanted: Parameters<typeof ops.doOnCoupon>[0],
    why: string,
  ) => {
    const done = await ops.doOnCoupon(wanted, by(c, who, why), factContext(c, who, deps.addressOf))
    if ('problem' in done) return refuseEffect(c, deps, done, who)
    return done.durable ? answer(c, 200, done) : answer(c, 202, done)
  }
  const actOn =
    (verb: 'release' | 'void') =>
    (c: Context, { params, body }: OfCode, who: Principal) =>
      act(c, who, { verb, subject: params.code }, body.reason)

  return resource(deps, 'Ops')
    .route(
      {
        ...ofBook,
        path: '/ops/books/{book_id}/open',
        summary: 'Let a book give out coupons',
        needs: actors,
        answers: { 200: Switched },
      },
      set('active'),
    )
    .route(
      {
        ...ofBook,
        path: '/ops/books/{book_id}/pause',
        summary: 'Hold a book: its assignments answer 409 book-inactive',
        needs: actors,
        answers: { 200: Switched },
      },
      set('paused'),
    )
    .route(
      {
        ...ofBook,
        path: '/ops/books/{book_id}/close',
        summary: "End a book's sale now: nothing more is given out, what was given stays usable",
        needs: actors,
        answers: { 200: BookResponse },
      },
      end('close'),
    )
    .route(
      {
        ...ofBook,
        path: '/ops/books/{book_id}/archive',
        summary: 'End a book for ever: no verb works any more, its history stays readable',
        needs: admins,
        answers: { 200: BookResponse },
      },
      end('archive'),
    )
    .route(
      {
        ...ofCode,
        path: '/ops/coupons/{code}/release',
        summary: "Put an assigned coupon back into stock; a counter book's code becomes void",
        needs: actors,
      },
      actOn('release'),
    )
    .route(
      {
        ...ofCode,
        path: '/ops/coupons/{code}/void',
        summary: 'Take a code out of circulation for good, from stock or from its holder',
        needs: admins,
      },
      actOn('void'),
    )
    .route(
      {
        method: 'post',
        path: '/ops/redemptions/{redemption_id}/rollback',
        summary: 'Undo one redemption, once',
        needs: actors,
        params: strict({ redemption_id: uuid }),
        body,
        answers: { 200: Done, 202: Done },
        problems: ['already-rolled-back', 'redemption-not-found', ...usual, ...unsure],
      },
      (c, { params, body }, who) =>
        act(c, who, { verb: 'rollback', subject: params.redemption_id }, body.reason),
    )
}
