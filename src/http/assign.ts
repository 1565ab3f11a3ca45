import { z } from '@hono/zod-openapi'
import type { Deps } from '../app.ts'
import { drawCounterCodes } from '../codes.ts'
import type { BookFacts } from '../recovery/directory.ts'
import type { Outcome } from '../store/verb.ts'
import type { Assigned } from '../store/verbs.ts'
import { actingUser } from './context.ts'
import { CouponResponse, couponView } from './coupon-view.ts'
import { type Ask, answerEffect, ForUser, readAsk, refuseEffect, repeats } from './effect.ts'
import { problemResponse } from './respond.ts'
import { resource } from './route.ts'
import { bookId, code, count, strict, userId } from './schemas.ts'

export const assignment = {
  book_id: bookId,
  user_id: userId.optional(),
  count: count(1, 100).optional(),
}
const AssignRequest = strict(assignment).openapi('AssignRequest')
export const AssignResponse = z
  .object({ success: z.boolean(), assigned_count: z.number(), coupons: z.array(CouponResponse) })
  .openapi('Assigned')

export const unassignable = [
  'book-archived',
  'book-expired',
  'book-inactive',
  'book-not-open',
  'book-closed',
  'assignment-limit',
] as const

/** What was handed out to a user, as it is now. */
const assignedView = (outcome: Outcome<Assigned[]>, book: string, user: string) =>
  outcome.value.map((assigned) =>
    couponView(
      assigned.code,
      {
        user,
        max: assigned.max,
        redemptions: 0,
        lockedUntil: 0,
        assignedAt: outcome.at,
        updatedAt: outcome.at,
      },
      { book, expiresAt: outcome.expiresAt, now: outcome.at },
    ),
  )

/** The body that answers a random assignment. */
export function assignedBody(outcome: Outcome<Assigned[]>, book: string, user: string) {
  const coupons = assignedView(outcome, book, user)
  return { success: true, assigned_count: coupons.length, coupons }
}

/** What is asked of the store for a random assignment. */
export const assignRequest = (
  { prefix }: Pick<BookFacts, 'prefix'>,
  user: string,
  wanted: number,
  { key, hash, context }: Ask,
) => ({
  user,
  count: String(wanted),
  codes: prefix ? drawCounterCodes(prefix, wanted).join(' ') : '',
  ...{ key, hash, context },
})

/** assign: stock -> user, at random or by name. */
export function assignRoutes(deps: Deps) {
  const { store, directory } = deps

  return resource(deps, 'Coupons')
    .route(
      {
        method: 'post',
        path: ['/coupons/assign', '/coupons/assign/random'],
        summary: 'Give a user codes from stock, at random: all that were asked for, or none',
        verb: 'assign',
        needs: 'anyone',
        scope: 'assign',
        body: AssignRequest,
        answers: { 200: AssignResponse, 202: AssignResponse },
        problems: ['book-not-found', 'forbidden', ...unassignable, 'sold-out', ...repeats],
      },
      async (c, { body }, who) => {
        const user = actingUser(who, body.user_id)
        if (typeof user !== 'string') return problemResponse(c, user)
        const book = await directory.book(body.book_id)
        if ('problem' in book) return problemResponse(c, book)
        const asked = await readAsk(c, deps, who, 'assign', book, body)
        if (!asked.ok) return problemResponse(c, asked)
        const { ask } = asked
        const wanted = body.count ?? 1
        const outcome = await store.assign(book, assignRequest(book, user, wanted, ask), wanted)
        if (!outcome.ok) return refuseEffect(c, deps, outcome, ask)
        for (const assigned of outcome.value) directory.learn(assigned.code, book)
        return answerEffect(c, deps, outcome, ask, assignedBody(outcome, book.book, user))
      },
    )
    .route(
      {
        method: 'post',
        path: '/coupons/assign/{code}',
        summary: 'Give a user one named code from stock',
        verb: 'assign_code',
        guesses: true,
        needs: 'anyone',
        scope: 'assign',
        params: strict({ code }),
        body: ForUser,
        bodyOptional: true,
        answers: { 200: CouponResponse, 202: CouponResponse },
        problems: [
          'coupon-not-found',
          'already-assigned',
          'forbidden',
          ...unassignable,
          ...repeats,
        ],
      },
      async (c, { params, body }, who) => {
        const user = actingUser(who, body.user_id)
        if (typeof user !== 'string') return problemResponse(c, user)
        const place = await directory.bookOfCode(params.code)
        if ('problem' in place) return problemResponse(c, place)
        const asked = await readAsk(c, deps, who, 'assign_code', place, { ...params, ...body })
        if (!asked.ok) return problemResponse(c, asked)
        const { key, hash, context } = asked.ask
        const request = { user, code: params.code, key, hash, context }
        const outcome = await store.assignCode(place, request)
        if (!outcome.ok) return refuseEffect(c, deps, outcome, asked.ask)
        const [view] = assignedView(outcome, place.book, user)
        return answerEffect(c, deps, outcome, asked.ask, view!)
      },
    )
}
