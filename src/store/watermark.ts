import type { Redis } from 'ioredis'
import { keys } from './keys.ts'
import type { Place } from './place.ts'
import type { FactId } from './verb.ts'

/** Pub/sub channel of "PostgreSQL has committed": a hint only, a poll finds out as well. */
const channel = 'stampede:flushed'
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
  await place.redis.publish(channel, `${shard} ${epoch} ${watermark}`)
}

type Waiter = { epoch: number; n: number; wake: (durable: boolean) => void }

/**
 * Waits for facts to be in the ledger. Per shard it knows how far PostgreSQL is, by announcement or
 * by asking `meta` every 50 ms while anybody waits; within an epoch that only ever moves forward.
 */
export class Watermarks {
  readonly #place: Place
  readonly #hints: Redis
  #waiters = new Map<number, Set<Waiter>>()
  #timer: NodeJS.Timeout | undefined

  constructor(place: Place) {
    this.#place = place
    this.#hints = place.redis.duplicate({ autoResubscribe: true, enableOfflineQueue: true })
    // Without hints the poll does the work, so a broken subscription is nobody's error.
    this.#hints.on('error', () => {})
    this.#hints.on('message', (_, text) => {
      const [shard, epoch, n] = text.split(' ').map(Number)
      this.#reached(shard!, epoch!, n!)
    })
    this.#hints.subscribe(channel).catch(() => {})
  }

  /**
   * True once the ledger holds the fact; false when `ms` have passed or the epoch has changed, and
   * then nobody may claim that it is there.
   */
  wait({ shard, epoch, n }: Omit<FactId, 'i'>, ms: number): Promise<boolean> {
    return new Promise((resolve) => {
      let waiters = this.#waiters.get(shard)
      if (!waiters) {
        waiters = new Set()
        this.#waiters.set(shard, waiters)
      }
      const timer = setTimeout(() => waiter.wake(false), ms)
      const waiter: Waiter = {
        epoch,
        n,
        wake: (durable) => {
          clearTimeout(timer)
          waiters.delete(waiter)
          resolve(durable)
        },
      }
      waiters.add(waiter)
      this.#timer ??= setTimeout(() => this.#poll(), pollMs)
    })
  }

  #reached(shard: number, epoch: number, watermark: number): void {
    this.#place.see(shard, epoch, watermark)
    for (const waiter of this.#waiters.get(shard) ?? [])
      if (waiter.epoch !== epoch) waiter.wake(false)
      else if (waiter.n <= watermark) waiter.wake(true)
  }

  async #poll(): Promise<void> {
    const busy = [...this.#waiters].filter(([, waiters]) => waiters.size > 0)
    try {
      await Promise.all(
        busy.map(async ([shard]) => {
          const [epoch, watermark] = await this.#place.redis.hmget(
            keys.meta(shard),
            'epoch',
            'watermark',
          )
          if (epoch && watermark) this.#reached(shard, Number(epoch), Number(watermark))
        }),
      )
    } catch {
      // Redis is away: whoever waits is told by the deadline, and the next poll may succeed.
    }
    const waiting = [...this.#waiters.values()].some(({ size }) => size > 0)
    this.#timer = waiting ? setTimeout(() => this.#poll(), pollMs) : undefined
  }

  close(): void {
    clearTimeout(this.#timer)
    this.#hints.disconnect()
  }
}
