import { randomBytes } from 'node:crypto'
import type { Deps } from '../app.ts'
import { actingUser } from './context.ts'
import { CouponResponse, couponView } from './coupon-view.ts'
import { answerEffect, ForUser, lockToken, readAsk, refuseEffect, repeats } from './effect.ts'
import { problemResponse } from './respond.ts'
import { resource } from './route.ts'
import { code, count, strict, userId } from './schemas.ts'

const LockRequest = strict({
  user_id: userId.optional(),
  lock_duration_seconds: count(1, 3_600).optional(),
  lock_token: lockToken.optional(),
}).openapi('LockRequest')
const LockResponse = CouponResponse.extend({ lock_token: lockToken }).openapi('LockedCoupon')

/** lock and unlock: exclude others for a while, and end that. */
export function lockRoutes(deps: Deps) {
  const { store, directory } = deps

  return resource(deps, 'Coupons')
    .route(
      {
        method: 'post',
        path: '/coupons/lock/{code}',
        summary: "Keep an assigned coupon for its user; the lock's own token extends it",
        verb: 'lock',
        guesses: true,
        needs: 'anyone',
        scope: 'lock',
        params: strict({ code }),
        body: LockRequest,
        bodyOptional: true,
        answers: { 200: LockResponse, 202: LockResponse },
        problems: [
          'book-archived',
          'coupon-not-found',
          'coupon-redeemed',
          'book-expired',
          'coupon-locked',
          'lock-expired',
          'forbidden',
          ...repeats,
        ],
      },
      async (c, { params, body }, who) => {
        const user = actingUser(who, body.user_id)
        if (typeof user !== 'string') return problemResponse(c, user)
        const place = await directory.bookOfCode(params.code)
        if ('problem' in place) return problemResponse(c, place)
        const asked = await readAsk(c, deps, who, 'lock', place, { ...params, ...body })
        if (!asked.ok) return problemResponse(c, asked)
        const { key, hash, context } = asked.ask
        const seconds = body.lock_duration_seconds
        const outcome = await store.lock(place, {
          code: params.code,
          user,
          token: body.lock_token ?? '',
          fresh: randomBytes(16).toString('base64url'),
          ttl_ms: seconds === undefined ? '' : String(seconds * 1000),
          key,
          hash,
          context,
        })
        if (!outcome.ok) return refuseEffect(c, deps, outcome, asked.ask)
        const { value: coupon, at: now, expiresAt } = outcome
        return answerEffect(c, deps, outcome, asked.ask, {
          ...couponView(params.code, coupon, { book: place.book, expiresAt, now }),
          lock_token: coupon.lockToken,
        })
      },
    )
    .route(
      {
        method: 'post',
        path: '/coupons/unlock/{code}',
        summary: 'End the lock of a coupon; the answer is the same where there was none',
        verb: 'unlock',
        guesses: true,
        needs: 'anyone',
        scope: 'lock',
        params: strict({ code }),
        body: ForUser,
        bodyOptional: true,
        answers: { 200: CouponResponse, 202: CouponResponse },
        problems: ['book-archived', 'coupon-not-found', 'coupon-redeemed', 'forbidden', ...repeats],
      },
      async (c, { params, body }, who) => {
        const user = actingUser(who, body.user_id)
        if (typeof user !== 'string') return problemResponse(c, user)
        const place = await directory.bookOfCode(params.code)
        if ('problem' in place) return problemResponse(c, place)
        const asked = await readAsk(c, deps, who, 'unlock', place, { ...params, ...body })
        if (!asked.ok) return problemResponse(c, asked)
        const { key, hash, context } = asked.ask
        const outcome = await store.unlock(place, { code: params.code, user, key, hash, context })
        if (!outcome.ok) return refuseEffect(c, deps, outcome, asked.ask)
        const { value: coupon, at: now, expiresAt } = outcome
        const view = couponView(params.code, coupon, { book: place.book, expiresAt, now })
        return answerEffect(c, deps, outcome, asked.ask, view)
      },
    )
}
