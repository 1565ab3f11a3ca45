import { type Samples, Spread } from '../src/metrics.ts'
import { type Cause, causes } from '../src/recovery/judge.ts'

export type Trigger = 'nudge' | 'sweep'

/** What a worker counts of its own doing, for /metrics. */
export class Counts {
  /** Transactions by what brought them about. */
  readonly flushes: Record<Trigger, number> = { nudge: 0, sweep: 0 }
  readonly #facts = new Spread([1, 10, 100, 500, 1_000, 2_000, 4_000, 8_000])
  readonly #flushSeconds = new Spread([0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10])
  readonly #recoveries = new Map<Cause, number>(causes.map((cause) => [cause, 0]))
  readonly #recoverySeconds = new Spread([0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60])

  flushed(trigger: Trigger, facts: number, ms: number): void {
    this.flushes[trigger]++
    this.#facts.observe(facts)
    this.#flushSeconds.observe(ms / 1000)
  }

  recovered(cause: Cause, ms: number): void {
    this.#recoveries.set(cause, (this.#recoveries.get(cause) ?? 0) + 1)
    this.#recoverySeconds.observe(ms / 1000)
  }

  samples(): Samples {
    return {
      stampede_flushes_total: Object.entries(this.flushes).map(([trigger, n]) => [{ trigger }, n]),
      stampede_flush_facts: [[{}, this.#facts]],
      stampede_flush_duration_seconds: [[{}, this.#flushSeconds]],
      stampede_recoveries_total: [...this.#recoveries].map(([cause, n]) => [{ cause }, n]),
      stampede_recovery_duration_seconds: [[{}, this.#recoverySeconds]],
    }
  }
}
