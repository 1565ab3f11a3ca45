import { type EntryId, entryId } from '../src/journal/entry.ts'

/** Facts that stay in the journal after PostgreSQL has them: what an old backup can be replayed from. */
const factsKept = 200_000

/** Decides how much of the journal may be trimmed: everything below the last `factsKept` facts. */
export class Retention {
  #batches: { last: EntryId; facts: number }[] = []
  #kept = 0

  /**
   * Notes a batch that ended at entry `last`; returns the id of the first entry to keep, '' for
   * "trim nothing". A whole id and not a number, because numbers begin anew with each epoch: trimmed
   * by an old one's, a journal would lose what nobody has flushed yet.
   */
  add(last: EntryId, facts: number): string {
    this.#batches.push({ last, facts })
    this.#kept += facts
    let oldest = ''
    while (this.#kept - this.#batches[0]!.facts >= factsKept) {
      const gone = this.#batches.shift()!
      this.#kept -= gone.facts
      oldest = entryId(gone.last)
    }
    return oldest
  }
}
