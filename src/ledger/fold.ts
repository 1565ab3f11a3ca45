import type { Entry, Fact, FactKind } from '../journal/entry.ts'

/** A row is not, or a fact does not say, what the fold expects: it is applied fact by fact then. */
export class Misfit extends Error {}

type Placed = { fact: Fact; book: string; at: number }

/** What a batch of entries comes to, code by code and book by book. */
export type Folded = {
  inserts: Placed[]
  /** `before`: the version that the row must have. */
  updates: (Placed & { before: number })[]
  deletes: { code: string; before: number }[]
  redeemed: Placed[]
  rolledBack: Placed[]
  counters: Map<string, { held: number; redeemed: number; void: number }>
  minutes: Minutes
}

/** What happened to a book in a minute; `within`: of redemptions, see withinSeconds. */
export type Minute = { book: string; minute: number; kind: FactKind; within: number; count: number }
type Minutes = Map<string, Minute>

const minuteMs = 60_000
/** A redemption is told by how soon after the assignment it came: a minute, an hour, a day, a week. */
export const withinBounds = [60, 3_600, 86_400, 604_800] as const
/** The first bound that it keeps; 0: none. */
const withinSeconds = (ms: number) => withinBounds.find((bound) => ms <= bound * 1000) ?? 0

function countIn(
  minutes: Minutes,
  book: string,
  at: number,
  kind: FactKind,
  within: number,
  by = 1,
) {
  const minute = Math.floor(at / minuteMs) * minuteMs
  const key = `${book} ${minute} ${kind} ${within}`
  const known = minutes.get(key)
  if (known) known.count += by
  else minutes.set(key, { book, minute, kind, within, count: by })
}

/** `before` and `version`: of the row, before the batch and after what was folded; 0: no row. */
type Change = { before: number; version: number; last: Placed | undefined }

/**
 * Folds a batch to one change per code, because one statement may touch a row only once. Each fact
 * carries the whole state after it, so the last one of a code is what remains; the first one says
 * which version the row must be at (0: there must be no row). Throws Misfit where two facts of the
 * batch contradict each other.
 */
export function foldEntries(entries: readonly Entry[]): Folded {
  const changes = new Map<string, Change>()
  const fold: Folded = {
    inserts: [],
    updates: [],
    deletes: [],
    redeemed: [],
    rolledBack: [],
    counters: new Map(),
    minutes: new Map(),
  }
  for (const { kind, book, at, facts } of entries) {
    let counters = fold.counters.get(book)
    if (!counters) {
      counters = { held: 0, redeemed: 0, void: 0 }
      fold.counters.set(book, counters)
    }
    if (kind !== 'redeem') countIn(fold.minutes, book, at, kind, 0, facts.length)
    for (const fact of facts) {
      // The row of a void code stays, and says that nobody has it.
      const placed = { fact: kind === 'void' ? { ...fact, user: '' } : fact, book, at }
      const expected = kind === 'assign' ? 0 : fact.version - 1
      let change = changes.get(fact.code)
      if (!change) {
        change = { before: expected, version: expected, last: undefined }
        changes.set(fact.code, change)
      }
      if (change.version !== expected)
        throw new Misfit(`${kind} needs version ${expected}, but it is ${change.version}`)
      const gone = kind === 'release'
      change.version = gone ? 0 : fact.version
      change.last = gone ? undefined : placed
      if (kind === 'assign') counters.held++
      if (kind === 'release') counters.held--
      if (kind === 'void') {
        counters.void++
        if (fact.user !== '') counters.held--
      }
      if (kind === 'redeem') {
        countIn(fold.minutes, book, at, kind, withinSeconds(at - fact.assignedAt))
        fold.redeemed.push(placed)
        if (fact.redemptions === fact.max) counters.redeemed++
      }
      if (kind === 'rollback') {
        fold.rolledBack.push(placed)
        if (fact.redemptions + 1 === fact.max) counters.redeemed--
      }
    }
  }
  for (const [code, { before, last }] of changes) {
    if (before === 0 && last) fold.inserts.push(last)
    else if (last) fold.updates.push({ ...last, before })
    else if (before > 0) fold.deletes.push({ code, before })
  }
  // Rows are always locked in the same order, so that two shards' transactions cannot deadlock.
  fold.updates.sort((a, b) => (a.fact.code < b.fact.code ? -1 : 1))
  fold.deletes.sort((a, b) => (a.code < b.code ? -1 : 1))
  return fold
}
