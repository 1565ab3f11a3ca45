/** A coupon that somebody has, as Redis holds it (lua/include/record.lua). Times in ms. */
export type CouponRecord = {
  book: string
  user: string
  version: number
  assignedAt: number
  updatedAt: number
  redemptions: number
  /** 0: no limit. */
  max: number
  lockToken: string
  /** 0: not locked. May lie in the past: then the lock is over. */
  lockedUntil: number
}

export function unpackRecord(fields: readonly string[]): CouponRecord {
  return {
    book: fields[0]!,
    user: fields[1]!,
    version: Number(fields[2]),
    assignedAt: Number(fields[3]),
    updatedAt: Number(fields[4]),
    redemptions: Number(fields[5]),
    max: Number(fields[6]),
    lockToken: fields[7] ?? '',
    lockedUntil: Number(fields[8] || 0),
  }
}

/** A void code keeps a record of its book and nobody (lua/void.lua). */
export const isVoid = (packed: string): boolean => packed.indexOf('\t') === packed.length - 1

export const couponStates = ['UNASSIGNED', 'ASSIGNED', 'LOCKED', 'REDEEMED', 'EXPIRED'] as const
export type CouponState = (typeof couponStates)[number]

/** LOCKED and EXPIRED are never stored: they follow from the deadlines and the one time `now`. */
export function couponState(
  coupon: Pick<CouponRecord, 'redemptions' | 'max' | 'lockedUntil'> | undefined,
  expiresAt: number,
  now: number,
): CouponState {
  if (coupon && coupon.max > 0 && coupon.redemptions >= coupon.max) return 'REDEEMED'
  if (expiresAt > 0 && expiresAt <= now) return 'EXPIRED'
  if (!coupon) return 'UNASSIGNED'
  return coupon.lockedUntil >= now ? 'LOCKED' : 'ASSIGNED'
}
