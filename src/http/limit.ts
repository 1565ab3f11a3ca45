import { LRUCache } from 'lru-cache'
import type { Counter } from '../limits.ts'
import { type Problem, problem } from '../problems.ts'

/** So many that are over a limit are remembered; whoever is forgotten is found by the next failure. */
const remembered = 50_000

/**
 * A rule, and who is over it as far as this process knows. The numbers are counted in Redis once an
 * answer has failed; whoever is honest pays a look at an empty map.
 */
export class Limit {
  readonly #counter: Counter
  readonly #now: () => number
  readonly #over = new LRUCache<string, number>({ max: remembered })

  constructor(counter: Counter, now: () => number) {
    this.#counter = counter
    this.#now = now
  }

  /** What somebody hears who is over it. */
  refusal(key: string): Problem | undefined {
    if (this.#over.size === 0) return undefined
    const until = this.#over.get(key)
    if (until === undefined) return undefined
    const ms = until - this.#now()
    if (ms > 0) return tooMany(this.#counter.rule, ms)
    this.#over.delete(key)
    return undefined
  }

  /** Counts a failure. Another process learns of it by the next one that it sees itself. */
  async spend(key: string): Promise<void> {
    const { count, ms } = await this.#counter.add(key)
    if (count >= this.#counter.rule.points) this.#over.set(key, this.#now() + ms)
  }
}

type Policy = { name: string; points: number; seconds: number }

/** 429, with the numbers that become headers: see problemResponse. */
export function tooMany({ name, points, seconds }: Policy, ms: number): Problem {
  const retry_after = Math.max(1, Math.ceil(ms / 1000))
  return {
    ...problem('too-many-requests', { policy: name, quota: points, seconds, retry_after }),
    retryAfter: retry_after,
  }
}

/** At most so many of one key at a time; the others wait, in the order of their coming. */
export class Turns {
  readonly #width: number
  readonly #busy = new Map<string, { count: number; waiting: (() => void)[] }>()

  constructor(width: number) {
    this.#width = width
  }

  /** A promise only where somebody has to wait. */
  enter(key: string): Promise<void> | undefined {
    const those = this.#busy.get(key)
    if (those === undefined) this.#busy.set(key, { count: 1, waiting: [] })
    else if (those.count < this.#width) those.count++
    else return new Promise((resolve) => those.waiting.push(resolve))
    return undefined
  }

  leave(key: string): void {
    const those = this.#busy.get(key)!
    const next = those.waiting.shift()
    if (next !== undefined) next()
    else if (--those.count === 0) this.#busy.delete(key)
  }
}
