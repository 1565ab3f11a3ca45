import type { Durability } from '../../src/journal/entry.ts'
import type { Answered, Asked } from './history.ts'

/** What the crowd wants next: an attempt that has not been made yet. */
export type Wish = Omit<Asked, 'is' | 'id' | 'at'> & { path: string; body: object }

type Coupon = { code: string; user: string; book: string; token?: string; redemption?: string }

/** Small deterministic random numbers (mulberry32): the same seed wishes the same. */
export function random(seed: number): () => number {
  let state = seed | 0
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

const usersMax = 20_000
const remembered = 5_000

/**
 * What the crowd knows and wants: mostly fresh codes, and then something with the coupons it was
 * given. It does not keep to the rules: it redeems locked coupons, with old tokens, twice.
 */
export function makeMind(seed: number, books: string[]) {
  const next = random(seed)
  const chance = (share: number) => next() < share
  const among = <T>(list: T[]): T | undefined => list[Math.floor(next() * list.length)]
  const held: Coupon[] = []
  const used: Coupon[] = []
  let ops = 0

  function start(book: string, user: string): Pick<Wish, 'op' | 'level' | 'key' | 'book' | 'user'> {
    const op = ops++
    const level: Durability = chance(0.5) ? 'postgres' : 'redis'
    return { op, level, book, user, ...(chance(0.6) ? { key: `op-${seed}-${op}` } : {}) }
  }

  function assign(): Wish {
    const user = `user-${Math.floor(next() * usersMax)}`
    const its = start(among(books)!, user)
    const count = chance(0.05) ? 3 : 1
    const body = { book_id: its.book, user_id: user, count }
    return { ...its, verb: 'assign', path: 'coupons/assign', body }
  }

  function withCoupon(coupon: Coupon): Wish {
    const { code, user, book } = coupon
    const its = { ...start(book, user), code }
    const token = coupon.token && chance(0.8) ? { token: coupon.token } : {}
    const sent = coupon.token && 'token' in token ? { lock_token: coupon.token } : {}
    const body = { user_id: user, ...sent }
    const dice = next()
    if (dice < 0.35) {
      const seconds = { lock_duration_seconds: 1 + Math.floor(next() * 4) }
      return {
        ...{ ...its, ...token, verb: 'lock', path: `coupons/lock/${code}` },
        body: { ...body, ...seconds },
      }
    }
    if (dice < 0.75)
      return { ...its, ...token, verb: 'redeem', path: `coupons/redeem/${code}`, body }
    if (dice < 0.85)
      return { ...its, verb: 'unlock', path: `coupons/unlock/${code}`, body: { user_id: user } }
    return { ...its, verb: 'release', path: `coupons/release/${code}`, body: {} }
  }

  function rollback({ redemption, code, user, book }: Coupon): Wish {
    const its = { ...start(book, user), code, redemption: redemption! }
    return { ...its, verb: 'rollback', path: `redemptions/${redemption}/rollback`, body: {} }
  }

  function keep(list: Coupon[], coupon: Coupon): void {
    if (list.length < remembered) list.push(coupon)
    else list[Math.floor(next() * remembered)] = coupon
  }

  return {
    chance,
    wish(): Wish {
      const dice = next()
      const coupon = dice < 0.25 ? among(held) : undefined
      if (coupon) return withCoupon(coupon)
      const spent = dice < 0.3 ? among(used) : undefined
      return spent ? rollback(spent) : assign()
    },
    learn({ verb, book, user }: Wish, { outcome, codes, token, redemption }: Answered): void {
      if (outcome !== 'done' && outcome !== 'again') return
      const code = codes[0]!
      if (verb === 'assign') for (const one of codes) keep(held, { code: one, user, book })
      if (verb === 'lock') keep(held, { code, user, book, token })
      if (verb === 'redeem') keep(used, { code, user, book, redemption })
    },
  }
}
