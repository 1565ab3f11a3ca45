import { factOf } from './check-ledger.ts'
import type { Findings } from './findings.ts'
import { type Attempt, kindOf } from './history.ts'
import type { LedgerFact, Seen } from './observe.ts'

/** An acknowledged fact that the ledger does not hold, and everybody to whom its code went after it. */
export type Lost = { attempt: string; verb: string; code: string; user: string; later: string[] }
type Gone = Omit<Lost, 'later'> & { fact: NonNullable<Attempt['answer']['fact']> }

const acknowledged = ({ answer }: Attempt) =>
  answer.outcome === 'done' || answer.outcome === 'again'

const entryOf = ({ shard, epoch, n }: Pick<LedgerFact, 'shard' | 'epoch' | 'n'>) =>
  `${shard}/${epoch}-${n}`

/** Where the ledger should hold the facts of an answer. */
function claims({ answer }: Attempt): { id: string; code: string }[] {
  if (!answer.fact) return []
  const [shard, epoch, n, first] = answer.fact
  return answer.codes.map((code, k) => ({ id: factOf({ shard, epoch, n, i: first + k }), code }))
}

/**
 * Every answer against the ledger: what was acknowledged is there, what was refused is not, what
 * nobody knew happened once or not at all. Returns the acknowledged facts that are not there: none
 * may have been promised to be.
 */
export function checkAnswers(
  seen: Seen,
  attempts: ReadonlyMap<string, Attempt>,
  findings: Findings,
): Lost[] {
  const places = new Map(seen.ledger.map((fact) => [factOf(fact), fact]))
  const made = Map.groupBy(seen.ledger, (fact) => fact.request)
  const parked = new Set(seen.parked.map(factOf))
  const gone: Gone[] = []
  for (const attempt of attempts.values()) {
    const { id, answer } = attempt
    const facts = made.get(id) ?? []
    const entries = new Set(facts.map(entryOf))
    // All that was asked for, or none: also where nobody could tell which.
    const count = attempt.count ?? 1
    if (facts.length > 0 && facts.length !== count)
      findings.add('partial', `${id} asked for ${count}, the ledger has ${facts.length}`)
    if (acknowledged(attempt)) {
      checkSaid(attempt, entries, findings)
      gone.push(...checkAcknowledged(attempt, places, attempts, findings))
    } else if (answer.outcome === 'unknown') {
      if (entries.size > 1) findings.add('unknown-twice', `${id} happened as ${[...entries]}`)
    } else if (entries.size > 0)
      findings.add('refused-but-done', `${id} (${answer.why}) happened as ${[...entries]}`)
    checkTold(attempt, facts, places, attempts, findings)
  }
  for (const [request, facts] of made)
    if (!attempts.has(request) && facts.some((fact) => !parked.has(factOf(fact))))
      findings.add('invented', `nobody asked for ${factOf(facts[0]!)} (${request})`)
  checkKeys(attempts, made, places, findings)
  checkHidden(gone, seen, places, findings)
  return gone.map(({ fact, ...one }) => ({ ...one, later: laterOf(one.code, fact, seen, gone) }))
}

/** What the service says became of an operation, against the ledger. */
function checkTold(
  attempt: Attempt,
  facts: readonly LedgerFact[],
  places: ReadonlyMap<string, LedgerFact>,
  attempts: ReadonlyMap<string, Attempt>,
  findings: Findings,
): void {
  const { id, op, told } = attempt
  if (!told) return
  // A repeat under a key was told of the first one's facts, and so is who asks about it.
  const its = acknowledged(attempt)
    ? claims(attempt).flatMap((claim) => places.get(claim.id) ?? [])
    : facts
  const there = its.filter(({ request }) => attempts.get(request)?.op === op).map(factOf)
  const expected = { state: there.length > 0 ? 'durable' : 'absent', facts: there }
  const { state, facts: said } = told
  findings.equal('operation', `operation of ${id}`, { state, facts: said }, expected)
}

/**
 * A shard that lost entries has a new epoch from then on. One that went on in the old one did not
 * notice, and writes over what it had acknowledged, or soon will.
 */
function checkHidden(
  gone: readonly Gone[],
  { shards }: Seen,
  places: ReadonlyMap<string, LedgerFact>,
  findings: Findings,
): void {
  for (const { attempt, fact } of gone) {
    const [shard, epoch, n, i] = fact
    const place = factOf({ shard, epoch, n, i })
    const other = places.get(place)
    if (other) findings.add('hidden-loss', `${attempt} was ${place}, which is ${other.request} now`)
    else if (shards[shard]!.epoch === epoch)
      findings.add('hidden-loss', `${attempt} was ${place}, and the shard is in that epoch still`)
  }
}

/** To whom a code went after a fact that was lost: by the ledger, and by what was lost as well. */
function laterOf(code: string, fact: Gone['fact'], seen: Seen, gone: readonly Gone[]): string[] {
  const [shard, epoch, n] = fact
  const isLater = (e: number, k: number) => e > epoch || (e === epoch && k >= n)
  const kept = seen.ledger.filter(
    (one) =>
      one.code === code &&
      one.kind === 'assign' &&
      one.shard === shard &&
      isLater(one.epoch, one.n),
  )
  const lost = gone.filter(
    (one) =>
      one.code === code &&
      one.verb === 'assign' &&
      one.fact !== fact &&
      isLater(one.fact[1], one.fact[2]),
  )
  return [...new Set([...kept, ...lost].map(({ user }) => user))]
}

/** An acknowledgement by itself: what it must say, so that there is something to hold it to. */
function checkSaid(attempt: Attempt, entries: ReadonlySet<string>, findings: Findings): void {
  const { id, verb, level, count = 1, answer } = attempt
  const { status, reached, fact, codes } = answer
  // Only an unlock of what is not locked writes nothing by design.
  if (!fact && verb !== 'unlock') findings.add('no-entry', `${id}: ${verb} names no fact`)
  if (codes.length !== count)
    findings.add('partial', `${id} asked for ${count}, was told of ${codes.length}`)
  // 202 says that the ledger did not follow in time, 200 that the promise is kept.
  if (status === 200 && level === 'postgres' && reached !== 'postgres')
    findings.add('below-level', `${id}: 200 at ${reached}, asked for postgres`)
  const [shard, epoch, n] = fact ?? []
  const said = fact && entryOf({ shard: shard!, epoch: epoch!, n: n! })
  for (const entry of entries)
    if (entry !== said) findings.add('answer-differs', `${id} happened as ${entry}, told ${said}`)
}

function checkAcknowledged(
  attempt: Attempt,
  places: ReadonlyMap<string, LedgerFact>,
  attempts: ReadonlyMap<string, Attempt>,
  findings: Findings,
): Gone[] {
  const { id, verb, user, op, answer } = attempt
  const gone: Gone[] = []
  for (const { id: place, code } of claims(attempt)) {
    const fact = places.get(place)
    const asker = fact && attempts.get(fact.request)
    // The place may be another call's: Redis forgot this one and counted on from before.
    if (!fact || asker?.op !== op) {
      if (answer.reached === 'postgres')
        findings.add('not-in-ledger', `${id}: ${verb} of ${code} for ${user} at ${place}`)
      else gone.push({ attempt: id, verb: kindOf(verb), code, user, fact: answer.fact! })
      continue
    }
    const said: Record<string, unknown> = { kind: kindOf(verb), code }
    const held: Record<string, unknown> = { kind: fact.kind, code: fact.code }
    // Whose coupon is released, void or rolled back, its request does not say.
    if (verb !== 'release' && verb !== 'void' && verb !== 'rollback') {
      said.user = user
      held.user = fact.user
    }
    if (verb === 'redeem') {
      said.redemption = answer.redemption
      held.redemption = fact.redemption
    }
    findings.equal('answer-differs', `${id} at ${place}`, said, held)
    if (verb === 'lock')
      findings.equal('answer-differs', `token of ${id}`, answer.token, fact.token)
  }
  return gone
}

/**
 * One effect for one key, and the same answer each time, unless the first was lost in between; and no
 * refusal of what has happened or is happening.
 */
function checkKeys(
  attempts: ReadonlyMap<string, Attempt>,
  made: ReadonlyMap<string, LedgerFact[]>,
  places: ReadonlyMap<string, LedgerFact>,
  findings: Findings,
): void {
  const ops = Map.groupBy(
    [...attempts.values()].filter(({ key }) => key),
    ({ op }) => op,
  )
  for (const [op, tries] of ops) {
    const entries = new Set(
      tries.flatMap(({ id }) => made.get(id) ?? []).map((fact) => factOf({ ...fact, i: 0 })),
    )
    if (entries.size > 1) findings.add('key-twice', `op ${op} happened as ${[...entries]}`)
    checkRefusals(tries, made, findings)
    const standing = tries.filter(
      (attempt) =>
        acknowledged(attempt) &&
        attempt.answer.fact && // an unlock of what was not locked is not remembered
        (attempt.answer.reached === 'postgres' ||
          claims(attempt).every(
            ({ id }) => attempts.get(places.get(id)?.request ?? '')?.op === op,
          )),
    )
    const answers = new Set(
      standing.map(({ answer: { codes, fact, token, redemption } }) =>
        JSON.stringify([codes, fact, token, redemption]),
      ),
    )
    if (answers.size > 1) findings.add('key-answers-differ', `op ${op}: ${[...answers]}`)
  }
}

/**
 * A definite no to one attempt means that nothing came of the key, for its asker goes away with it.
 * An effect that was lost does not stand in the ledger and may be refused later; and whoever presses
 * again after a no may be served: only attempts that were made before it count.
 */
function checkRefusals(
  tries: readonly Attempt[],
  made: ReadonlyMap<string, LedgerFact[]>,
  findings: Findings,
): void {
  const effects = tries.filter(({ id }) => made.has(id))
  for (const { id, at: asked, answer } of tries) {
    if (answer.outcome !== 'refused' || answer.status === 503) continue
    for (const effect of effects) {
      if (effect.at >= answer.at || effect.id === id) continue
      const { at } = made.get(effect.id)![0]!
      // What was still on its way happened nevertheless: another fault than an answer forgotten.
      const kind = at < asked ? 'key-answers-differ' : 'done-after-refusal'
      const no = `${id} was refused (${answer.why}), asked at ${asked}, answered at ${answer.at}`
      findings.add(kind, `${no}; ${effect.id} of the same key happened at ${at}`)
    }
  }
}

/**
 * No code acknowledged to two users, told from the answers alone: between two acknowledged
 * assignments of a code that the ledger holds there is a release. Returns how many codes went to two
 * people, lost acknowledgements included.
 */
export function countTwice(seen: Seen, attempts: Iterable<Attempt>, findings: Findings): number {
  const released = new Map<string, number>()
  for (const fact of seen.ledger)
    if (fact.kind === 'release') released.set(fact.code, (released.get(fact.code) ?? 0) + 1)
  const winners = new Map<string, { all: Set<string>; sure: Set<string> }>()
  for (const attempt of attempts) {
    if (kindOf(attempt.verb) !== 'assign' || !acknowledged(attempt)) continue
    for (const code of attempt.answer.codes) {
      const its = winners.get(code) ?? { all: new Set(), sure: new Set() }
      winners.set(code, its)
      its.all.add(`${attempt.op}`)
      if (attempt.answer.reached === 'postgres') its.sure.add(`${attempt.op}`)
    }
  }
  let twice = 0
  for (const [code, { all, sure }] of winners) {
    const allowed = 1 + (released.get(code) ?? 0)
    if (all.size > allowed) twice++
    if (sure.size > allowed)
      findings.add('two-users', `${code} was acknowledged to ${sure.size} at postgres level`)
  }
  return twice
}
