import { z } from '@hono/zod-openapi'
import { type CouponRecord, type CouponState, couponState } from '../store/record.ts'
import { bookId, code, instant } from './schemas.ts'

/** A coupon as clients see it. Times are null where the code is in stock: nothing happened to it. */
export const CouponResponse = z
  .object({
    code,
    book_id: bookId,
    assigned_user_id: z.string().nullable(),
    state: z.enum(['UNASSIGNED', 'ASSIGNED', 'LOCKED', 'REDEEMED', 'EXPIRED', 'VOID']),
    redemption_count: z.number().int(),
    max_redemptions: z.number().int().nullable().openapi({ description: 'null: no limit' }),
    is_locked: z.boolean(),
    locked_until: instant.nullable(),
    created_at: instant.nullable().openapi({ description: 'when it was assigned' }),
    updated_at: instant.nullable(),
    has_redemptions_remaining: z.boolean(),
    remaining_redemptions: z.number().int().nullable().openapi({ description: 'null: no limit' }),
  })
  .openapi('Coupon')
export type CouponView = z.infer<typeof CouponResponse>

/** What there is to know of a coupon's book at the time it is shown. Times in ms; 0: never. */
export type Shown = { book: string; expiresAt: number; now: number }

const iso = (ms: number) => new Date(ms).toISOString()

/** The view of a coupon that has left stock. */
export function couponView(
  its: string,
  coupon: Omit<CouponRecord, 'book' | 'version' | 'lockToken'>,
  { book, expiresAt, now }: Shown,
): CouponView {
  const state = couponState(coupon, expiresAt, now)
  return view(its, book, state, coupon.user, coupon)
}

/** The view of a code in stock, or of one that is void for ever. */
export function stockView(
  its: string,
  max: number,
  { book, expiresAt, now }: Shown,
  state: 'VOID' | CouponState = couponState(undefined, expiresAt, now),
): CouponView {
  const nothing = { redemptions: 0, max, lockedUntil: 0, assignedAt: 0, updatedAt: 0 }
  return view(its, book, state, null, nothing)
}

type Numbers = Pick<
  CouponRecord,
  'redemptions' | 'max' | 'lockedUntil' | 'assignedAt' | 'updatedAt'
>

function view(
  its: string,
  book: string,
  state: CouponView['state'],
  user: string | null,
  { redemptions, max, lockedUntil, assignedAt, updatedAt }: Numbers,
): CouponView {
  const remaining = max === 0 ? null : Math.max(0, max - redemptions)
  return {
    code: its,
    book_id: book,
    assigned_user_id: user,
    state,
    redemption_count: redemptions,
    max_redemptions: max === 0 ? null : max,
    is_locked: state === 'LOCKED',
    locked_until: state === 'LOCKED' ? iso(lockedUntil) : null,
    created_at: assignedAt ? iso(assignedAt) : null,
    updated_at: updatedAt ? iso(updatedAt) : null,
    has_redemptions_remaining: remaining === null || remaining > 0,
    remaining_redemptions: remaining,
  }
}
