import { randomUUID } from 'node:crypto'
import { z } from '@hono/zod-openapi'
import type { Deps } from '../app.ts'
import { problem } from '../problems.ts'
import { actingUser } from './context.ts'
import { CouponResponse, couponView } from './coupon-view.ts'
import { answerEffect, lockToken, readAsk, refuseEffect, repeats } from './effect.ts'
import { problemResponse } from './respond.ts'
import { resource } from './route.ts'
import { bookId, code, instant, metadata, strict, userId, uuid } from './schemas.ts'

const RedeemRequest = strict({
  user_id: userId.optional(),
  lock_token: lockToken.optional(),
  metadata: metadata.nullable().optional(),
}).openapi('RedeemRequest')
const RedeemResponse = z
  .object({
    success: z.boolean(),
    code,
    user_id: z.string(),
    redeemed_at: instant,
    redemption_count: z.number().int(),
    remaining_redemptions: z.number().int().nullable(),
    metadata: z.record(z.string(), z.unknown()).nullable(),
    redemption_id: z.string(),
    book_id: bookId,
    state: z.string(),
  })
  .openapi('Redemption')

const iso = (ms: number) => new Date(ms).toISOString()

/** redeem and rollback: permanent use, and the undoing of one named redemption. */
export function redeemRoutes(deps: Deps) {
  const { store, directory } = deps

  return resource(deps, 'Coupons')
    .route(
      {
        method: 'post',
        path: '/coupons/redeem/{code}',
        summary: 'Use a coupon for good, or one of its uses',
        verb: 'redeem',
        guesses: true,
        needs: 'anyone',
        scope: 'redeem',
        params: strict({ code }),
        body: RedeemRequest,
        bodyOptional: true,
        answers: { 200: RedeemResponse, 202: RedeemResponse },
        problems: [
          'book-archived',
          'coupon-not-found',
          'coupon-redeemed',
          'book-expired',
          'redemption-limit',
          'coupon-locked',
          'lock-expired',
          'lock-required',
          'forbidden',
          ...repeats,
        ],
      },
      async (c, { params, body }, who) => {
        const user = actingUser(who, body.user_id)
        if (typeof user !== 'string') return problemResponse(c, user)
        const place = await directory.bookOfCode(params.code)
        if ('problem' in place) return problemResponse(c, place)
        const given = body.metadata ?? undefined
        const asked = await readAsk(c, deps, who, 'redeem', place, { ...params, ...body }, given)
        if (!asked.ok) return problemResponse(c, asked)
        const { key, hash, context } = asked.ask
        const outcome = await store.redeem(place, {
          code: params.code,
          user,
          token: body.lock_token ?? '',
          redemption: randomUUID(),
          key,
          hash,
          context,
        })
        if (!outcome.ok) return refuseEffect(c, deps, outcome, asked.ask)
        const { coupon, redemption } = outcome.value
        const shown = { book: place.book, expiresAt: outcome.expiresAt, now: outcome.at }
        const view = couponView(params.code, coupon, shown)
        return answerEffect(c, deps, outcome, asked.ask, {
          success: true,
          code: params.code,
          user_id: user,
          redeemed_at: iso(outcome.at),
          redemption_count: view.redemption_count,
          remaining_redemptions: view.remaining_redemptions,
          metadata: given ?? null,
          redemption_id: redemption,
          book_id: place.book,
          state: view.state,
        })
      },
    )
    .route(
      {
        method: 'post',
        path: '/redemptions/{redemption_id}/rollback',
        summary: 'Undo one redemption, once',
        verb: 'rollback',
        needs: ['admin', 'service'],
        scope: 'rollback',
        params: strict({ redemption_id: uuid }),
        body: strict({}),
        bodyOptional: true,
        answers: { 200: CouponResponse, 202: CouponResponse },
        problems: ['book-archived', 'already-rolled-back', 'redemption-not-found', ...repeats],
      },
      async (c, { params }, who) => {
        const redemption = params.redemption_id
        const its = await directory.codeOfRedemption(redemption)
        if (typeof its !== 'string') return problemResponse(c, its)
        const place = await directory.bookOfCode(its)
        if ('problem' in place) return problemResponse(c, problem('redemption-not-found'))
        const asked = await readAsk(c, deps, who, 'rollback', place, params)
        if (!asked.ok) return problemResponse(c, asked)
        const { key, hash, context } = asked.ask
        const outcome = await store.rollback(place, { code: its, redemption, key, hash, context })
        if (!outcome.ok) return refuseEffect(c, deps, outcome, asked.ask)
        const { value: coupon, at: now, expiresAt } = outcome
        const view = couponView(its, coupon, { book: place.book, expiresAt, now })
        return answerEffect(c, deps, outcome, asked.ask, view)
      },
    )
}
