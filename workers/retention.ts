import { type EntryId, entryId } from '../src/journal/entry.ts'

/** Facts that stay in the journal after PostgreSQL has them: what an old backup can be replayed from. */
export const factsKept = 200_000

/** Decides how much of the journal may be trimmed: everything below the last `factsKept` facts. */
export class Retention {
  #batches: { last: EntryId; facts: number }[] = []

  /**
   * Notes a batch that ended at entry `last`, with which the shard had `facts` facts since it was made,
   * whoever flushed them; returns the id of the first entry to keep, '' for "trim nothing". A whole id
   * and not a number, because numbers begin anew with each epoch: trimmed by an old one's, a journal
   * would lose what nobody has flushed yet.
   */
  add(last: EntryId, facts: number): string {
    this.#batches.push({ last, facts })
    let oldest = ''
    while (facts - this.#batches[0]!.facts >= factsKept)
      oldest = entryId(this.#batches.shift()!.last)
    return oldest
  }
}
