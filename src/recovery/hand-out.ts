import { setTimeout as sleep } from 'node:timers/promises'
import { drawCounterCodes } from '../codes.ts'
import type { Context } from '../journal/entry.ts'
import type { Distribution, Settled, Share } from '../ledger/distributions.ts'
import type { Problem, ProblemCode } from '../problems.ts'
import type { BookPlace, Store } from '../store/store.ts'
import type { FactId, Outcome } from '../store/verb.ts'
import type { Assigned } from '../store/verbs.ts'

/** Where shares come from. `prefix`: begins the codes of a counter book. */
export type Shop = { store: Pick<Store, 'assign'>; book: BookPlace; prefix: string | null }

/** What came of asking: results, once the ledger has the facts; why the book gives nobody any more. */
export type Asked = {
  settled: Settled[]
  facts: FactId[]
  closed?: Problem | undefined
  /** Somebody was not answered: nobody knows what became of that share. */
  failure?: string | undefined
}

/** What is over in a moment is waited for, but not so long that the run is taken for dead. */
const patienceMs = 3_000
const againMs = 200
const passing: readonly ProblemCode[] = ['backlog', 'intake-stopped', 'not-ready']
/** Of this user alone; any other refusal of the book counts for everybody who follows. */
const personal: readonly ProblemCode[] = ['assignment-limit', 'sold-out']
const ofBook: readonly ProblemCode[] = [
  'book-archived',
  'book-expired',
  'book-inactive',
  'book-not-open',
  'book-closed',
]

/** Keys of shares: a dot is in nobody else's, and behind it stands the position. */
export const keyPrefix = (jobId: string): string =>
  `${Buffer.from(jobId.replaceAll('-', ''), 'hex').toString('base64url')}.`

/**
 * Asks for some shares at once: the store makes calls of a few hundred facts of them. A process that
 * stood still since it claimed them (`begun`) asks for nothing: another run may be at work.
 */
export async function askShares(
  shop: Shop,
  run: Distribution,
  shares: Share[],
  begun: number,
): Promise<Asked> {
  const until = begun + patienceMs
  const answers = await Promise.all(shares.map((share) => ask(shop, run, share, until)))
  const asked: Asked = { settled: [], facts: [] }
  for (const answer of answers) {
    if ('failure' in answer) asked.failure ??= answer.failure
    else if ('closed' in answer) asked.closed ??= answer.closed
    else {
      asked.settled.push(answer.settled)
      if (answer.fact) asked.facts.push(answer.fact)
    }
  }
  return asked
}

type Answer =
  | { settled: Settled; fact?: FactId | undefined }
  | { closed: Problem }
  | { failure: string }

/**
 * Asks for one share. Drawn at random it is given in part where a limit or the stock has room for less
 * than the plan thought; each user's equal share is given in full or not at all.
 */
async function ask(
  { store, book, prefix }: Shop,
  run: Distribution,
  { position, user, share }: Share,
  until: number,
): Promise<Answer> {
  const key = keyPrefix(run.job_id) + position
  const context: Context = { actor: run.actor, request_id: run.request_id, key, hash: 'share' }
  let why: Problem | undefined
  for (let count = share; ; ) {
    if (performance.now() > until) return { failure: 'too late' }
    const request = {
      ...{ user, count: String(count), key, hash: 'share', context: JSON.stringify(context) },
      codes: prefix ? drawCounterCodes(prefix, count).join(' ') : '',
    }
    const outcome = await store.assign(book, request, count)
    if (outcome.ok) return given(position, share, outcome, why)
    const code = outcome.problem
    if (ofBook.includes(code)) return { closed: outcome }
    if (personal.includes(code)) {
      why = outcome
      const room = run.mode === 'random' ? roomOf(outcome) : 0
      if (room < 1 || room >= count) return { settled: { position, codes: [], short: true, why } }
      count = room
    } else if (!passing.includes(code) || performance.now() + againMs > until)
      return { failure: code }
    else await sleep(againMs)
  }
}

function given(
  position: number,
  share: number,
  { value, fact }: Outcome<Assigned[]>,
  why: Problem | undefined,
): Answer {
  const codes = value.map(({ code }) => code)
  const short = codes.length < share
  return { settled: { position, codes, short, why: short ? why : undefined }, fact }
}

/** How many this user could have instead. */
function roomOf({ values }: Problem): number {
  if (values?.left !== undefined) return Number(values.left)
  return Number(values?.limit) - Number(values?.held)
}
