import type { Redis } from 'ioredis'
import { failpoint } from '../failpoint.ts'
import { keys } from './keys.ts'
import type { Place } from './place.ts'

/**
 * Pub/sub channel of "PostgreSQL has committed": a hint only, a poll finds out as well. Channels are
 * one for all databases of a Redis server, hence the installation's id.
 */
const channelOf = (place: Place) => `stampede:flushed:${place.installation}`
const pollMs = 50

export type Announcement = { epoch: number; watermark: number; facts: number; trimBelow: string }

/** Tells Redis and all waiting API processes what PostgreSQL has committed of a shard. */
export async function announce(place: Place, shard: number, flushed: Announcement): Promise<void> {
  const { epoch, watermark, facts, trimBelow } = flushed
  await place.call(
    'flushed',
    [keys.meta(shard), keys.journal(shard)],
    [epoch, watermark, facts, trimBelow],
  )
  failpoint('flush.before-publish')
  await place.redis.publish(channelOf(place), `${shard} ${epoch} ${watermark}`)
}

/** Called with a shard's epoch and watermark whenever there is news of them, or at least every 50 ms. */
export type OnWatermark = (shard: number, epoch: number, watermark: number) => void

/**
 * Follows how far the ledger is, for the shards in which somebody is interested: by announcement, and
 * by asking `meta`, because an announcement may be lost. What it hears is a hint of when to look;
 * only PostgreSQL can say what it holds.
 */
export class Watermarks {
  readonly #place: Place
  readonly #hints: Redis
  readonly #heard: OnWatermark
  readonly #interested: () => number[]
  #timer: NodeJS.Timeout | undefined

  constructor(place: Place, interested: () => number[], heard: OnWatermark) {
    this.#place = place
    this.#interested = interested
    this.#heard = heard
    // Not left to ioredis: it subscribes again and listens to no answer, so that a connection which
    // breaks just then would end the process; and what failed the first time it never tries again.
    this.#hints = place.redis.duplicate({ autoResubscribe: false })
    // Without hints the poll does the work, so a broken subscription is nobody's error.
    this.#hints.on('error', () => {})
    this.#hints.on('message', (_, text) => {
      const [shard, epoch, n] = text.split(' ').map(Number)
      this.#heard(shard!, epoch!, n!)
    })
    this.#hints.on('ready', () => this.#hints.subscribe(channelOf(place)).catch(() => {}))
  }

  /** Somebody has begun to wait: polls until nobody is interested any more. */
  follow(): void {
    this.#timer ??= setTimeout(() => this.#poll(), pollMs)
  }

  #reached(shard: number, epoch: number, watermark: number): void {
    this.#place.see(shard, epoch, watermark)
    this.#heard(shard, epoch, watermark)
  }

  async #poll(): Promise<void> {
    try {
      await Promise.all(
        this.#interested().map(async (shard) => {
          const meta = keys.meta(shard)
          // As it was before Redis is asked: a hint may tell of later entries meanwhile.
          const gate = { ...this.#place.gates[shard]! }
          const [epoch, n, watermark] = (
            await this.#place.redis.hmget(meta, 'epoch', 'n', 'watermark')
          ).map(Number) as [number, number, number]
          // Who waits for an entry must not wait for one that Redis has lost.
          if (epoch === gate.epoch && n < gate.seen)
            this.#place.shut(shard, `Redis ends at entry ${n}, but had ${gate.seen}`)
          this.#reached(shard, epoch, watermark)
        }),
      )
    } catch {
      // Redis is away: whoever waits is told by the deadline, and the next poll may succeed.
    }
    const again = this.#interested().length > 0
    this.#timer = again ? setTimeout(() => this.#poll(), pollMs) : undefined
  }

  close(): void {
    clearTimeout(this.#timer)
    this.#hints.disconnect()
  }
}
