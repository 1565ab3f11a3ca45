import type { Differences } from './counters.ts'
import { Met } from './digest.ts'
import { type AtHome, enough, type Look, type Run, settle } from './settle.ts'

/**
 * Users, or redemptions, that seemed to differ in a quick comparison. They are looked at carefully when all
 * coupons have been, so that what follows from a coupon that was named is not named again; where they
 * become too many to be kept, after those coupons that are known by then.
 */
export class Doubts<Item extends AtHome> {
  /** By a name that is theirs alone: scans may meet them twice. */
  readonly #open = new Map<string, Item>()
  readonly #named = new Met()
  readonly #look: (run: Run) => Look<Item, Differences>

  constructor(look: (run: Run) => Look<Item, Differences>) {
    this.#look = look
  }

  add(name: string, item: Item): void {
    if (!this.#named.has(name)) this.#open.set(name, item)
  }

  async relieve(run: Run): Promise<void> {
    if (this.#open.size < enough) return
    await run.suspects.settle(run)
    await this.settle(run)
  }

  /** Looks at all of them carefully; what really differs goes to the findings. */
  async settle(run: Run): Promise<void> {
    const names = new Map([...this.#open].map(([name, item]) => [item, name]))
    this.#open.clear()
    const verdicts = await settle(run, [...names.keys()], this.#look(run))
    for (const [item, { differences }] of verdicts) {
      if (differences.length > 0) this.#named.add(names.get(item)!)
      for (const difference of differences) run.findings.add(difference)
    }
  }
}
