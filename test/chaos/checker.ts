import { checkAnswers, countTwice, type Lost } from './check-answers.ts'
import { checkGaps, factOf, readStory } from './check-ledger.ts'
import { checkStores } from './check-stores.ts'
import { Findings, type Violation } from './findings.ts'
import type { Attempt } from './history.ts'
import type { Seen } from './observe.ts'

/** When Redis lost its memory of a shard, and in which epoch it was. */
export type Loss = {
  shard: number
  epoch: number
  at: number
  /** Only this book was hurt. */
  book?: string
}

export type Expected = {
  /** Acknowledgements at `redis` level may be lost: Redis lost memory. */
  mayLose?: boolean
  losses?: Loss[]
  /** Facts that were put into the journal by hand and cannot fit: this many are parked. */
  parked?: number
}

export type Verdict = {
  violations: Violation[]
  acknowledged: number
  /** Of them, those that PostgreSQL was said to hold. */
  atPostgres: number
  /** Acknowledged at `redis` level only, and gone. */
  lost: Lost[]
  /** Codes that were acknowledged to two users, at any level. */
  twice: number
  unknown: number
  resolved: number
}

/**
 * Takes what the client was told, what Redis holds and what PostgreSQL holds, once the ledger is
 * level, and says everything that contradicts what was promised.
 */
export function check(history: readonly Attempt[], seen: Seen, expected: Expected = {}): Verdict {
  const findings = new Findings()
  const attempts = new Map(history.map((attempt) => [attempt.id, attempt]))
  checkGaps(seen, findings)
  const story = readStory(seen, attempts, findings)
  checkStores(seen, story, findings)
  const lost = checkAnswers(seen, attempts, findings)
  const twice = countTwice(seen, history, findings)
  if (!expected.mayLose) {
    for (const { attempt, verb, code } of lost)
      findings.add('lost', `${attempt}: ${verb} of ${code}`)
    if (twice > 0) findings.add('two-users', `${twice} codes were acknowledged to two users`)
  }
  checkDark(history, seen, expected.losses ?? [], findings)
  findings.equal('parked', 'parked facts', seen.parked.length, expected.parked ?? 0)
  return {
    violations: findings.violations,
    acknowledged: history.filter(isOk).length,
    atPostgres: history.filter((one) => isOk(one) && one.answer.reached === 'postgres').length,
    lost,
    twice,
    ...countUnknown(history),
  }
}

const isOk = ({ answer }: Attempt) => answer.outcome === 'done' || answer.outcome === 'again'

/**
 * The kinds of evidence that a history has none of: a checker that was shown nothing finds nothing
 * wrong. Of each verb an acknowledgement that wrote something, of each level one, and a repeat.
 */
export function missing(history: readonly Attempt[]): string[] {
  const there = new Set<string>()
  for (const attempt of history) {
    const { verb, answer } = attempt
    if (!isOk(attempt) || !answer.fact) continue
    for (const kind of [verb, answer.reached, answer.outcome]) there.add(`${kind}`)
  }
  return evidence.filter((kind) => !there.has(kind))
}

const evidence = [
  ...['assign', 'assign_code', 'lock', 'unlock', 'redeem', 'rollback', 'release', 'void'],
  ...['again', 'postgres', 'redis'],
]

/** Clocks of one machine, read in whole milliseconds by three programs. */
const toleranceMs = 2

/** No write was accepted between the loss of memory and the end of the recovery. */
function checkDark(
  history: readonly Attempt[],
  { ledger, recoveries }: Seen,
  losses: Loss[],
  findings: Findings,
): void {
  for (const { shard, epoch, at, book } of losses) {
    const hurt = (its: string) => book === undefined || book === its
    for (const fact of ledger.filter((one) => one.shard === shard && hurt(one.book)))
      if (fact.epoch <= epoch && fact.at > at + toleranceMs)
        findings.add('dark-write', `${factOf(fact)} at ${fact.at}, memory was lost at ${at}`)
    for (const attempt of history) {
      const [its, of] = attempt.answer.fact ?? []
      if (!hurt(attempt.book)) continue
      if (its === shard && of! <= epoch && attempt.at > at && attempt.answer.outcome === 'done')
        findings.add('dark-write', `${attempt.id} asked at ${attempt.at} was done in epoch ${of}`)
    }
  }
  // A gate opens only once PostgreSQL has the end of the recovery, written at the beginning of the
  // statement that commits it: nothing of the epoch is older, and an epoch that never ended has nothing.
  for (const { shard, epoch, ended } of recoveries) {
    const since = ended ?? Number.POSITIVE_INFINITY
    const last = recoveries.findLast((one) => one.shard === shard)!.epoch === epoch
    if (last && ended === null)
      findings.add('not-level', `recovery ${shard}/${epoch} has not ended`)
    for (const fact of ledger)
      if (fact.shard === shard && fact.epoch === epoch && fact.at < since - toleranceMs)
        findings.add('dark-write', `${factOf(fact)} at ${fact.at}, recovered at ${ended}`)
  }
}

/** Attempts of which nobody knew what became, and those of them that a repeat under their key told. */
function countUnknown(history: readonly Attempt[]): { unknown: number; resolved: number } {
  const unknown = history.filter(({ answer }) => answer.outcome === 'unknown')
  const decided = new Set(
    history.filter(({ answer }) => isDecided(answer.outcome, answer.status)).map(({ op }) => op),
  )
  const resolved = unknown.filter(({ key, op }) => key && decided.has(op))
  return { unknown: unknown.length, resolved: resolved.length }
}

const isDecided = (outcome: Attempt['answer']['outcome'], status: number) =>
  outcome === 'done' || outcome === 'again' || (outcome === 'refused' && status !== 503)
