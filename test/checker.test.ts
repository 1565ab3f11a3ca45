import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { scratchDir } from '../src/embedded/leftovers.ts'
import { check, type Expected } from './chaos/checker.ts'
import { startLoad } from './chaos/client.ts'
import { type Kind, kinds } from './chaos/findings.ts'
import { type Attempt, readDiary } from './chaos/history.ts'
import { random } from './chaos/mind.ts'
import { type LedgerFact, observe, type Seen } from './chaos/observe.ts'
import { openWorld, type World } from './world.ts'

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
  world = await openWorld({ shards: 2 })
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
  await sleep(4_000)
  await load.stop()
  await load.settle(5_000)
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

const corruptions: [Kind, string, (evidence: Evidence) => void][] = [
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
    'dark-write',
    'something was decided after the memory was lost',
    (all) => {
      const { shard, epoch, at } = among(all.seen.ledger.slice(0, -100))
      all.expected.losses = [{ shard, epoch, at: at - 100 }]
    },
  ],
  [
    'dark-write',
    'a new epoch’s entry is older than the epoch',
    (all) => {
      all.seen.recoveries[0]!.begun += 3_600_000
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
      all.seen.now -= 3_600_000
      for (const { guards } of all.seen.shards) guards.clear()
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
    expect([...verbs].sort()).toEqual(['assign', 'lock', 'redeem', 'release', 'rollback', 'unlock'])
    expect(truth.history.some(({ answer }) => answer.outcome === 'again')).toBe(true)
  })

  test.each(corruptions)('finds %s: %s', (kind, _, corrupt) => {
    const evidence = structuredClone(truth)
    corrupt(evidence)
    const { violations } = check(evidence.history, evidence.seen, evidence.expected)
    expect(new Set(violations.map((one) => one.kind))).toContain(kind)
  })

  test('is tested with a corruption of every kind it knows', () => {
    expect(new Set(corruptions.map(([kind]) => kind))).toEqual(new Set(kinds))
  })

  test('lists what was lost at redis level, and who has its code now', () => {
    const evidence = structuredClone(truth)
    const { id, answer, user } = done(evidence, 'assign', 'redis')
    const codes = new Set(answer.codes)
    for (const one of evidence.seen.ledger) if (one.request === id) one.request = 'another'
    for (const code of codes) {
      const row = evidence.seen.table.get(code)
      if (row) row.user = 'the next one'
    }
    const { lost } = check(evidence.history, evidence.seen, { mayLose: true })
    expect(new Set(lost.map(({ code }) => code))).toEqual(codes)
    expect(lost[0]).toMatchObject({ attempt: id, verb: 'assign', user })
  })
})
