import type { Deps } from '../app.ts'
import { CouponResponse, stockView } from './coupon-view.ts'
import { answerEffect, readAsk, refuseEffect, repeats } from './effect.ts'
import { problemResponse } from './respond.ts'
import { resource } from './route.ts'
import { code, strict } from './schemas.ts'

/** release: an administrator puts an assigned coupon back into stock. */
export function releaseRoutes(deps: Deps) {
  const { store, directory } = deps

  return resource(deps, 'Coupons').route(
    {
      method: 'post',
      path: '/coupons/release/{code}',
      summary: "Put an assigned coupon back into stock; a counter book's code becomes void",
      verb: 'release',
      needs: ['admin'],
      params: strict({ code }),
      body: strict({}),
      bodyOptional: true,
      answers: { 200: CouponResponse, 202: CouponResponse },
      problems: [
        'book-archived',
        'coupon-not-found',
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
      const book = await directory.book(place.book)
      if ('problem' in book) return problemResponse(c, book)
      const asked = await readAsk(c, deps, who, 'release', place, params)
      if (!asked.ok) return problemResponse(c, asked)
      const { key, hash, context } = asked.ask
      const outcome = await store.release(place, { code: params.code, key, hash, context })
      if (!outcome.ok) return refuseEffect(c, deps, outcome, asked.ask)
      const { value: coupon, at: now, expiresAt } = outcome
      const shown = { book: place.book, expiresAt, now }
      const view =
        book.kind === 'counter'
          ? stockView(params.code, coupon.max, shown, 'VOID')
          : stockView(params.code, coupon.max, shown)
      return answerEffect(c, deps, outcome, asked.ask, view)
    },
  )
}
