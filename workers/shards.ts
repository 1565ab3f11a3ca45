import { setTimeout as sleep } from 'node:timers/promises'
import type { Logger } from 'pino'
import { JournalForked } from '../src/journal/journal.ts'
import type { Database } from '../src/ledger/database.ts'
import { isOutage } from '../src/ledger/outage.ts'
import { keys } from '../src/store/keys.ts'
import { NotSent, type Place, RedisRefused, ReplyLost } from '../src/store/place.ts'
import type { Counts, Trigger } from './counts.ts'
import { type Flusher, flusher, flushOnce, squeeze } from './flush.ts'
import { factsKept } from './retention.ts'

/** Between two flushes of a busy shard: fewer, larger transactions cost less. */
const paceMs = 20
/** How long a job stays at a level shard: the next sale's facts then need no job of their own. */
const lingerMs = 250
const pollMs = 5
/** Facts that wait longer than this have no job that cares for them: the sweep takes them. */
const sweepMs = 200
const outageMs = 500
/** Entries that are worth letting go of where Redis is nearly full. */
const squeezeMin = 1_000

/** One shard's flushing in this process: at most one at a time, whoever asked for it. */
class ShardFlush {
  readonly #flusher: Flusher
  readonly #log: Logger
  readonly #counts: Counts
  #busy = false
  /** Entries there were at the last sweep: what is still not flushed now has waited since then. */
  #sweptAt = 0
  /** What processes of before have left in the journal is looked at once, when nothing else is to do. */
  #squeezed = false

  constructor(flusher: Flusher, log: Logger, counts: Counts) {
    this.#flusher = flusher
    this.#log = log
    this.#counts = counts
  }

  async #lag(): Promise<{ n: number; watermark: number; kept: number }> {
    const { place, shard } = this.#flusher
    const lag = await place.redis.hmget(keys.meta(shard), 'n', 'watermark', 'kept')
    const [n, watermark, kept] = lag.map((value) => Number(value ?? 0)) as [number, number, number]
    return { n, watermark, kept }
  }

  /** Flushes until the journal is level, then stays a moment for more. */
  async byNudge(stopping: () => boolean): Promise<void> {
    // A job that left because a sweep is at work would leave the shard to the sweeps for good.
    while (this.#busy && !stopping()) await sleep(pollMs)
    this.#busy = true
    try {
      for (let level = performance.now(); performance.now() - level < lingerMs; ) {
        if (stopping() || !this.#flusher.place.gates[this.#flusher.shard]!.open) return
        const { n, watermark } = await this.#lag()
        if (n > watermark) {
          await this.#flush('nudge')
          level = performance.now()
        } else await sleep(pollMs)
      }
    } finally {
      this.#busy = false
    }
  }

  /** Flushes what no job came for. */
  async bySweep(): Promise<void> {
    const { place, shard } = this.#flusher
    if (this.#busy || !place.gates[shard]!.open) return
    const { n, watermark, kept } = await this.#lag()
    const waited = this.#sweptAt > watermark
    this.#sweptAt = n
    const tight = this.#flusher.tight()
    const mustSqueeze = n === watermark && kept > squeezeMin && (tight || !this.#squeezed)
    if (this.#busy || !(waited || mustSqueeze)) return
    this.#busy = true
    try {
      if (!mustSqueeze) return await this.#flush('sweep')
      await squeeze(this.#flusher, tight ? 0 : factsKept)
      this.#squeezed = true
    } finally {
      this.#busy = false
    }
  }

  async #flush(trigger: Trigger): Promise<void> {
    const { place, shard } = this.#flusher
    const begun = performance.now()
    try {
      const { facts, parked, more, paused } = await flushOnce(this.#flusher)
      if (facts > 0) this.#counts.flushed(trigger, facts, performance.now() - begun)
      if (parked > 0) this.#log.error({ shard, parked }, 'facts were parked: see parked_facts')
      if (!more) await sleep(paused ? outageMs : paceMs)
    } catch (error) {
      if (error instanceof JournalForked) {
        place.damaged(shard, error.message)
        this.#log.error({ shard }, `shut: ${error.message}`)
      } else if (error instanceof RedisRefused && /^READONLY/.test(error.message)) {
        // Demoted: what it had that is in no journal is looked for before anything goes on.
        place.shut(shard, error.message)
        this.#log.error({ shard }, `shut: ${error.message}`)
      } else if (isOutage(error) || error instanceof NotSent || error instanceof ReplyLost) {
        this.#log.warn({ shard }, `cannot flush now: ${(error as Error).message}`)
        await sleep(outageMs)
      } else throw error
    }
  }
}

export type Shards = ReturnType<typeof flushShards>

/** All shards' flushing in this process. */
export function flushShards(
  place: Place,
  database: Database,
  tight: () => boolean,
  log: Logger,
  counts: Counts,
) {
  const shards = place.gates.map(
    ({ shard }) => new ShardFlush(flusher(place, database, shard, tight), log, counts),
  )
  return {
    sweepMs,
    byNudge: (shard: number, stopping: () => boolean) => shards[shard]?.byNudge(stopping),
    bySweep: () => Promise.all(shards.map((shard) => shard.bySweep())),
  }
}
