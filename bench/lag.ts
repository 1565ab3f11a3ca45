import { setTimeout as sleep } from 'node:timers/promises'
import type { Progress } from './stores.ts'

const everyMs = 100

export type Lag = {
  /** Facts that Redis had accepted and PostgreSQL had not yet. */
  facts: { max: number; p99: number }
  /** Since when the oldest of them had been waiting. */
  ageMs: { max: number; p99: number }
  samples: number
}

/** Samples the lag of a shard until it is stopped. */
export function watchLag(progress: () => Promise<Progress>) {
  const at: number[] = []
  const accepted: number[] = []
  const facts: number[] = []
  const ages: number[] = []
  let oldest = 0
  let stopped = false

  /**
   * When the first fact beyond `flushed` was accepted. Between two samples it is taken from the
   * straight line through them; one that came before all samples counts from the first.
   */
  function acceptedAt(flushed: number): number {
    while (accepted[oldest + 1]! <= flushed) oldest++
    const before = accepted[oldest]!
    const share = (flushed - before) / (accepted[oldest + 1]! - before)
    return at[oldest]! + Math.max(0, share) * (at[oldest + 1]! - at[oldest]!)
  }

  const sampling = (async () => {
    while (!stopped) {
      const now = await progress()
      const time = performance.now()
      at.push(time)
      accepted.push(now.facts)
      facts.push(now.facts - now.flushed)
      const waits = now.facts > now.flushed && at.length > 1
      ages.push(waits ? time - acceptedAt(now.flushed) : 0)
      await sleep(everyMs)
    }
  })()
  sampling.catch(() => {}) // a failed sample is heard of by whoever stops this

  return async function stop(): Promise<Lag> {
    stopped = true
    await sampling
    const summary = (values: number[]) => {
      const sorted = values.toSorted((a, b) => a - b)
      const p99 = sorted[Math.ceil(sorted.length * 0.99) - 1]!
      return { max: sorted.at(-1)!, p99 }
    }
    return { facts: summary(facts), ageMs: summary(ages), samples: at.length }
  }
}
