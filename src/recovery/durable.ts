import type { Durability } from '../journal/entry.ts'
import { type Problem, problem } from '../problems.ts'
import { keys } from '../store/keys.ts'
import type { Place } from '../store/place.ts'
import type { FactId } from '../store/verb.ts'
import type { Watermarks } from '../store/watermark.ts'

/** Where a fact stands, as clients see it: shard/epoch-n/i. */
export const factName = ({ shard, epoch, n, i }: FactId) => `${shard}/${epoch}-${n}/${i}`

export type Durable = ReturnType<typeof openDurable>

export function openDurable(place: Place, watermarks: Watermarks, waitMs: number) {
  return {
    /** The durability that was reached: waits for the ledger if `wanted` asks for it. */
    async reach(fact: FactId | undefined, wanted: Durability): Promise<Durability> {
      if (wanted === 'redis') return 'redis'
      // Nothing was written: what the answer says has been in the ledger, or is on its way there.
      if (!fact) return 'postgres'
      return (await watermarks.wait(fact, waitMs)) ? 'postgres' : 'redis'
    },

    /**
     * Resolves once the ledger holds everything that these shards' journals hold now, so that a
     * read from PostgreSQL shows what was acknowledged before it. `now` is Redis' clock: the one
     * that says whether a lock is over.
     */
    async barrier(shards: readonly number[] = place.gates.map(({ shard }) => shard)) {
      const behind: Problem = { ...problem('not-ready'), retryAfter: 1 }
      if (shards.some((shard) => !place.gates[shard]!.open)) return behind
      let metas: (string | null)[][]
      let clock: number[]
      try {
        const asked = shards.map((shard) =>
          place.redis.hmget(keys.meta(shard), 'epoch', 'n', 'watermark'),
        )
        clock = await place.redis.time()
        metas = await Promise.all(asked)
      } catch {
        return behind // Redis went away between the gate and the read
      }
      const level = await Promise.all(
        shards.map((shard, s) => {
          const [epoch, n, watermark] = metas[s]!.map(Number) as [number, number, number]
          if (epoch !== place.gates[shard]!.epoch) return false
          return n <= watermark || watermarks.wait({ shard, epoch, n }, waitMs)
        }),
      )
      const now = Number(clock[0]) * 1000 + Math.floor(Number(clock[1]) / 1000)
      return level.every(Boolean) ? ({ ok: true, now } as const) : behind
    },
  }
}
