/** What can be wrong, in one word each; the checker's own test corrupts something for every one. */
export const kinds = [
  'two-users',
  'not-in-ledger',
  'lost',
  'refused-but-done',
  'unknown-twice',
  'key-twice',
  'key-answers-differ',
  'done-after-refusal',
  'operation',
  'hidden-loss',
  'invented',
  'answer-differs',
  'no-entry',
  'below-level',
  'partial',
  'user-limit',
  'sum',
  'ledger-gap',
  'ledger-story',
  'fold-table',
  'fold-memory',
  'counters',
  'stock',
  'lock-overlap',
  'lock-token',
  'redeem-limit',
  'rollback-twice',
  'redemptions',
  'dark-write',
  'not-level',
  'parked',
  'guard',
] as const
export type Kind = (typeof kinds)[number]

export type Violation = { kind: Kind; what: string }

/** Gathers violations; many of one kind are counted and not all kept. */
export class Findings {
  readonly violations: Violation[] = []

  add(kind: Kind, what: string): void {
    this.violations.push({ kind, what })
  }

  /** Two values that must be the same. */
  equal(kind: Kind, what: string, actual: unknown, expected: unknown): void {
    const [a, e] = [JSON.stringify(actual), JSON.stringify(expected)]
    if (a !== e) this.add(kind, `${what}: ${a}, expected ${e}`)
  }

  /** Two maps with the same keys and values; says which key differs. */
  same(kind: Kind, what: string, actual: Map<string, unknown>, expected: Map<string, unknown>) {
    for (const [key, value] of actual)
      this.equal(kind, `${what} of ${key}`, value, expected.get(key))
    for (const [key, value] of expected)
      if (!actual.has(key)) this.equal(kind, `${what} of ${key}`, undefined, value)
  }
}
