import { type CouponRecord, unpackRecord } from './record.ts'
import { type Verb, verb } from './verb.ts'

/** Why a book assigns nothing now, in order: lua/include/assignable.lua. */
const assignable = {
  'book-archived': [],
  'book-expired': ['expiration_date'],
  'book-inactive': [],
  'book-not-open': ['opens_at'],
  'book-closed': ['closes_at'],
} as const

/** A code that was handed out, and how often it may be redeemed (0: no limit). */
export type Assigned = { code: string; max: number }

function readAssigned(values: string[]): Assigned[] {
  const codes: Assigned[] = []
  for (let v = 0; v < values.length; v += 2)
    codes.push({ code: values[v]!, max: Number(values[v + 1]) })
  return codes
}

const record = { values: ['fact', 'record'], read: unpackRecord } as const

export const assign = verb({
  script: 'assign',
  args: ['user', 'count', 'codes', 'key', 'hash', 'context'],
  refuses: { ...assignable, 'assignment-limit': ['held', 'limit'], 'sold-out': ['left'] },
  done: { assigned: { values: ['fact', '(code max)...'], read: readAssigned } },
})

export const assignCode = verb({
  script: 'assign_code',
  args: ['user', 'code', 'key', 'hash', 'context'],
  refuses: {
    'already-assigned': [],
    'coupon-not-found': [],
    ...assignable,
    'assignment-limit': ['held', 'limit'],
  },
  done: { assigned: { values: ['fact', 'code', 'max'], read: readAssigned } },
})

export const lock = verb({
  script: 'lock',
  args: ['code', 'user', 'token', 'fresh', 'ttl_ms', 'key', 'hash', 'context'],
  guards: 'code',
  refuses: {
    'coupon-not-found': [],
    'book-archived': [],
    'coupon-redeemed': [],
    'book-expired': ['expiration_date'],
    'coupon-locked': ['locked_until'],
    'lock-expired': [],
  },
  done: { locked: record },
})

export const unlock = verb({
  script: 'unlock',
  args: ['code', 'user', 'key', 'hash', 'context'],
  guards: 'code',
  refuses: { 'coupon-not-found': [], 'book-archived': [], 'coupon-redeemed': [] },
  done: { 'not-locked': { values: ['record'], read: unpackRecord }, unlocked: record },
})

export const redeem: Verb<
  'code' | 'user' | 'token' | 'redemption' | 'key' | 'hash' | 'context',
  { redemption: string; coupon: CouponRecord }
> = verb({
  script: 'redeem',
  args: ['code', 'user', 'token', 'redemption', 'key', 'hash', 'context'],
  guards: 'code',
  refuses: {
    'coupon-not-found': [],
    'book-archived': [],
    'coupon-redeemed': [],
    'book-expired': ['expiration_date'],
    'redemption-limit': ['limit'],
    'coupon-locked': ['locked_until'],
    'lock-expired': [],
    'lock-required': [],
  },
  done: {
    redeemed: {
      values: ['fact', 'redemption', 'record'],
      read: ([redemption, ...fields]) => ({
        redemption: redemption!,
        coupon: unpackRecord(fields),
      }),
    },
  },
})

export const rollback = verb({
  script: 'rollback',
  args: ['code', 'redemption', 'key', 'hash', 'context'],
  refuses: { 'book-archived': [], 'already-rolled-back': [], 'redemption-not-found': [] },
  done: { 'rolled-back': record },
})

export const release = verb({
  script: 'release',
  args: ['code', 'key', 'hash', 'context'],
  refuses: {
    'book-archived': [],
    'coupon-not-found': [],
    'coupon-void': [],
    'coupon-redeemed': [],
    'coupon-in-use': [],
    'coupon-locked': ['locked_until'],
  },
  done: { released: record },
})

/** `void` itself is a word of the language. */
export const voidCode = verb({
  script: 'void',
  args: ['code', 'key', 'hash', 'context'],
  refuses: {
    'book-archived': [],
    'coupon-not-found': [],
    'not-ready': [],
    'coupon-void': [],
    'coupon-redeemed': [],
    'coupon-in-use': [],
    'coupon-locked': ['locked_until'],
  },
  done: { voided: record },
})

export const verbs = {
  assign,
  assignCode,
  lock,
  unlock,
  redeem,
  rollback,
  release,
  void: voidCode,
} as const
