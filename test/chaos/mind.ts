import type { Durability } from '../../src/journal/entry.ts'
import { type Answered, type Asked, kindOf } from './history.ts'

/** What the crowd wants next: an attempt that has not been made yet. */
export type Wish = Omit<Asked, 'is' | 'id' | 'at'> & { path: string; body: object }

/** How long ago something was done before somebody presses its button once more. */
const longAgoMs = 2_000

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
/** Of locks only the last few: most of these are still live when somebody comes for them. */
const locksRemembered = 30

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
  const locked: Coupon[] = []
  /** Given back: whoever knows them may ask for them by name. */
  const back: Pick<Coupon, 'code' | 'book'>[] = []
  /** Keyed wishes that were done, any time since the sale began as likely as any other. */
  const past: { wish: Wish; at: number }[] = []
  let pasts = 0
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
    return { ...its, verb: 'assign', count, path: 'coupons/assign', body }
  }

  /** A code that came back, by its name; now and then two ask for the same one, or it is void. */
  function assignCode(): Wish | undefined {
    const at = Math.floor(next() * back.length)
    const [coupon] = chance(0.2) ? back.slice(at, at + 1) : back.splice(at, 1)
    if (!coupon) return
    if (chance(0.05)) return voidCode(coupon)
    const { code, book } = coupon
    const user = `user-${Math.floor(next() * usersMax)}`
    const its = { ...start(book, user), code }
    return { ...its, verb: 'assign_code', path: `coupons/assign/${code}`, body: { user_id: user } }
  }

  function withCoupon(coupon: Coupon): Wish {
    const { code, user, book } = coupon
    const its = { ...start(book, user), code }
    const token = coupon.token && chance(0.8) ? { token: coupon.token } : {}
    const sent = coupon.token && 'token' in token ? { lock_token: coupon.token } : {}
    const body = { user_id: user, ...sent }
    const dice = next()
    if (dice < 0.35) {
      // Most are over before anything else happens; some outlast the sale, so that their guards,
      // which must survive every fault, can be looked at after it.
      const seconds = { lock_duration_seconds: chance(0.15) ? 60 : 1 + Math.floor(next() * 4) }
      return {
        ...{ ...its, ...token, verb: 'lock', path: `coupons/lock/${code}` },
        body: { ...body, ...seconds },
      }
    }
    if (dice < 0.75)
      return { ...its, ...token, verb: 'redeem', path: `coupons/redeem/${code}`, body }
    if (dice < 0.85) return unlock(coupon)
    if (dice < 0.88) return voidCode(coupon)
    return { ...its, verb: 'release', path: `coupons/release/${code}`, body: {} }
  }

  function voidCode({ code, book }: Pick<Coupon, 'code' | 'book'>): Wish {
    const its = { ...start(book, 'nobody'), code }
    return { ...its, verb: 'void', path: `coupons/void/${code}`, body: {} }
  }

  function unlock({ code, user, book }: Coupon): Wish {
    const its = { ...start(book, user), code }
    return { ...its, verb: 'unlock', path: `coupons/unlock/${code}`, body: { user_id: user } }
  }

  function rollback({ redemption, code, user, book }: Coupon): Wish {
    const its = { ...start(book, user), code, redemption: redemption! }
    return { ...its, verb: 'rollback', path: `redemptions/${redemption}/rollback`, body: {} }
  }

  function keep<T>(list: T[], coupon: T): void {
    if (list.length < remembered) list.push(coupon)
    else list[Math.floor(next() * remembered)] = coupon
  }

  return {
    chance,
    wish(): Wish {
      // What was done before a fault must be answered the same after it.
      const old = chance(0.01) ? among(past) : undefined
      if (old && Date.now() - old.at >= longAgoMs) return old.wish
      // Of every verb hundreds a second, and not more: they come on top of the assignments asked for.
      const dice = next()
      const coupon = dice < 0.14 ? among(held) : undefined
      if (coupon) return withCoupon(coupon)
      const spent = dice < 0.17 ? among(used) : undefined
      if (spent) return rollback(spent)
      const live = dice > 0.95 && dice < 0.97 ? among(locked) : undefined
      if (live) return chance(0.4) ? unlock(live) : withCoupon(live)
      return (dice > 0.97 && assignCode()) || assign()
    },
    learn(wish: Wish, { outcome, codes, token, redemption, at }: Answered): void {
      if (outcome !== 'done' && outcome !== 'again') return
      const { verb, book, user, key } = wish
      const code = codes[0]!
      if (key && outcome === 'done') {
        const place = Math.floor(next() * ++pasts)
        if (past.length < remembered) past.push({ wish, at })
        else if (place < remembered) past[place] = { wish, at }
      }
      if (kindOf(verb) === 'assign') for (const one of codes) keep(held, { code: one, user, book })
      if (verb === 'release') keep(back, { code, book })
      if (verb === 'lock') {
        keep(held, { code, user, book, token })
        if (locked.push({ code, user, book, token }) > locksRemembered) locked.shift()
      }
      if (verb === 'redeem') keep(used, { code, user, book, redemption })
    },
  }
}
