import { randomBytes, randomUUID } from 'node:crypto'
import { z } from '@hono/zod-openapi'
import type { Deps } from '../app.ts'
import { drawCounterCodes } from '../codes.ts'
import { problem } from '../problems.ts'
import type { Outcome } from '../store/verb.ts'
import type { Assigned } from '../store/verbs.ts'
import { actingUser } from './context.ts'
import { CouponResponse, couponView, stockView } from './coupon-view.ts'
import { answerEffect, readAsk } from './effect.ts'
import { answer, problemResponse } from './respond.ts'
import { resource } from './route.ts'
import { bookId, code, count, instant, metadata, strict, userId } from './schemas.ts'

const AssignRequest = strict({
  book_id: bookId,
  user_id: userId.optional(),
  count: count(1, 100).optional(),
}).openapi('AssignRequest')
const AssignResponse = z
  .object({ success: z.boolean(), assigned_count: z.number(), coupons: z.array(CouponResponse) })
  .openapi('Assigned')
const ForUser = strict({ user_id: userId.optional() }).openapi('ForUser')
const lockToken = z
  .string()
  .regex(/^[\w-]{1,64}$/, 'must be a `lock_token` as lock answered it')
  .openapi({ example: 'q1f0v9yVbD3m0kX2r8aZ5w' })
const LockRequest = strict({
  user_id: userId.optional(),
  lock_duration_seconds: count(1, 3_600).optional(),
  lock_token: lockToken.optional(),
}).openapi('LockRequest')
const LockResponse = CouponResponse.extend({ lock_token: lockToken }).openapi('LockedCoupon')
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

const repeats = ['idempotency-key-reused', 'intake-stopped', 'backlog', 'outcome-unknown'] as const
const unassignable = [
  'book-archived',
  'book-expired',
  'book-inactive',
  'book-not-open',
  'book-closed',
  'assignment-limit',
] as const
const iso = (ms: number) => new Date(ms).toISOString()

/** The verbs on coupons. Each handler: who, where, ask Redis, wait as long as promised, answer. */
export function couponRoutes(deps: Deps) {
  const { api, route } = resource(deps, 'Coupons')
  const { store, directory } = deps

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

  for (const path of ['/coupons/assign', '/coupons/assign/random'])
    route(
      {
        method: 'post',
        path,
        summary: 'Give a user codes from stock, at random: all that were asked for, or none',
        needs: 'anyone',
        body: AssignRequest,
        answers: { 200: AssignResponse, 202: AssignResponse },
        problems: ['book-not-found', 'forbidden', ...unassignable, 'sold-out', ...repeats],
      },
      async (c, { body }, who) => {
        const user = actingUser(who, body.user_id)
        if (typeof user !== 'string') return problemResponse(c, user)
        const book = await directory.book(body.book_id)
        if ('problem' in book) return problemResponse(c, book)
        const asked = readAsk(c, who, 'assign', book.book, body)
        if (!asked.ok) return problemResponse(c, asked)
        const { ask } = asked
        const wanted = body.count ?? 1
        const outcome = await store.assign(
          book,
          {
            user,
            count: String(wanted),
            codes: book.prefix ? drawCounterCodes(book.prefix, wanted).join(' ') : '',
            key: ask.key,
            hash: ask.hash,
            context: ask.context,
          },
          wanted,
        )
        if (!outcome.ok) return problemResponse(c, outcome)
        for (const assigned of outcome.value) directory.learn(assigned.code, book)
        const coupons = assignedView(outcome, book.book, user)
        return answerEffect(c, deps, outcome, ask, 'redis', {
          success: true,
          assigned_count: coupons.length,
          coupons,
        })
      },
    )

  route(
    {
      method: 'post',
      path: '/coupons/assign/{code}',
      summary: 'Give a user one named code from stock',
      needs: 'anyone',
      params: strict({ code }),
      body: ForUser,
      bodyOptional: true,
      answers: { 200: CouponResponse, 202: CouponResponse },
      problems: ['coupon-not-found', 'already-assigned', 'forbidden', ...unassignable, ...repeats],
    },
    async (c, { params, body }, who) => {
      const user = actingUser(who, body.user_id)
      if (typeof user !== 'string') return problemResponse(c, user)
      const place = await directory.bookOfCode(params.code)
      if ('problem' in place) return problemResponse(c, place)
      const asked = readAsk(c, who, 'assign_code', place.book, { ...params, ...body })
      if (!asked.ok) return problemResponse(c, asked)
      const { key, hash, context } = asked.ask
      const request = { user, code: params.code, key, hash, context }
      const outcome = await store.assignCode(place, request)
      if (!outcome.ok) return problemResponse(c, outcome)
      const [view] = assignedView(outcome, place.book, user)
      return answerEffect(c, deps, outcome, asked.ask, 'redis', view!)
    },
  )

  route(
    {
      method: 'post',
      path: '/coupons/lock/{code}',
      summary: "Keep an assigned coupon for its user; the lock's own token extends it",
      needs: 'anyone',
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
      const asked = readAsk(c, who, 'lock', place.book, { ...params, ...body })
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
      if (!outcome.ok) return problemResponse(c, outcome)
      const { value: coupon, at: now, expiresAt } = outcome
      return answerEffect(c, deps, outcome, asked.ask, 'redis', {
        ...couponView(params.code, coupon, { book: place.book, expiresAt, now }),
        lock_token: coupon.lockToken,
      })
    },
  )

  route(
    {
      method: 'post',
      path: '/coupons/unlock/{code}',
      summary: 'End the lock of a coupon; the answer is the same where there was none',
      needs: 'anyone',
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
      const asked = readAsk(c, who, 'unlock', place.book, { ...params, ...body })
      if (!asked.ok) return problemResponse(c, asked)
      const { key, hash, context } = asked.ask
      const outcome = await store.unlock(place, { code: params.code, user, key, hash, context })
      if (!outcome.ok) return problemResponse(c, outcome)
      const { value: coupon, at: now, expiresAt } = outcome
      const view = couponView(params.code, coupon, { book: place.book, expiresAt, now })
      return answerEffect(c, deps, outcome, asked.ask, 'redis', view)
    },
  )

  route(
    {
      method: 'post',
      path: '/coupons/redeem/{code}',
      summary: 'Use a coupon for good, or one of its uses',
      needs: 'anyone',
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
      const asked = readAsk(c, who, 'redeem', place.book, { ...params, ...body }, given)
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
      if (!outcome.ok) return problemResponse(c, outcome)
      const { coupon, redemption } = outcome.value
      const shown = { book: place.book, expiresAt: outcome.expiresAt, now: outcome.at }
      const view = couponView(params.code, coupon, shown)
      return answerEffect(c, deps, outcome, asked.ask, 'postgres', {
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

  route(
    {
      method: 'post',
      path: '/redemptions/{redemption_id}/rollback',
      summary: 'Undo one redemption, once',
      needs: ['admin', 'service'],
      params: strict({ redemption_id: bookId }),
      body: strict({}),
      bodyOptional: true,
      answers: { 200: CouponResponse, 202: CouponResponse },
      problems: ['book-archived', 'already-rolled-back', 'redemption-not-found', ...repeats],
    },
    async (c, { params }, who) => {
      const redemption = params.redemption_id
      const its = await directory.codeOfRedemption(redemption)
      if (!its) return problemResponse(c, problem('redemption-not-found'))
      const place = await directory.bookOfCode(its)
      if ('problem' in place) return problemResponse(c, problem('redemption-not-found'))
      const asked = readAsk(c, who, 'rollback', place.book, params)
      if (!asked.ok) return problemResponse(c, asked)
      const { key, hash, context } = asked.ask
      const outcome = await store.rollback(place, { code: its, redemption, key, hash, context })
      if (!outcome.ok) return problemResponse(c, outcome)
      const { value: coupon, at: now, expiresAt } = outcome
      const view = couponView(its, coupon, { book: place.book, expiresAt, now })
      return answerEffect(c, deps, outcome, asked.ask, 'postgres', view)
    },
  )

  route(
    {
      method: 'post',
      path: '/coupons/release/{code}',
      summary: "Put an assigned coupon back into stock; a counter book's code becomes void",
      needs: ['admin'],
      params: strict({ code }),
      body: strict({}),
      bodyOptional: true,
      answers: { 200: CouponResponse, 202: CouponResponse },
      problems: [
        'book-archived',
        'coupon-not-found',
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
      const asked = readAsk(c, who, 'release', place.book, params)
      if (!asked.ok) return problemResponse(c, asked)
      const { key, hash, context } = asked.ask
      const outcome = await store.release(place, { code: params.code, key, hash, context })
      if (!outcome.ok) return problemResponse(c, outcome)
      const { value: coupon, at: now, expiresAt } = outcome
      const shown = { book: place.book, expiresAt, now }
      const view =
        book.kind === 'counter'
          ? stockView(params.code, coupon.max, shown, 'VOID')
          : stockView(params.code, coupon.max, shown)
      return answerEffect(c, deps, outcome, asked.ask, 'postgres', view)
    },
  )

  route(
    {
      method: 'get',
      path: '/coupons/{code}',
      summary: 'One coupon as it is now; users see their own',
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
      if (found?.is === 'coupon' && (who.kind !== 'user' || found.coupon.user === who.id))
        return answer(c, 200, couponView(params.code, found.coupon, about))
      if (found?.is === 'stock' && who.kind !== 'user')
        return answer(c, 200, stockView(params.code, found.max, about))
      return problemResponse(c, problem('coupon-not-found'))
    },
  )
  return api
}
