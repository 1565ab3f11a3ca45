import type { Entry, Fact } from '../journal/entry.ts'

type Placed = { fact: Fact; book: string; at: number }

/** What a batch of entries comes to, code by code and book by book. */
export type Folded = {
  inserts: Placed[]
  /** `before`: the version that the row must have. */
  updates: (Placed & { before: number })[]
  deletes: { code: string; before: number }[]
  redeemed: Placed[]
  rolledBack: Placed[]
  counters: Map<string, { held: number; redeemed: number }>
}

type Change = { before: number; last: Placed | undefined }

/**
 * Folds a batch to one change per code, because one statement may touch a row only once. Each fact
 * carries the whole state after it, so the last one of a code is what remains; the first one says
 * which version the row must be at (0: there must be no row).
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
  }
  for (const { kind, book, at, facts } of entries) {
    let counters = fold.counters.get(book)
    if (!counters) {
      counters = { held: 0, redeemed: 0 }
      fold.counters.set(book, counters)
    }
    for (const fact of facts) {
      const placed = { fact, book, at }
      const change = changes.get(fact.code)
      const last = kind === 'release' ? undefined : placed
      if (change) change.last = last
      else changes.set(fact.code, { before: kind === 'assign' ? 0 : fact.version - 1, last })
      if (kind === 'assign') counters.held++
      if (kind === 'release') counters.held--
      if (kind === 'redeem') {
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
