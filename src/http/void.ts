import type { Deps } from '../app.ts'
import { CouponResponse, stockView } from './coupon-view.ts'
import { answerEffect, readAsk, refuseEffect, repeats } from './effect.ts'
import { problemResponse } from './respond.ts'
import { resource } from './route.ts'
import { code, strict } from './schemas.ts'

/** void: an administrator takes a code out of circulation for good. */
export function voidRoutes(deps: Deps) {
  const { store, directory } = deps

  return resource(deps, 'Coupons').route(
    {
      method: 'post',
      path: '/coupons/void/{code}',
      summary: 'Take a code out of circulation for good, from stock or from its holder',
      verb: 'void',
      needs: ['admin'],
      params: strict({ code }),
      body: strict({}),
      bodyOptional: true,
      answers: { 200: CouponResponse, 202: CouponResponse },
      problems: [
        'book-archived',
        'coupon-not-found',
        'not-ready',
        'coupon-void',
        'coupon-redeemed',
        'coupon-in-use',
        'coupon-locked',
        ...repeats,
      ],
    },
    async (c, { params }, who) => {
      const place = await directory.bookOfCode(params.code)
      if ('problem' in place) return problemResponse(c, place)
      const asked = await readAsk(c, deps, who, 'void', place, params)
      if (!asked.ok) return problemResponse(c, asked)
      const { key, hash, context } = asked.ask
      const outcome = await store.void(place, { code: params.code, key, hash, context })
      if (!outcome.ok) return refuseEffect(c, deps, outcome, asked.ask)
      const { value: coupon, at: now, expiresAt } = outcome
      const shown = { book: place.book, expiresAt, now }
      const view = stockView(params.code, coupon.max, shown, 'VOID')
      return answerEffect(c, deps, outcome, asked.ask, view)
    },
  )
}
