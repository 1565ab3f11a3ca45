/** Facts that stay in the journal after PostgreSQL has them: what an old backup can be replayed from. */
const factsKept = 200_000

/** Decides how much of the journal may be trimmed: everything below the last `factsKept` facts. */
export class Retention {
  #batches: { n: number; facts: number }[] = []
  #kept = 0

  /** Notes a batch that ended at entry `n`; returns the first entry to keep, 0 for "trim nothing". */
  add(n: number, facts: number): number {
    this.#batches.push({ n, facts })
    this.#kept += facts
    let oldest = 0
    while (this.#kept - this.#batches[0]!.facts >= factsKept) {
      const gone = this.#batches.shift()!
      this.#kept -= gone.facts
      oldest = gone.n
    }
    return oldest
  }
}
