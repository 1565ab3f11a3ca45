import type { Findings } from './findings.ts'
import type { Attempt } from './history.ts'
import { type Held, type LedgerFact, nobodys, type Seen, type SeenBook } from './observe.ts'

/** What the ledger comes to, read as a story from its first line. */
export type Story = {
  coupons: Map<string, Held & { book: string }>
  /** Redemption id -> what became of it. */
  redemptions: Map<string, { code: string; book: string; undone: boolean }>
}

export const factOf = (fact: Pick<LedgerFact, 'shard' | 'epoch' | 'n' | 'i'>) =>
  `${fact.shard}/${fact.epoch}-${fact.n}/${fact.i}`

const heldOf = ({ book, user, version, redemptions, max, token, lockedUntil }: LedgerFact) => ({
  ...{ book, user, version, redemptions, max, token, lockedUntil },
})

type Place = Pick<LedgerFact, 'shard' | 'epoch' | 'n' | 'i'>

/**
 * Every entry has its number, every number its entry, every fact its place. A fact that PostgreSQL
 * parked has its place there when the ledger could not even store it.
 */
export function checkGaps({ ledger, parked }: Seen, findings: Findings): void {
  const stored = new Set(ledger.map(factOf))
  const places: Place[] = [...ledger, ...parked.filter((fact) => !stored.has(factOf(fact)))]
  places.sort((a, b) => a.shard - b.shard || a.epoch - b.epoch || a.n - b.n || a.i - b.i)
  let last: Place | undefined
  for (const fact of places) {
    const begins = last?.shard !== fact.shard || last.epoch !== fact.epoch
    const n = begins ? 1 : fact.i === 0 ? last!.n + 1 : last!.n
    const i = begins || fact.n !== last!.n ? 0 : last!.i + 1
    if (fact.n !== n || fact.i !== i)
      findings.add('ledger-gap', `${factOf(fact)} follows ${last ? factOf(last) : 'nothing'}`)
    last = fact
  }
}

/**
 * Reads the ledger as a story: every fact must follow from the one before of its code, by the rules
 * of its book. `attempts` by request id, for what the client had presented. Facts that PostgreSQL
 * parked stand in the ledger and count for nothing.
 */
export function readStory(
  seen: Seen,
  attempts: ReadonlyMap<string, Attempt>,
  findings: Findings,
): Story {
  const story: Story = { coupons: new Map(), redemptions: new Map() }
  const books = new Map(seen.books.map((book) => [book.book, book]))
  const parked = new Set(seen.parked.map(factOf))
  const perUser = new Map<string, number>()
  const gone = new Set<string>()
  for (const fact of seen.ledger) {
    if (parked.has(factOf(fact))) continue
    const book = books.get(fact.book)
    if (!book) {
      findings.add('ledger-story', `${factOf(fact)} is of a book that there is not`)
      continue
    }
    const before = story.coupons.get(fact.code)
    checkStep(fact, before, findings)
    checkLimits(fact, before, book, perUser, findings)
    checkLock(fact, before, book, attempts.get(fact.request), findings)
    checkRedemption(fact, story, findings)
    // What is void, as is what a counter book got back, is so for ever: nothing is done with it.
    if (gone.has(fact.code))
      findings.add('ledger-story', `${factOf(fact)} ${fact.kind} of ${fact.code}, which is void`)
    if (fact.kind === 'void' || (fact.kind === 'release' && book.kind === 'counter'))
      gone.add(fact.code)
    if (fact.kind === 'release') story.coupons.delete(fact.code)
    else if (fact.kind === 'void') story.coupons.set(fact.code, { book: fact.book, ...nobodys })
    else story.coupons.set(fact.code, heldOf(fact))
  }
  return story
}

function checkStep(fact: LedgerFact, before: Held | undefined, findings: Findings): void {
  const what = `${factOf(fact)} ${fact.kind} of ${fact.code}`
  if (fact.kind === 'assign') {
    if (before) findings.add('two-users', `${what} to ${fact.user}, but ${before.user} has it`)
    findings.equal('ledger-story', `${what}: version`, fact.version, 1)
    return
  }
  if (!before && fact.kind === 'void') {
    const said = { user: fact.user, version: fact.version }
    findings.equal('ledger-story', `${what} from stock`, said, { user: '', version: 1 })
    return
  }
  if (!before) {
    findings.add('ledger-story', `${what}, which nobody has`)
    return
  }
  findings.equal('ledger-story', `${what}: version`, fact.version, before.version + 1)
  findings.equal('ledger-story', `${what}: user`, fact.user, before.user)
  const step = fact.kind === 'redeem' ? 1 : fact.kind === 'rollback' ? -1 : 0
  findings.equal('ledger-story', `${what}: uses`, fact.redemptions, before.redemptions + step)
}

function checkLimits(
  fact: LedgerFact,
  before: Held | undefined,
  { maxHeld, maxPerUser }: SeenBook,
  perUser: Map<string, number>,
  findings: Findings,
): void {
  const what = `${factOf(fact)} ${fact.kind} of ${fact.code}`
  const isTaken = fact.kind === 'release' || fact.kind === 'void'
  if (fact.kind === 'assign' || isTaken) {
    const key = `${fact.book} ${fact.user}`
    const count = (perUser.get(key) ?? 0) + (fact.kind === 'assign' ? 1 : -1)
    perUser.set(key, count)
    if (maxHeld !== null && count > maxHeld)
      findings.add('user-limit', `${what}: ${fact.user} holds ${count} of ${maxHeld}`)
  }
  const uses = fact.redemptions
  if (fact.kind === 'redeem' && fact.max > 0 && uses > fact.max)
    findings.add('redeem-limit', `${what}: use ${uses} of ${fact.max}`)
  if (fact.kind === 'redeem' && maxPerUser !== null && uses > maxPerUser)
    findings.add('redeem-limit', `${what}: use ${uses} of ${maxPerUser} a user`)
  if (isTaken && (before?.redemptions ?? 0) > 0)
    findings.add('ledger-story', `${what}, which has been used`)
}

function checkLock(
  fact: LedgerFact,
  before: Held | undefined,
  { lockPolicy }: SeenBook,
  attempt: Attempt | undefined,
  findings: Findings,
): void {
  const what = `${factOf(fact)} ${fact.kind} of ${fact.code}`
  const live = before && before.lockedUntil >= fact.at && before.token !== ''
  if (fact.kind === 'lock' && live && fact.token !== before.token)
    findings.add('lock-overlap', `${what} at ${fact.at}: another lasts until ${before.lockedUntil}`)
  if ((fact.kind === 'release' || fact.kind === 'void') && live)
    findings.add('lock-overlap', `${what}, which is locked`)
  const barred = fact.kind === 'redeem' && lockPolicy !== 'holder'
  if (barred && !live && lockPolicy === 'required')
    findings.add('lock-token', `${what} without a lock`)
  if (!attempt || !(barred || fact.kind === 'lock')) return
  if (live && attempt.token !== before.token)
    findings.add('lock-token', `${what} with token ${attempt.token}, locked by ${before.token}`)
  // Who shows a token believes to hold the lock: told nothing, they would act on a lock that is over.
  if (!live && attempt.token)
    findings.add('lock-token', `${what} at ${fact.at} with ${attempt.token}, whose lock is over`)
}

function checkRedemption(fact: LedgerFact, { redemptions }: Story, findings: Findings): void {
  const { kind, redemption: id, code, book } = fact
  const what = `${factOf(fact)} ${kind} ${id}`
  if (kind === 'redeem') {
    if (!id || redemptions.has(id)) findings.add('redemptions', `${what}: its id is no new one`)
    else redemptions.set(id, { code, book, undone: false })
  }
  if (kind !== 'rollback') return
  const its = redemptions.get(id ?? '')
  if (!its || its.code !== code) findings.add('redemptions', `${what} of no such redemption`)
  else if (its.undone) findings.add('rollback-twice', what)
  else its.undone = true
}
