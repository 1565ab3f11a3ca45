import { type Samples, Spread } from '../metrics.ts'

/** Seconds. The promise is a tail below 50 ms; 2.5 s is past every deadline of ours. */
const bounds = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5]

/**
 * What a route counts of its answers. This stands behind every request of the house: one look-up of
 * a short word and two additions.
 */
export class Meter {
  readonly verb: string
  readonly route: string
  readonly outcomes = new Map<string, number>([['done', 0]])
  readonly seconds = new Spread(bounds)

  constructor(verb: string, route: string) {
    this.verb = verb
    this.route = route
  }

  count(outcome: string, ms: number): void {
    this.outcomes.set(outcome, (this.outcomes.get(outcome) ?? 0) + 1)
    this.seconds.observe(ms / 1000)
  }
}

export type Meters = ReturnType<typeof openMeters>

/** The meters of all routes. Routes of one verb are told as one, their durations apart. */
export function openMeters() {
  const meters: Meter[] = []
  return {
    meter(verb: string, route: string): Meter {
      const meter = new Meter(verb, route)
      meters.push(meter)
      return meter
    },
    /** Whether there is a route that is called so. */
    knows: (name: string) => meters.some(({ route }) => route === name),
    samples(): Samples {
      const answers = new Map<string, Map<string, number>>()
      for (const { verb, outcomes } of meters) {
        const sums = answers.get(verb) ?? new Map<string, number>()
        for (const [outcome, count] of outcomes) sums.set(outcome, (sums.get(outcome) ?? 0) + count)
        answers.set(verb, sums)
      }
      return {
        stampede_answers_total: [...answers].flatMap(([verb, sums]) =>
          [...sums].map(([outcome, count]) => [{ verb, outcome }, count] as const),
        ),
        stampede_request_duration_seconds: meters.map(
          ({ route, seconds }) => [{ route }, seconds] as const,
        ),
      }
    },
  }
}
