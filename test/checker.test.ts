import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { scratchDir } from '../src/embedded/leftovers.ts'
import { check, type Expected, missing } from './chaos/checker.ts'
import { startLoad } from './chaos/client.ts'
import { type Kind, kinds } from './chaos/findings.ts'
import { type Attempt, readDiary } from './chaos/history.ts'
import { random } from './chaos/mind.ts'
import { type LedgerFact, observe, type Seen } from './chaos/observe.ts'
import { openWorld, until, type World } from './world.ts'

/**
 * Who guards the guards: a real sale on real servers, which the checker finds nothing wrong with, and
 * then one thing after the other made wrong in what it is given. Each must be found.
 */
type Evidence = { history: Attempt[]; seen: Seen; expected: Expected }
const seed = 7
const dir = scratchDir('history')
let world: World
let truth: Evidence

beforeAll(async () => {
  world = await openWorld({ shards: 2, waitMs: 1_000 })
  const rules = { max_assignments_per_user: 3, lock_seconds: 30 }
  const books = [
    await world.makeBook({ ...rules, max_redemptions: 1 }, 3_000),
    await world.makeBook({ ...rules, max_redemptions: 2, max_redemptions_per_user: 2 }, 3_000),
    await world.makeBook({ ...rules, lock_policy: 'required', max_redemptions: 3 }, 3_000),
    await world.makeBook({ ...rules, kind: 'counter', units: 3_000 }),
  ]
  const diary = join(dir, 'history.ndjson')
  const { base, service, admin } = world
  const load = startLoad({
    ...{ bases: [base], service, admin, books, diary, seed },
    ...{ perSecond: 500, connections: 200 },
  })
  // A machine that is busy elsewhere sells less in the same time.
  for (let wanted = 2_000; !showsAll(readDiary(diary)); wanted += 500)
    await until(() => load.counts.done >= wanted, 'the sale goes on', 30_000)
  // Whoever waits for the ledger now is told where to ask.
  await world.stopWorker()
  await until(() => load.operations() > 20, 'somebody is answered 202')
  await world.startWorker()
  await load.stop()
  await load.settle(20_000)
  await load.inquire(20_000)
  load.close()
  await world.level()
  const seen = await observe(world.redis, world.database)
  truth = { history: readDiary(diary), seen, expected: {} }
})
afterAll(async () => {
  await world.close()
  rmSync(dir, { recursive: true, force: true })
})

const next = random(seed)
const among = <T>(list: T[]): T => list[Math.floor(next() * list.length)]!
const isOk = ({ answer }: Attempt) => answer.outcome === 'done'

/** Whether a sale has enough of everything that is made wrong below. */
function showsAll(history: Attempt[]): boolean {
  const some = (holds: (one: Attempt) => unknown) => history.filter(holds).length >= 5
  const verbs = ['assign_code', 'lock', 'unlock', 'redeem', 'rollback', 'release', 'void']
  return (
    history.filter(isOk).length > 1_500 &&
    missing(history).length === 0 &&
    verbs.every((verb) =>
      some(
        (one) =>
          isOk(one) && one.verb === verb && one.answer.fact && one.answer.reached === 'postgres',
      ),
    ) &&
    some((one) => isOk(one) && one.verb === 'unlock' && isIdle(one)) &&
    some((one) => isOk(one) && one.count === 3) &&
    some(({ verb, answer }) => verb === 'assign' && answer.outcome === 'again') &&
    longAgo({ history }) !== undefined
  )
}
/** An unlock of what was not locked, at `postgres` level. */
const isIdle = ({ level, answer }: Attempt) =>
  level === 'postgres' && answer.status === 200 && !answer.fact

/** Some attempt that was acknowledged, of a verb that wrote something. */
const done = ({ history }: Evidence, verb: string, level = 'postgres') =>
  among(
    history.filter(
      (one) => isOk(one) && one.verb === verb && one.answer.fact && one.answer.reached === level,
    ),
  )
const factsOf = ({ seen }: Evidence, attempt: Attempt) =>
  seen.ledger.filter(({ request }) => request === attempt.id)
/** Some fact of this kind; `last`: nothing came after it. */
const fact = ({ seen }: Evidence, kind: string, last = false): LedgerFact =>
  among(
    seen.ledger.filter(
      (one) =>
        one.kind === kind &&
        (!last || one === seen.ledger.findLast(({ code }) => code === one.code)),
    ),
  )
/** Puts a fact at the end of its shard's ledger, as an entry of its own. */
function append({ seen }: Evidence, like: LedgerFact, change: Partial<LedgerFact>): void {
  const at = seen.ledger.findLastIndex(({ shard }) => shard === like.shard)
  const end = seen.ledger[at]!
  const made = { ...like, epoch: end.epoch, n: end.n + 1, i: 0, at: end.at + 1, ...change }
  seen.ledger.splice(at + 1, 0, made)
}

/** A keyed attempt that had an effect, and a repeat that was answered the same. */
function repeated({ history, seen }: Evidence): { first: Attempt; again: Attempt } {
  const made = new Set(seen.ledger.map(({ request }) => request))
  const firsts = new Map(history.filter(({ id }) => made.has(id)).map((one) => [one.op, one]))
  const again = history.find(({ op, answer }) => answer.outcome === 'again' && firsts.has(op))!
  return { first: firsts.get(again.op)!, again }
}
/** The same, pressed again when the first had been answered for 2 s: what survives a fault. */
function longAgo({ history }: Pick<Evidence, 'history'>) {
  const dones = new Map(history.filter(isOk).map((one) => [one.op, one]))
  const again = history.find(
    ({ op, at, answer }) =>
      answer.outcome === 'again' && at >= (dones.get(op)?.answer.at ?? at) + 2_000,
  )
  return again && { first: dones.get(again.op)!, again }
}
/** A coupon whose lock, of a minute, is live now, and the guards of its shard. */
function guarded({ seen }: Evidence): { code: string; guards: Map<string, string> } {
  const [code, { book }] = [...seen.memory].find(
    ([, { lockedUntil }]) => lockedUntil > seen.now + 20_000,
  )!
  const { shard } = seen.books.find((one) => one.book === book)!
  return { code, guards: seen.shards[shard]!.guards as Map<string, string> }
}
/** Some attempt of which the service was asked what became, and said that the ledger has it. */
const told = ({ history }: Evidence) => among(history.filter((one) => one.told)).told!
/** Whatever is the last fact of its code, and a lock that holds at the end of its shard's ledger. */
function locked(all: Evidence): LedgerFact {
  const ends = new Map(all.seen.ledger.map(({ shard, at }) => [shard, at]))
  const last = new Map(all.seen.ledger.map((one) => [one.code, one]))
  return among(
    [...last.values()].filter(
      (one) =>
        one.kind === 'lock' &&
        one.redemptions === 0 &&
        one.lockedUntil > ends.get(one.shard)! + 1_000,
    ),
  )
}
/** What came before a fact, of the same code. */
const previous = ({ seen }: Evidence, { code, version }: LedgerFact) =>
  seen.ledger.find((one) => one.code === code && one.version === version - 1)

/** `says`: of several ways to find one kind, which one must. */
type Corruption = [Kind, string, (evidence: Evidence) => void, says?: RegExp]
const corruptions: Corruption[] = [
  [
    'two-users',
    'a code is handed out again while somebody has it',
    (all) => {
      append(all, fact(all, 'assign', true), { user: 'thief', version: 1 })
    },
  ],
  [
    'two-users',
    'two answers give one code to two users',
    (all) => {
      // A code that was released in between may go to two users, one after the other.
      const released = new Set(
        all.seen.ledger.filter(({ kind }) => kind === 'release').map(({ code }) => code),
      )
      const kept = all.history.filter(
        (one) =>
          isOk(one) &&
          one.verb === 'assign' &&
          one.answer.reached === 'postgres' &&
          one.answer.codes.every((code: string) => !released.has(code)),
      )
      const one = among(kept)
      const other = among(kept.filter(({ op }) => op !== one.op))
      other.answer.codes = one.answer.codes
      other.op = -1
    },
  ],
  [
    'not-in-ledger',
    'the ledger lacks what was acknowledged at postgres level',
    (all) => {
      const gone = done(all, 'assign').id
      all.seen.ledger = all.seen.ledger.filter(({ request }) => request !== gone)
    },
  ],
  [
    'not-in-ledger',
    'the entry of an acknowledged fact is another call’s',
    (all) => {
      for (const its of factsOf(all, done(all, 'redeem'))) its.request = 'somebody-else'
    },
  ],
  [
    'lost',
    'the ledger lacks what was acknowledged at redis level, and nothing was broken',
    (all) => {
      const gone = done(all, 'assign', 'redis').id
      all.seen.ledger = all.seen.ledger.filter(({ request }) => request !== gone)
    },
  ],
  [
    'refused-but-done',
    'a refused request had its effect',
    (all) => {
      Object.assign(done(all, 'lock').answer, { outcome: 'refused', why: 'coupon-locked' })
    },
  ],
  [
    'unknown-twice',
    'a request whose answer was lost happened twice',
    (all) => {
      const attempt = done(all, 'assign')
      append(all, factsOf(all, attempt)[0]!, { code: among(all.seen.books[0]!.stock) })
      attempt.answer.outcome = 'unknown'
    },
  ],
  [
    'key-twice',
    'two attempts under one key had an effect each',
    (all) => {
      const [one, other] = [done(all, 'assign'), done(all, 'assign')]
      Object.assign(one, { op: -1, key: 'key' })
      Object.assign(other, { op: -1, key: 'key' })
    },
  ],
  [
    'key-answers-differ',
    'a repeat under a key was answered with another code',
    (all) => {
      const again = all.history.find(
        ({ verb, answer }) => verb === 'assign' && answer.outcome === 'again',
      )!
      again.answer.codes = ['ANOTHER']
    },
  ],
  [
    'key-answers-differ',
    'a repeat under a key of what was done was refused',
    (all) => {
      Object.assign(longAgo(all)!.again.answer, {
        outcome: 'refused',
        status: 409,
        why: 'sold-out',
      })
    },
  ],
  [
    'done-after-refusal',
    'a refused attempt’s elder was done after the refusal',
    (all) => {
      const { first, again } = repeated(all)
      Object.assign(again.answer, { outcome: 'refused', status: 409, why: 'coupon-locked' })
      Object.assign(first.answer, { outcome: 'unknown', status: 0 })
      for (const its of factsOf(all, first)) its.at = again.answer.at + 100
    },
  ],
  [
    'operation',
    'what stands in the ledger was said to be absent',
    (all) => {
      Object.assign(told(all), { state: 'absent', facts: [] })
    },
    /"absent".*expected.*"durable"/,
  ],
  [
    'operation',
    'what does not stand in the ledger was said to be durable',
    (all) => {
      const refused = all.history.find(({ answer }) => answer.outcome === 'refused')!
      refused.answer.outcome = 'unknown'
      refused.told = { is: 'told', id: refused.id, state: 'durable', facts: ['0/1-1/0'] }
    },
    /"durable".*expected.*"absent"/,
  ],
  [
    'operation',
    'an operation was said to be another’s fact',
    (all) => {
      told(all).facts = ['0/1-1/0']
    },
    /expected.*"durable"/,
  ],
  [
    'operation',
    'nobody could say what became of an operation',
    (all) => {
      Object.assign(told(all), { state: 'pending', facts: [] })
    },
    /"pending"/,
  ],
  [
    'hidden-loss',
    'an entry that was lost was written over in its own epoch',
    (all) => {
      for (const its of factsOf(all, done(all, 'assign', 'redis'))) its.request = 'another'
      all.expected.mayLose = true
    },
    /which is another now/,
  ],
  [
    'hidden-loss',
    'a shard lost its end and went on in the same epoch',
    (all) => {
      const last = all.seen.ledger.findLast(({ request }) =>
        all.history.some((one) => one.id === request && isOk(one)),
      )!
      const attempt = all.history.find(({ id }) => id === last.request)!
      attempt.answer.reached = 'redis'
      all.seen.ledger = all.seen.ledger.filter(({ request }) => request !== last.request)
      all.expected.mayLose = true
    },
    /in that epoch still/,
  ],
  [
    'partial',
    'of three codes that were asked for, and of which nobody was told, two were given',
    (all) => {
      const of3 = all.history.find((one) => isOk(one) && one.count === 3)!
      of3.answer.outcome = 'unknown'
      const third = factsOf(all, of3).at(-1)
      all.seen.ledger = all.seen.ledger.filter((one) => one !== third)
    },
  ],
  [
    'partial',
    'one was asked for and three were given',
    (all) => {
      all.history.find((one) => isOk(one) && one.count === 3)!.count = 1
    },
  ],
  [
    'partial',
    'an answer tells of fewer codes than were asked for',
    (all) => {
      all.history.find((one) => isOk(one) && one.count === 3)!.answer.codes.pop()
    },
  ],
  [
    'no-entry',
    'an acknowledged lock names no fact',
    (all) => {
      delete done(all, 'lock').answer.fact
    },
  ],
  [
    'answer-differs',
    'an unlock says that it wrote nothing, and did',
    (all) => {
      delete done(all, 'unlock').answer.fact
    },
  ],
  [
    'below-level',
    'an answer of 200 at redis level to whoever asked for postgres',
    (all) => {
      done(all, 'redeem').answer.reached = 'redis'
    },
  ],
  [
    'below-level',
    'an unlock that wrote nothing rests on what the ledger has not',
    (all) => {
      const idle = all.history.find((one) => isOk(one) && one.verb === 'unlock' && isIdle(one))!
      idle.answer.reached = 'redis'
    },
  ],
  [
    'answer-differs',
    'a named assign stands in the ledger as something else',
    (all) => {
      for (const its of factsOf(all, done(all, 'assign_code'))) its.kind = 'redeem'
    },
  ],
  [
    'two-users',
    'a code that came back was given to two who asked for it by name',
    (all) => {
      const named = done(all, 'assign_code')
      const other = structuredClone(named)
      Object.assign(other, { id: 'other', op: -1, user: 'thief' })
      all.history.push(other, Object.assign(structuredClone(other), { id: 'third', op: -2 }))
      all.history.push(Object.assign(structuredClone(other), { id: 'fourth', op: -3 }))
    },
  ],
  [
    'invented',
    'the ledger has what nobody asked for',
    (all) => {
      append(all, fact(all, 'assign'), { code: among(all.seen.books[0]!.stock), request: 'nobody' })
    },
  ],
  [
    'answer-differs',
    'an answer names another code than the ledger',
    (all) => {
      done(all, 'assign').answer.codes[0] = 'ANOTHER'
    },
  ],
  [
    'answer-differs',
    'a lock was answered with another token',
    (all) => {
      done(all, 'lock').answer.token = 'another'
    },
  ],
  [
    'user-limit',
    'somebody holds more than the book allows',
    (all) => {
      for (const book of all.seen.books) book.maxHeld = 1
    },
  ],
  [
    'sum',
    'a code has vanished from stock and count',
    (all) => {
      all.seen.books[0]!.left--
    },
  ],
  [
    'sum',
    'a code was loaded and not counted',
    (all) => {
      all.seen.books[1]!.total--
    },
  ],
  [
    'ledger-gap',
    'an entry is missing',
    (all) => {
      const { shard, epoch, n } = among(all.seen.ledger.slice(10))
      all.seen.ledger = all.seen.ledger.filter(
        (one) => one.shard !== shard || one.epoch !== epoch || one.n !== n,
      )
    },
  ],
  [
    'ledger-gap',
    'an epoch does not begin at 1',
    (all) => {
      const { shard, epoch } = all.seen.ledger[0]!
      all.seen.ledger = all.seen.ledger.filter(
        (one) => one.shard !== shard || one.epoch !== epoch || one.n > 1,
      )
    },
  ],
  [
    'ledger-gap',
    'an entry lacks its first fact',
    (all) => {
      const { shard, epoch, n } = all.seen.ledger.find(({ i }) => i > 0)!
      const at = all.seen.ledger.findIndex(
        (one) => one.shard === shard && one.epoch === epoch && one.n === n,
      )
      all.seen.ledger.splice(at, 1)
    },
  ],
  [
    'ledger-gap',
    'an entry is missing, and another one is parked',
    (all) => {
      const [gone, other] = [all.seen.ledger[10]!, all.seen.ledger.at(-10)!]
      all.seen.ledger = all.seen.ledger.filter(
        ({ shard, epoch, n }) => shard !== gone.shard || epoch !== gone.epoch || n !== gone.n,
      )
      const { shard, epoch, n, i } = other
      all.seen.parked.push({ shard, epoch, n, i, reason: 'why' })
      all.expected.parked = 1
    },
  ],
  [
    'ledger-gap',
    'a parked fact has a place beyond the next one',
    (all) => {
      const { shard, epoch, n } = all.seen.ledger.at(-1)!
      all.seen.parked.push({ shard, epoch, n: n + 2, i: 0, reason: 'why' })
      all.expected.parked = 1
    },
  ],
  [
    'ledger-story',
    'a counter book’s code came back and was handed out again',
    (all) => {
      const counters = all.seen.books.filter(({ kind }) => kind === 'counter')
      const released = all.seen.ledger.find(
        ({ kind, book }) => kind === 'release' && counters.some((one) => one.book === book),
      )!
      append(all, released, { kind: 'assign', version: 1 })
    },
  ],
  [
    'ledger-story',
    'a void code was handed out again',
    (all) => {
      append(all, fact(all, 'void'), { kind: 'assign', version: 1, user: 'thief' })
    },
  ],
  [
    'ledger-story',
    'a code was taken out of stock that somebody had',
    (all) => {
      append(all, fact(all, 'assign', true), { kind: 'void', version: 1, user: '' })
    },
  ],
  [
    'ledger-story',
    'a version was skipped',
    (all) => {
      fact(all, 'lock').version++
    },
  ],
  [
    'ledger-story',
    'a stranger used the coupon',
    (all) => {
      fact(all, 'redeem').user = 'stranger'
    },
  ],
  [
    'fold-table',
    'a row of coupons has another owner',
    (all) => {
      among([...all.seen.table.values()]).user = 'thief'
    },
  ],
  [
    'fold-table',
    'a row of coupons is missing',
    (all) => {
      all.seen.table.delete(among([...all.seen.table.keys()]))
    },
  ],
  [
    'fold-memory',
    'Redis has a coupon that the ledger does not know',
    (all) => {
      all.seen.memory.set('NEW', among([...all.seen.memory.values()]))
    },
  ],
  [
    'fold-memory',
    'Redis has forgotten a redemption of a coupon',
    (all) => {
      const used = [...all.seen.memory.values()].filter(({ redemptions }) => redemptions > 0)
      among(used).redemptions--
    },
  ],
  [
    'counters',
    'the counter of a book is off by one',
    (all) => {
      all.seen.books[0]!.redeemed++
    },
  ],
  [
    'counters',
    'the counters in PostgreSQL are off by one',
    (all) => {
      all.seen.books[1]!.counters.held++
    },
  ],
  [
    'counters',
    'a user’s count is off by one',
    (all) => {
      const { users } = all.seen.books[0]!
      const user = among([...users.keys()])
      users.set(user, users.get(user)! + 1)
    },
  ],
  [
    'stock',
    'a code is in stock and held',
    (all) => {
      const { book, stock } = all.seen.books.find(({ kind }) => kind === 'codes')!
      stock[0] = [...all.seen.memory].find(([, coupon]) => coupon.book === book)![0]
    },
  ],
  [
    'stock',
    'a void code came back into stock',
    (all) => {
      const books = all.seen.books.filter(({ kind }) => kind === 'codes')
      const ofCodes = (book: string) => books.find((one) => one.book === book)
      const { code, book } = all.seen.ledger.find(
        (one) => one.kind === 'void' && ofCodes(one.book),
      )!
      ofCodes(book)!.stock.push(code)
      ofCodes(book)!.left++
    },
  ],
  [
    'fold-memory',
    'Redis has forgotten that a code is void',
    (all) => {
      all.seen.memory.delete(fact(all, 'void').code)
    },
  ],
  [
    'fold-table',
    'a void code has a holder in the coupons table',
    (all) => {
      all.seen.table.get(fact(all, 'void').code)!.user = 'thief'
    },
  ],
  [
    'counters',
    'a void code is not counted',
    (all) => {
      const { book } = fact(all, 'void')
      all.seen.books.find((one) => one.book === book)!.void--
    },
  ],
  [
    'stock',
    'a code in stock was never loaded',
    (all) => {
      all.seen.books.find(({ kind }) => kind === 'codes')!.stock[0] = 'NEVER'
    },
  ],
  [
    'lock-overlap',
    'a second lock begins before the first is over',
    (all) => {
      const first = fact(all, 'lock', true)
      const change = { token: 'second', version: first.version + 1, lockedUntil: first.lockedUntil }
      append(all, first, { ...change, at: first.at + 1 })
    },
  ],
  ...(['release', 'void'] as const).map(
    (kind): Corruption => [
      'lock-overlap',
      `a locked coupon was taken by ${kind}`,
      (all) => {
        const lock = locked(all)
        append(all, lock, { kind, version: lock.version + 1, token: '', lockedUntil: 0 })
      },
      new RegExp(`${kind} of .*, which is locked`),
    ],
  ),
  [
    'lock-token',
    'a coupon of a book that wants a lock was redeemed without one',
    (all) => {
      const wants = new Set(
        all.seen.books.flatMap((one) => (one.lockPolicy === 'required' ? [one.book] : [])),
      )
      const free = among(
        all.seen.ledger.filter(
          (one) =>
            wants.has(one.book) &&
            one.kind === 'assign' &&
            all.seen.ledger.findLast(({ code }) => code === one.code) === one,
        ),
      )
      const use = { redemption: 'new', redemptions: 1, version: free.version + 1 }
      append(all, free, { kind: 'redeem', ...use, request: 'nobody' })
    },
    /without a lock/,
  ],
  [
    'lock-token',
    'a locked coupon was redeemed without its token',
    (all) => {
      const { ledger } = all.seen
      const redeemed = ledger.find(({ kind, code }, at) => {
        const before = ledger.findLast((one, b) => b < at && one.code === code)
        return kind === 'redeem' && before?.kind === 'lock'
      })!
      all.history.find(({ id }) => id === redeemed.request)!.token = 'guessed'
    },
  ],
  [
    'lock-token',
    'a coupon was redeemed with the token of a lock that was over',
    (all) => {
      const strict = new Set(
        all.seen.books.filter(({ lockPolicy }) => lockPolicy === 'strict').map(({ book }) => book),
      )
      const redeemed = all.seen.ledger.find(
        (one) =>
          one.kind === 'redeem' &&
          strict.has(one.book) &&
          !previous(all, one)?.token &&
          all.history.some(({ id }) => id === one.request),
      )!
      all.history.find(({ id }) => id === redeemed.request)!.token = 'of-a-dead-lock'
    },
  ],
  [
    'lock-token',
    'the token of a lock that was over began another',
    (all) => {
      done(all, 'lock').token = 'of-a-dead-lock'
    },
  ],
  [
    'lock-token',
    'a live lock was extended by somebody who did not show its token',
    (all) => {
      const extended = all.seen.ledger.find((one) => {
        const before = previous(all, one)
        return one.kind === 'lock' && before?.kind === 'lock' && before.token === one.token
      })!
      delete all.history.find(({ id }) => id === extended.request)!.token
    },
  ],
  [
    'redeem-limit',
    'a coupon was used once more than it may be',
    (all) => {
      for (const one of all.seen.ledger) if (one.kind === 'redeem') one.max = 0.5
    },
  ],
  [
    'redeem-limit',
    'a user used a coupon once more than they may',
    (all) => {
      for (const book of all.seen.books) book.maxPerUser = 0
    },
  ],
  [
    'rollback-twice',
    'a redemption was rolled back twice',
    (all) => {
      const undone = fact(all, 'rollback', true)
      append(all, undone, { version: undone.version + 1 })
    },
  ],
  [
    'redemptions',
    'Redis has forgotten a redemption',
    (all) => {
      all.seen.redemptionMemory.delete(among([...all.seen.redemptionMemory.keys()]))
    },
  ],
  [
    'redemptions',
    'PostgreSQL thinks that a redemption stands',
    (all) => {
      among(all.seen.redemptionTable.filter(({ undone }) => undone)).undone = false
    },
  ],
  [
    'redemptions',
    'the id of a redemption was used for another one',
    (all) => {
      const [first, other] = all.seen.ledger.filter(({ kind }) => kind === 'redeem')
      other!.redemption = first!.redemption
    },
    /its id is no new one/,
  ],
  [
    'redemptions',
    'a redemption that never was has been rolled back',
    (all) => {
      fact(all, 'rollback').redemption = 'never'
    },
    /of no such redemption/,
  ],
  ...(['redeem', 'rollback', 'lock'] as const).map(
    (kind): Corruption => [
      'ledger-story',
      `a ${kind} counts a use too many`,
      (all) => {
        fact(all, kind).redemptions++
      },
      new RegExp(`${kind} of .*: uses`),
    ],
  ),
  [
    'dark-write',
    'something was decided after the memory was lost',
    (all) => {
      const { shard, epoch, at } = among(all.seen.ledger.slice(0, -100))
      all.expected.losses = [{ shard, epoch, at: at - 100 }]
    },
  ],
  [
    'dark-write',
    'something was decided while a recovery was under way',
    (all) => {
      const { shard, epoch, at } = among(all.seen.ledger.slice(100))
      const its = all.seen.recoveries.find((one) => one.shard === shard && one.epoch === epoch)!
      Object.assign(its, { begun: at - 100, ended: at + 100 })
    },
  ],
  [
    'dark-write',
    'something was decided in an epoch whose recovery never ended',
    (all) => {
      const its = all.seen.recoveries[0]!
      its.ended = null
      const next = { shard: its.shard, epoch: its.epoch + 1, begun: its.begun, ended: its.begun }
      all.seen.recoveries.splice(1, 0, next)
    },
  ],
  [
    'not-level',
    'Redis has an entry that PostgreSQL lacks',
    (all) => {
      all.seen.shards[0]!.meta.n++
    },
  ],
  [
    'not-level',
    'a fact was counted that is not there',
    (all) => {
      all.seen.shards[1]!.facts++
    },
  ],
  [
    'not-level',
    'a recovery never ended',
    (all) => {
      all.seen.recoveries.at(-1)!.ended = null
    },
  ],
  [
    'parked',
    'a fact was parked',
    (all) => {
      all.seen.parked.push({ shard: 0, epoch: 1, n: 1, i: 0, reason: 'why' })
    },
  ],
  [
    'guard',
    'a live lock has lost its guard',
    (all) => {
      const { code, guards } = guarded(all)
      guards.delete(code)
    },
  ],
  [
    'guard',
    'a guard has another token than its lock',
    (all) => {
      const { code, guards } = guarded(all)
      guards.set(code, 'another')
    },
  ],
  [
    'guard',
    'a guard has outlived its lock',
    (all) => {
      all.seen.now += 3_600_000
    },
  ],
  [
    'guard',
    'a guard keeps everyone from a code that is in stock',
    (all) => {
      const { shard, stock } = all.seen.books.find(({ kind }) => kind === 'codes')!
      all.seen.shards[shard]!.guards.set(stock[0]!, 'nobody’s')
    },
  ],
  [
    'guard',
    'a lock’s guard is on another shard',
    (all) => {
      const { code, guards } = guarded(all)
      for (const shard of all.seen.shards)
        if (shard.guards !== guards) shard.guards.set(code, guards.get(code)!)
    },
  ],
]

describe('the checker', () => {
  test('finds nothing wrong with a sale that went well, and saw everything in it', () => {
    const verdict = check(truth.history, truth.seen)
    expect(verdict.violations).toEqual([])
    expect(verdict.lost).toEqual([])
    expect(verdict.acknowledged).toBeGreaterThan(500)
    const verbs = new Set(truth.seen.ledger.map(({ kind }) => kind))
    expect([...verbs].sort()).toEqual([
      ...['assign', 'lock', 'redeem', 'release', 'rollback', 'unlock', 'void'],
    ])
    expect(missing(truth.history)).toEqual([])
    expect(missing([])).toContain('again')
    const inquired = truth.history.filter((one) => one.told)
    expect(inquired.length).toBeGreaterThan(20)
    expect(inquired.map((one) => one.told!.state)).toContain('durable')
    const { first, again } = longAgo(truth)!
    expect(again.answer).toMatchObject({ codes: first.answer.codes, fact: first.answer.fact })
  })

  test('takes the place of a fact that could not be stored for no gap', () => {
    const { history, seen } = structuredClone(truth)
    const { shard, epoch, n } = seen.ledger.at(-1)!
    seen.parked.push({ shard, epoch, n: n + 1, i: 0, reason: 'U+0000' })
    append({ history, seen, expected: {} }, seen.ledger.at(-1)!, { n: n + 2 })
    const found = check(history, seen, { parked: 1 }).violations.map(({ kind }) => kind)
    expect(found).not.toContain('ledger-gap')
    seen.parked = []
    expect(check(history, seen).violations.map(({ kind }) => kind)).toContain('ledger-gap')
  })

  test('lets whoever was refused, and asks again, be served', () => {
    const { history, seen } = structuredClone(truth)
    const first = history.find((one) => isOk(one) && one.key && one.answer.fact)!
    const answer = { ...first.answer, outcome: 'refused', status: 409, at: first.at - 1 } as const
    history.push({ ...first, id: 'earlier', at: first.at - 2, answer, told: undefined })
    expect(check(history, seen).violations).toEqual([])
  })

  test.each(['assign', 'lock', 'unlock', 'redeem', 'rollback', 'release', 'void'])(
    'says that a history without an acknowledged %s shows nothing of it',
    (verb) => {
      expect(missing(truth.history.filter((one) => one.verb !== verb))).toContain(verb)
    },
  )

  test.each(corruptions)('finds %s: %s', (kind, _, corrupt, says = /(?:)/) => {
    const evidence = structuredClone(truth)
    corrupt(evidence)
    const { violations } = check(evidence.history, evidence.seen, evidence.expected)
    expect(new Set(violations.map((one) => one.kind))).toContain(kind)
    const found = violations.filter((one) => one.kind === kind).map(({ what }) => what)
    expect(
      found.some((what) => says.test(what)),
      `${found}`,
    ).toBe(true)
  })

  test('is tested with a corruption of every kind it knows', () => {
    expect(new Set(corruptions.map(([kind]) => kind))).toEqual(new Set(kinds))
  })

  test('lists what was lost at redis level, and everybody to whom its code went later', () => {
    const evidence = structuredClone(truth)
    const assigns = new Map<string, number>()
    for (const { kind, code } of evidence.seen.ledger)
      if (kind === 'assign') assigns.set(code, (assigns.get(code) ?? 0) + 1)
    const { id, answer, user } = evidence.history.find(
      (one) =>
        isOk(one) &&
        one.verb === 'assign' &&
        one.answer.reached === 'redis' &&
        one.answer.codes.every((code) => assigns.get(code) === 1),
    )!
    const codes = new Set(answer.codes)
    const { shard, epoch } = factsOf(evidence, { id } as Attempt)[0]!
    evidence.seen.ledger = evidence.seen.ledger.filter((one) => !codes.has(one.code))
    // Somebody got it and gave it back, somebody else has it, and whoever had it before does not count.
    const like = { ...evidence.seen.ledger[0]!, shard, code: answer.codes[0]! }
    for (const [k, [kind, who]] of (
      [
        ['assign', 'the next one'],
        ['release', 'the next one'],
        ['assign', 'the last one'],
      ] as const
    ).entries())
      append(evidence, like, { kind, user: who, epoch: epoch + 1, n: k + 1 })
    evidence.seen.ledger.unshift({ ...like, kind: 'assign', user: 'the first one', epoch: 0 })
    const { lost } = check(evidence.history, evidence.seen, { mayLose: true })
    const its = lost.filter(({ attempt }) => attempt === id)
    expect(new Set(its.map(({ code }) => code))).toEqual(codes)
    const later = ['the next one', 'the last one']
    expect(its[0]).toMatchObject({ attempt: id, verb: 'assign', user, later })
  })
})
