import { setTimeout as sleep } from 'node:timers/promises'
import fc from 'fast-check'
import { expect } from 'vitest'

/** One coupon as the model believes it is. `until` in ms by this machine's clock, which is Redis'. */
type Coupon = {
  user: string
  used: number
  redemptions: string[]
  lock: { token: string; until: number } | undefined
  /** As of the last look at the clock: an answer may be long in coming. */
  locked: boolean
}

/** A book as the model believes it is: the simplest thing that behaves like the real one. */
export type Model = {
  stock: Set<string>
  held: Map<string, Coupon>
  void: Set<string>
  undone: Set<string>
  active: boolean
  perUser: number
  uses: number
}

export type Answer = {
  status: number
  // biome-ignore lint/suspicious/noExplicitAny: the model looks into whatever came
  body: any
}
/** The real service, of which this sequence has one book. */
export type Real = {
  book: string
  post(path: string, body?: unknown): Promise<Answer>
  patch(path: string, body: unknown): Promise<Answer>
  get(path: string): Promise<Answer>
  /** Once the ledger is level. */
  stats(): Promise<Answer>
  /** Does `work` while nothing happens to the machines. */
  undisturbed<T>(work: () => Promise<T>): Promise<T>
  crashApi(): Promise<void>
  crashWorker(): Promise<void>
  restartRedis(): Promise<void>
}
export type Command = fc.AsyncCommand<Model, Real>

const users = ['ann', 'bob', 'cyd']
export const shortLockMs = 1_000

const heldBy = (m: Model, user: string) =>
  [...m.held.values()].filter((c) => c.user === user).length
const usedUp = (m: Model, c: Coupon) => c.used >= m.uses

/** Near its deadline a lock may be over or not by the time Redis looks: wait until it is. */
async function lookAtClock(c: Coupon | undefined): Promise<void> {
  if (!c?.lock) return
  const left = c.lock.until - Date.now()
  if (left > -50 && left < 400) await sleep(left + 60)
  c.locked = c.lock.until >= Date.now()
}

/** The nth of all codes there ever were, so that a shrunk sequence still means the same. */
function pick(m: Model, nth: number): string {
  const codes = [...m.stock, ...m.held.keys(), ...m.void].sort()
  return codes[nth % codes.length] ?? 'NO-SUCH-CODE'
}

/** 202: done in Redis, and the ledger is late because a worker was just killed. */
const said = ({ status, body }: Answer) => (status === 200 || status === 202 ? 'done' : body.code)

function refused(answer: Answer, code: string, command: string): void {
  expect(`${command}: ${said(answer)}`).toBe(`${command}: ${code}`)
}
export const done = (answer: Answer, command: string) => refused(answer, 'done', command)

class Assign implements Command {
  readonly user: string
  readonly count: number
  constructor(user: string, count: number) {
    this.user = user
    this.count = count
  }
  check = () => true
  toString = () => `assign ${this.count} to ${this.user}`
  run = (m: Model, r: Real) => r.undisturbed(() => this.act(m, r))
  async act(m: Model, r: Real): Promise<void> {
    const answer = await r.post('coupons/assign', {
      book_id: r.book,
      user_id: this.user,
      count: this.count,
    })
    if (!m.active) return refused(answer, 'book-inactive', `${this}`)
    if (heldBy(m, this.user) + this.count > m.perUser)
      return refused(answer, 'assignment-limit', `${this}`)
    if (m.stock.size < this.count) return refused(answer, 'sold-out', `${this}`)
    done(answer, `${this}`)
    expect(answer.body.coupons).toHaveLength(this.count)
    for (const { code } of answer.body.coupons) hand(m, code, this.user)
  }
}

function hand(m: Model, code: string, user: string): void {
  expect(m.stock.delete(code), `${code} was in stock`).toBe(true)
  m.held.set(code, { user, used: 0, redemptions: [], lock: undefined, locked: false })
}

/** What is done to one coupon on behalf of one user. */
abstract class OnCoupon implements Command {
  readonly user: string
  readonly nth: number
  constructor(user: string, nth: number) {
    this.user = user
    this.nth = nth
  }
  abstract readonly verb: string
  check = () => true
  toString = () => `${this.verb} #${this.nth} by ${this.user}`
  run = (m: Model, r: Real) => r.undisturbed(() => this.choose(m, r))
  async choose(m: Model, r: Real): Promise<void> {
    const code = pick(m, this.nth)
    const coupon = m.held.get(code)
    await lookAtClock(coupon)
    await this.act(m, r, code, coupon?.user === this.user ? coupon : undefined, coupon)
  }
  abstract act(
    m: Model,
    r: Real,
    code: string,
    mine: Coupon | undefined,
    coupon: Coupon | undefined,
  ): Promise<void>
}

class AssignCode extends OnCoupon {
  readonly verb = 'assign_code'
  async act(m: Model, r: Real, code: string, mine: Coupon | undefined, coupon: Coupon | undefined) {
    const answer = await r.post(`coupons/assign/${code}`, { user_id: this.user })
    if (mine) return refused(answer, 'already-assigned', `${this}`)
    if (coupon || !m.stock.has(code)) return refused(answer, 'coupon-not-found', `${this}`)
    if (!m.active) return refused(answer, 'book-inactive', `${this}`)
    if (heldBy(m, this.user) + 1 > m.perUser) return refused(answer, 'assignment-limit', `${this}`)
    done(answer, `${this}`)
    hand(m, code, this.user)
  }
}

class Lock extends OnCoupon {
  readonly verb = 'lock'
  readonly short: boolean
  constructor(user: string, nth: number, short: boolean) {
    super(user, nth)
    this.short = short
  }
  async act(m: Model, r: Real, code: string, mine: Coupon | undefined) {
    const answer = await r.post(`coupons/lock/${code}`, {
      user_id: this.user,
      lock_duration_seconds: this.short ? shortLockMs / 1000 : 600,
    })
    if (!mine) return refused(answer, 'coupon-not-found', `${this}`)
    if (usedUp(m, mine)) return refused(answer, 'coupon-redeemed', `${this}`)
    if (mine.locked) return refused(answer, 'coupon-locked', `${this}`)
    done(answer, `${this}`)
    mine.lock = { token: answer.body.lock_token, until: Date.parse(answer.body.locked_until) }
    mine.locked = true
  }
}

class Unlock extends OnCoupon {
  readonly verb = 'unlock'
  async act(m: Model, r: Real, code: string, mine: Coupon | undefined) {
    const answer = await r.post(`coupons/unlock/${code}`, { user_id: this.user })
    if (!mine) return refused(answer, 'coupon-not-found', `${this}`)
    if (usedUp(m, mine)) return refused(answer, 'coupon-redeemed', `${this}`)
    done(answer, `${this}`)
    mine.lock = undefined
    mine.locked = false
  }
}

class Redeem extends OnCoupon {
  readonly verb = 'redeem'
  readonly withToken: boolean
  constructor(user: string, nth: number, withToken: boolean) {
    super(user, nth)
    this.withToken = withToken
  }
  async act(m: Model, r: Real, code: string, mine: Coupon | undefined) {
    const token = this.withToken ? mine?.lock?.token : undefined
    const answer = await r.post(`coupons/redeem/${code}`, { user_id: this.user, lock_token: token })
    if (!mine) return refused(answer, 'coupon-not-found', `${this}`)
    if (usedUp(m, mine)) return refused(answer, 'coupon-redeemed', `${this}`)
    if (mine.locked && !token) return refused(answer, 'coupon-locked', `${this}`)
    if (!mine.locked && token) return refused(answer, 'lock-expired', `${this}`)
    done(answer, `${this}`)
    mine.used++
    mine.redemptions.push(answer.body.redemption_id)
    mine.lock = undefined
    mine.locked = false
  }
}

class Rollback extends OnCoupon {
  readonly verb = 'rollback'
  async act(m: Model, r: Real, _code: string, _mine: unknown, coupon: Coupon | undefined) {
    const id = coupon?.redemptions[0]
    if (!coupon || !id) return
    const answer = await r.post(`redemptions/${id}/rollback`)
    if (m.undone.has(id)) return refused(answer, 'already-rolled-back', `${this}`)
    done(answer, `${this}`)
    m.undone.add(id)
    coupon.used--
  }
}

class Release extends OnCoupon {
  readonly verb = 'release'
  async act(m: Model, r: Real, code: string, _mine: unknown, coupon: Coupon | undefined) {
    const answer = await r.post(`coupons/release/${code}`)
    if (m.void.has(code)) return refused(answer, 'coupon-void', `${this}`)
    if (!coupon) return refused(answer, 'coupon-not-found', `${this}`)
    if (usedUp(m, coupon)) return refused(answer, 'coupon-redeemed', `${this}`)
    if (coupon.used > 0) return refused(answer, 'coupon-in-use', `${this}`)
    if (coupon.locked) return refused(answer, 'coupon-locked', `${this}`)
    done(answer, `${this}`)
    m.held.delete(code)
    m.stock.add(code)
  }
}

class Void extends OnCoupon {
  readonly verb = 'void'
  async act(m: Model, r: Real, code: string, _mine: unknown, coupon: Coupon | undefined) {
    const answer = await r.post(`coupons/void/${code}`)
    if (m.void.has(code)) return refused(answer, 'coupon-void', `${this}`)
    if (!coupon && !m.stock.has(code)) return refused(answer, 'coupon-not-found', `${this}`)
    if (coupon && usedUp(m, coupon)) return refused(answer, 'coupon-redeemed', `${this}`)
    if (coupon && coupon.used > 0) return refused(answer, 'coupon-in-use', `${this}`)
    if (coupon?.locked) return refused(answer, 'coupon-locked', `${this}`)
    done(answer, `${this}`)
    m.held.delete(code)
    m.stock.delete(code)
    m.void.add(code)
  }
}

const user = fc.constantFrom(...users)
const nth = fc.nat(11)
export const verbs: fc.Arbitrary<Command>[] = [
  fc.tuple(user, fc.integer({ min: 1, max: 3 })).map(([u, count]) => new Assign(u, count)),
  fc.tuple(user, nth).map(([u, n]) => new AssignCode(u, n)),
  fc.tuple(user, nth, fc.boolean()).map(([u, n, short]) => new Lock(u, n, short)),
  fc.tuple(user, nth).map(([u, n]) => new Unlock(u, n)),
  fc.tuple(user, nth, fc.boolean()).map(([u, n, token]) => new Redeem(u, n, token)),
  fc.tuple(user, nth).map(([u, n]) => new Rollback(u, n)),
  fc.tuple(user, nth).map(([u, n]) => new Release(u, n)),
  fc.tuple(user, nth).map(([u, n]) => new Void(u, n)),
]

/** Every coupon and every counter as the service shows them, against the model. */
export async function expectSame(m: Model, r: Real): Promise<void> {
  for (const [code, coupon] of m.held) {
    const { body } = await r.undisturbed(async () => {
      await lookAtClock(coupon)
      return r.get(`coupons/${code}`)
    })
    const state = usedUp(m, coupon) ? 'REDEEMED' : coupon.locked ? 'LOCKED' : 'ASSIGNED'
    expect(body).toMatchObject({
      assigned_user_id: coupon.user,
      redemption_count: coupon.used,
      state,
    })
  }
  for (const code of m.void) {
    const { body } = await r.undisturbed(() => r.get(`coupons/${code}`))
    expect(body).toMatchObject({ assigned_user_id: null, state: 'VOID' })
  }
  const { body: stats } = await r.stats()
  const used = [...m.held.values()].filter((coupon) => usedUp(m, coupon)).length
  expect(stats).toMatchObject({
    total: m.stock.size + m.held.size + m.void.size,
    available: m.stock.size,
    void: m.void.size,
    redeemed: used,
    users: new Set([...m.held.values()].map((coupon) => coupon.user)).size,
  })
}
