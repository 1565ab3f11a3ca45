import { z } from '@hono/zod-openapi'
import type { Deps } from '../app.ts'
import { actingUser } from './context.ts'
import { CouponResponse, couponView } from './coupon-view.ts'
import { answer, problemResponse } from './respond.ts'
import { resource } from './route.ts'
import { bookId, page, strict, userIdOrMe } from './schemas.ts'

const Holdings = z
  .object({
    user_id: z.string(),
    total_count: z.number().int(),
    coupons: z.array(CouponResponse),
    has_more: z.boolean(),
    next_cursor: z.string().nullable(),
  })
  .openapi('Holdings')

/** What a user holds: from PostgreSQL, after everything acknowledged before has arrived there. */
export function holdingRoutes(deps: Deps) {
  return resource(deps, 'Coupons').route(
    {
      method: 'get',
      path: '/users/{user_id}/coupons',
      summary: "A user's coupons; `me` is whoever asks",
      needs: 'anyone',
      params: strict({ user_id: userIdOrMe }),
      query: strict({ book_id: bookId.optional(), ...page }),
      answers: { 200: Holdings },
      problems: ['forbidden'],
    },
    async (c, { params, query }, who) => {
      const user = actingUser(who, params.user_id === 'me' ? undefined : params.user_id)
      if (typeof user !== 'string') return problemResponse(c, user)
      const barrier = await deps.durable.barrier()
      if (!barrier.ok) return problemResponse(c, barrier)
      const { total, rows } = await deps.holdingsOf(user, {
        bookId: query.book_id,
        after: query.starting_after,
        limit: query.limit,
        skip: query.skip,
      })
      const shown = rows.slice(0, query.limit)
      const more = rows.length > query.limit
      return answer(c, 200, {
        user_id: user,
        total_count: total,
        coupons: shown.map((row) =>
          couponView(
            row.code,
            {
              user: row.user_id,
              redemptions: row.redemptions,
              max: row.max_redemptions,
              lockedUntil: row.locked_until?.getTime() ?? 0,
              assignedAt: row.assigned_at.getTime(),
              updatedAt: row.updated_at.getTime(),
            },
            {
              book: row.book_id,
              expiresAt: row.expiration_date?.getTime() ?? 0,
              now: barrier.now,
            },
          ),
        ),
        has_more: more,
        next_cursor: more ? shown.at(-1)!.code : null,
      })
    },
  )
}
