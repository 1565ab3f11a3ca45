import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'
import type { ProblemCode } from '../src/problems.ts'
import { auditedWorld } from './audit.ts'
import { expectProblem } from './client.ts'
import type { Reply } from './world.ts'

const { world, client, makeBook } = auditedWorld()

/**
 * The state machine. A row is the situation that a coupon of ann's is in, a column what is asked
 * for it; `+` comes with the token of its lock. In a cell stands in capitals the state that the
 * coupon has afterwards, or else why nothing happened to it.
 */
const table = `
                   assign    lock      lock+     unlock    redeem    redeem+   rollback  release    void
  in-stock         ASSIGNED  none      none      none      none      none      -         none       VOID
  assigned         mine      LOCKED    over      ASSIGNED  REDEEMED  over      -         UNASSIGNED VOID
  locked           mine      locked    LOCKED    ASSIGNED  locked    REDEEMED  -         locked     locked
  lock-over        mine      LOCKED    over      ASSIGNED  REDEEMED  over      -         UNASSIGNED VOID
  partly           mine      LOCKED    over      ASSIGNED  REDEEMED  over      ASSIGNED  in-use     in-use
  partly-locked    mine      locked    LOCKED    ASSIGNED  locked    REDEEMED  LOCKED    in-use     in-use
  redeemed         mine      used      used      used      used      used      ASSIGNED  used       used
  rolled-back      mine      LOCKED    over      ASSIGNED  REDEEMED  over      twice     UNASSIGNED VOID
  released         ASSIGNED  none      none      none      none      none      -         none       VOID
  void-stock       none      none      none      none      none      none      -         void       void
  void             none      none      none      none      none      none      -         void       void
  expired-stock    expired   none      none      none      none      none      -         none       VOID
  expired          mine      expired   expired   EXPIRED   expired   expired   -         EXPIRED    VOID
  expired-locked   mine      expired   expired   EXPIRED   expired   expired   -         locked     locked
  expired-redeemed mine      used      used      used      used      used      EXPIRED   used       used
  inactive-stock   inactive  none      none      none      none      none      -         none       VOID
  inactive         mine      LOCKED    over      ASSIGNED  REDEEMED  over      -         UNASSIGNED VOID
  inactive-locked  mine      locked    LOCKED    ASSIGNED  locked    REDEEMED  -         locked     locked
  archived-stock   archived  none      none      none      none      none      -         archived   archived
  archived         mine      archived  archived  archived  archived  archived  -         archived   archived
  archived-locked  mine      archived  archived  archived  archived  archived  -         archived   archived
  archived-redeemed mine     archived  archived  archived  archived  archived  archived  archived   archived
`
const refusals: Record<string, ProblemCode> = {
  none: 'coupon-not-found',
  mine: 'already-assigned',
  locked: 'coupon-locked',
  over: 'lock-expired',
  used: 'coupon-redeemed',
  'in-use': 'coupon-in-use',
  twice: 'already-rolled-back',
  expired: 'book-expired',
  inactive: 'book-inactive',
  archived: 'book-archived',
  void: 'coupon-void',
}
const [columns, ...rows] = table
  .trim()
  .split('\n')
  .map((line) => line.trim().split(/\s+/))

/** How a coupon comes into each situation; the steps of its book come last, for all its coupons. */
const steps: Record<string, string> = {
  'in-stock': '',
  assigned: 'assign',
  locked: 'assign lock',
  'lock-over': 'assign lock-over',
  partly: 'assign redeem',
  'partly-locked': 'assign redeem lock',
  redeemed: 'assign redeem',
  'rolled-back': 'assign redeem rollback',
  released: 'assign release',
  'void-stock': 'void',
  void: 'assign void',
  'expired-stock': 'expire',
  expired: 'assign expire',
  'expired-locked': 'assign lock expire',
  'expired-redeemed': 'assign redeem expire',
  'inactive-stock': 'pause',
  inactive: 'assign pause',
  'inactive-locked': 'assign lock pause',
  'archived-stock': 'archive',
  archived: 'assign archive',
  'archived-locked': 'assign lock archive',
  'archived-redeemed': 'assign redeem archive',
}

/** A coupon on its way, and what its steps left behind for later. */
type Coupon = { code: string; lock_token: string; redemption: string }
const quick = { durability: 'redis' }

const couponSteps: Record<string, (of: Coupon) => Promise<unknown>> = {
  assign: ({ code }) => client().assignCode(code, 'ann'),
  async lock(of) {
    of.lock_token = (await client().lock(of.code, 'ann')).body.lock_token
  },
  async 'lock-over'(of) {
    const { body } = await client().lock(of.code, 'ann', { lock_duration_seconds: 1 })
    of.lock_token = body.lock_token
    await sleep(Date.parse(body.locked_until) - Date.now() + 20)
  },
  async redeem(of) {
    of.redemption = (await client().redeem(of.code, 'ann', quick)).body.redemption_id
  },
  rollback: ({ redemption }) => client().rollback(redemption, quick),
  release: ({ code }) => client().release(code, quick),
  void: ({ code }) => client().void(code, quick),
}
const bookSteps: Record<string, (book: string) => Promise<Reply>> = {
  expire: (book) => client().change(book, { expiration_date: '2020-01-01T00:00:00Z' }),
  pause: (book) => client().change(book, { is_active: false }),
  archive: (book) => world().call('DELETE', `books/${book}`, { as: world().admin }),
}
const verbs: Record<string, (of: Coupon) => Promise<Reply>> = {
  assign: ({ code }) => client().assignCode(code, 'ann'),
  lock: ({ code }) => client().lock(code, 'ann'),
  'lock+': ({ code, lock_token }) => client().lock(code, 'ann', { lock_token }),
  unlock: ({ code }) => client().unlock(code, 'ann'),
  redeem: ({ code }) => client().redeem(code, 'ann', quick),
  'redeem+': ({ code, lock_token }) => client().redeem(code, 'ann', { ...quick, lock_token }),
  rollback: ({ redemption }) => client().rollback(redemption, quick),
  release: ({ code }) => client().release(code, quick),
  void: ({ code }) => client().void(code, quick),
}

/** A book with one coupon per name, all brought into the situation. */
async function bring(situation: string, names: readonly string[]): Promise<Coupon[]> {
  const coupons = names.map((name) => ({
    code: `${situation}-${name}`,
    lock_token: 'invented',
    redemption: '',
  }))
  const max_redemptions = situation.startsWith('partly') ? 2 : 1
  const book = await makeBook(
    { max_redemptions },
    coupons.map(({ code }) => code),
  )
  const way = steps[situation]!.split(' ').filter(Boolean)
  await Promise.all(
    coupons.map(async (coupon) => {
      for (const step of way) await couponSteps[step]?.(coupon)
    }),
  )
  for (const step of way) await bookSteps[step]?.(book)
  return coupons
}

test.each(rows)('state  %s decides what every verb comes to', async (situation, ...cells) => {
  const asked = columns!.filter((_, c) => cells[c] !== '-')
  const coupons = await bring(situation!, asked)
  await Promise.all(
    asked.map(async (column, a) => {
      const coupon = coupons[a]!
      const cell = cells[columns!.indexOf(column)]!
      const before = await client().show(coupon.code)
      const reply = await verbs[column]!(coupon)
      const after = await client().show(coupon.code)
      const refusal = refusals[cell]
      if (refusal) {
        expectProblem(reply, refusal)
        expect(after.body, `${situation} after ${column}`).toEqual(before.body)
      } else {
        const states = [reply.status, reply.body.state, after.body.state]
        expect(states, `${situation} ${column}`).toEqual([200, cell, cell])
      }
    }),
  )
})

test.each(rows)('state  %s is nothing that a stranger learns of', async (situation) => {
  const [coupon] = await bring(`${situation}`, ['stranger'])
  const { code, lock_token } = coupon!
  const ben = await world().signUp()
  const blank = { request_id: '', instance: '' }
  const asked = (of: string) =>
    Promise.all([
      client().lock(of, ben.id, { lock_token }),
      client().unlock(of, undefined, { as: ben.token }),
      client().redeem(of, ben.id, { lock_token }),
      client().redeem(of, undefined, { as: ben.token }),
      client().show(of, ben.token),
    ])
  const unknown = await asked('NO-SUCH-CODE')
  for (const [r, reply] of (await asked(code)).entries()) {
    expectProblem(reply, 'coupon-not-found')
    expect({ ...reply.body, ...blank }).toEqual({ ...unknown[r]!.body, ...blank })
  }
})
