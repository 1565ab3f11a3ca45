import type { Deps } from '../app.ts'
import { problem } from '../problems.ts'
import { actsForOthers } from './context.ts'
import { CouponResponse, couponView, stockView } from './coupon-view.ts'
import { answer, problemResponse } from './respond.ts'
import { resource } from './route.ts'
import { code, strict } from './schemas.ts'

/** show: one coupon as Redis has it now. */
export function showRoutes(deps: Deps) {
  const { store, directory } = deps

  return resource(deps, 'Coupons').route(
    {
      method: 'get',
      path: '/coupons/{code}',
      summary: 'One coupon as it is now; users see their own',
      verb: 'show',
      guesses: true,
      needs: 'anyone',
      params: strict({ code }),
      answers: { 200: CouponResponse },
      problems: ['coupon-not-found'],
    },
    async (c, { params }, who) => {
      const place = await directory.bookOfCode(params.code)
      if ('problem' in place) return problemResponse(c, place)
      const shown = await store.show(place, [params.code])
      if (!shown.ok) return problemResponse(c, shown)
      const [found] = shown.coupons
      const about = { book: place.book, expiresAt: shown.expiresAt, now: shown.now }
      if (found?.is === 'coupon' && (actsForOthers(who) || found.coupon.user === who.id))
        return answer(c, 200, couponView(params.code, found.coupon, about))
      if (found?.is === 'stock' && actsForOthers(who))
        return answer(c, 200, stockView(params.code, found.max, about))
      if (found?.is === 'void' && actsForOthers(who))
        return answer(c, 200, stockView(params.code, found.max, about, 'VOID'))
      return problemResponse(c, problem('coupon-not-found'))
    },
  )
}
