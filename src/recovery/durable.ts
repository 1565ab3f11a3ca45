import { LRUCache } from 'lru-cache'
import type { Durability, EntryId } from '../journal/entry.ts'
import { confirmFacts } from '../ledger/confirm.ts'
import type { Database } from '../ledger/database.ts'
import { type Problem, problem } from '../problems.ts'
import { keys } from '../store/keys.ts'
import type { Place } from '../store/place.ts'
import type { FactId } from '../store/verb.ts'
import { Watermarks } from '../store/watermark.ts'

/** Where a fact stands, as clients see it: shard/epoch-n/i. */
export const factName = ({ shard, epoch, n, i }: Omit<FactId, 'op'>) =>
  `${shard}/${epoch}-${n}/${i}`

/** What was reached: the ledger, only Redis in the given time, or the fact is lost for good. */
export type Reached = Durability | 'lost'

type Waiter = { fact: FactId; resolve: (reached: Reached) => void }
type Reader = { epoch: number; n: number; resolve: (level: boolean) => void }

/** What a request may take besides waiting for the ledger. */
const graceMs = 1_000

export type Durable = ReturnType<typeof openDurable>

/** Waiting for the ledger: facts until PostgreSQL confirms them, readers until it has caught up. */
export function openDurable(
  place: Place,
  database: Database,
  { waitMs, managed, away }: { waitMs: number; managed: boolean; away: () => boolean },
) {
  const waiters = place.gates.map(() => new Set<Waiter>())
  const readers = place.gates.map(() => new Set<Reader>())
  const asking = place.gates.map(() => false)
  const books = new LRUCache<string, Durability | 'unset'>({ max: 10_000 })

  const watermarks = new Watermarks(
    place,
    () => place.gates.flatMap(({ shard }) => (waiting(shard) > 0 ? [shard] : [])),
    (shard, epoch, watermark) => {
      for (const reader of readers[shard]!)
        if (reader.epoch === epoch && reader.n <= watermark) reader.resolve(true)
      const due = [...waiters[shard]!].some(({ fact }) => isDue(fact, epoch, watermark))
      if (due) void confirm(shard, epoch, watermark)
    },
  )
  const waiting = (shard: number) => waiters[shard]!.size + readers[shard]!.size
  /** How long a request that has taken `spentMs` may still wait for the ledger. */
  const leftMs = (spentMs: number) => Math.max(0, Math.min(waitMs, waitMs + graceMs - spentMs))

  /** The ledger has passed the fact's place, in its own epoch or by a recovery. */
  const isDue = (fact: FactId, epoch: number, watermark: number) =>
    fact.epoch < epoch || (fact.epoch === epoch && fact.n <= watermark)

  /** Asks PostgreSQL for all facts whose time has come; one question at a time per shard. */
  async function confirm(shard: number, epoch: number, watermark: number): Promise<void> {
    if (asking[shard]) return
    asking[shard] = true
    try {
      const due = [...waiters[shard]!].filter(({ fact }) => isDue(fact, epoch, watermark))
      const claims = due.map(({ fact }) => fact)
      const standings = await confirmFacts(database, shard, claims)
      for (const [w, standing] of standings.entries())
        if (standing !== 'open') due[w]!.resolve(standing === 'held' ? 'postgres' : 'lost')
    } catch {
      // PostgreSQL is away. Whoever waits goes on waiting until its deadline.
    } finally {
      asking[shard] = false
    }
  }

  /** Puts `entry` into `set` until it is resolved or `ms` are over, which resolves it to `late`. */
  function waitIn<E extends { resolve: (value: V) => void }, V>(
    set: Set<E>,
    late: V,
    entry: (resolve: (value: V) => void) => E,
    ms = waitMs,
  ): Promise<V> {
    return new Promise((done) => {
      const member = entry((value) => {
        clearTimeout(timer)
        set.delete(member)
        done(value)
      })
      const timer = setTimeout(() => member.resolve(late), ms)
      set.add(member)
      watermarks.follow()
    })
  }

  return {
    /**
     * The durability of a verb where neither request nor book asks for one. Of a managed Redis nobody
     * knows what it keeps: there `redis` is done for whoever asks for it, and promised to nobody.
     */
    usual: (verb: Durability): Durability => (managed ? 'postgres' : verb),

    /** PostgreSQL is known to be away: what needs it is refused before anything is done. */
    away,

    /** What a book asks for: as its last answer said, or as Redis has it. */
    async ofBook(shard: number, book: string): Promise<Durability | undefined> {
      let known = books.get(book)
      if (!known) {
        const held = await place.redis.hget(keys.book(shard, book), 'durability').catch(() => null)
        known = (held || 'unset') as Durability | 'unset'
      }
      return known === 'unset' ? undefined : known
    },
    learn(book: string, durability: Durability | undefined): void {
      const known = durability ?? 'unset'
      if (books.get(book) !== known) books.set(book, known)
    },

    /**
     * Waits until PostgreSQL holds the fact. `spentMs`: how long the request has taken already; one that
     * had to ask Redis twice waits less here, so that nobody waits for an answer much over 3 s.
     */
    reach(fact: FactId, spentMs: number): Promise<Reached> {
      const late: Reached = 'redis'
      const its = waiters[fact.shard]!
      return waitIn(its, late, (resolve) => ({ fact, resolve }), leftMs(spentMs))
    },

    /** The same until the ledger has passed an entry: for answers that wrote nothing, but rest on it. */
    async passed(entry: EntryId & { shard: number }, spentMs: number): Promise<Reached> {
      const { shard, epoch, n } = entry
      const reader = (resolve: Reader['resolve']) => ({ epoch, n, resolve })
      const level = await waitIn(readers[shard]!, false, reader, leftMs(spentMs))
      return level ? 'postgres' : 'redis'
    },

    /**
     * Resolves once the ledger holds everything that these shards' journals hold now, so that a
     * read from PostgreSQL shows what was acknowledged before it. `now` is Redis' clock: the one
     * that says whether a lock is over.
     */
    async barrier(shards: readonly number[] = place.gates.map(({ shard }) => shard)) {
      const behind: Problem = { ...problem('not-ready'), retryAfter: 1 }
      if (away() || shards.some((shard) => !place.gates[shard]!.open)) return behind
      let metas: (string | null)[][]
      let clock: number[]
      try {
        const asked = shards.map((shard) =>
          place.redis.hmget(keys.meta(shard), 'epoch', 'n', 'watermark'),
        )
        ;[clock, metas] = await Promise.all([place.redis.time(), Promise.all(asked)])
      } catch {
        return behind // Redis went away between the gate and the read
      }
      const level = await Promise.all(
        shards.map((shard, s) => {
          const [epoch, n, watermark] = metas[s]!.map(Number) as [number, number, number]
          if (epoch !== place.gates[shard]!.epoch) {
            place.shut(shard, `Redis is at epoch ${epoch}`)
            return false
          }
          if (n <= watermark) return true
          return waitIn(readers[shard]!, false, (resolve) => ({ epoch, n, resolve }))
        }),
      )
      const now = Number(clock[0]) * 1000 + Math.floor(Number(clock[1]) / 1000)
      return level.every(Boolean) ? ({ ok: true, now } as const) : behind
    },

    close: () => watermarks.close(),
  }
}
