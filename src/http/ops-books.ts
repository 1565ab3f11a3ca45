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
const unsure = ['outcome-unknown', 'not-ready'] as const

/** One book or one coupon, as an operator changes it: with a reason, which stands in the audit log. */
export function opsBookRoutes(deps: Deps) {
  const { api, route } = resource(deps, 'Ops')
  const { ops } = deps

  for (const [name, active] of [
    ['open', true],
    ['pause', false],
  ] as const)
    route(
      {
        method: 'post',
        path: `/ops/books/{book_id}/${name}`,
        summary: active
          ? 'Let a book give out coupons'
          : 'Hold a book: its assignments answer 409 book-inactive',
        needs: actors,
        params: strict({ book_id: bookId }),
        body: strict({ reason }),
        answers: { 200: Switched },
        problems: ['book-not-found', 'book-archived'],
      },
      async (c, { params, body }, who) => {
        const done = await ops.setBook(
          params.book_id,
          active ? 'active' : 'paused',
          by(c, who, body.reason),
        )
        return 'problem' in done ? problemResponse(c, done) : answer(c, 200, done)
      },
    )

  for (const name of ['close', 'archive'] as const)
    route(
      {
        method: 'post',
        path: `/ops/books/{book_id}/${name}`,
        summary:
          name === 'close'
            ? "End a book's sale now: nothing more is given out, what was given stays usable"
            : 'End a book for ever: no verb works any more, its history stays readable',
        needs: name === 'close' ? actors : admins,
        params: strict({ book_id: bookId }),
        body: strict({ reason }),
        answers: { 200: BookResponse },
        problems: ['book-not-found', 'book-archived'],
      },
      async (c, { params, body }, who) => {
        const book = await ops.endBook(params.book_id, name, by(c, who, body.reason))
        return 'problem' in book ? problemResponse(c, book) : answer(c, 200, bookView(book))
      },
    )

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

  for (const verb of ['release', 'void'] as const)
    route(
      {
        method: 'post',
        path: `/ops/coupons/{code}/${verb}`,
        summary:
          verb === 'release'
            ? "Put an assigned coupon back into stock; a counter book's code becomes void"
            : 'Take a code out of circulation for good, from stock or from its holder',
        needs: verb === 'release' ? actors : admins,
        params: strict({ code }),
        body: strict({ reason }),
        answers: { 200: Done, 202: Done },
        problems: [
          ...(['coupon-void', 'coupon-redeemed', 'coupon-in-use', 'coupon-locked'] as const),
          ...usual,
          ...unsure,
        ],
      },
      (c, { params, body }, who) => act(c, who, { verb, subject: params.code }, body.reason),
    )

  route(
    {
      method: 'post',
      path: '/ops/redemptions/{redemption_id}/rollback',
      summary: 'Undo one redemption, once',
      needs: actors,
      params: strict({ redemption_id: uuid }),
      body: strict({ reason }),
      answers: { 200: Done, 202: Done },
      problems: ['already-rolled-back', 'redemption-not-found', ...usual, ...unsure],
    },
    (c, { params, body }, who) =>
      act(c, who, { verb: 'rollback', subject: params.redemption_id }, body.reason),
  )
  return api
}
