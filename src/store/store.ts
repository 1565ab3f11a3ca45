import { LRUCache } from 'lru-cache'
import type { Problem } from '../problems.ts'
import { Batch, type Limits, type OnWrite } from './batch.ts'
import { type BookPolicy, bookCounts, heldBy, load, pushBook, show } from './books.ts'
import { keys } from './keys.ts'
import type { Place } from './place.ts'
import type { Outcome, Verb } from './verb.ts'
import * as verbs from './verbs.ts'

/** Where a book lives; neither ever changes. */
export type BookPlace = { shard: number; book: string }

/** Everything a route may ask of Redis. Each function is the TypeScript twin of one Lua file. */
export type Store = ReturnType<typeof openStore>

export function openStore(place: Place, limits: Limits, onWrite: OnWrite) {
  /** One function per verb: its requests for one book gather in one Batch. */
  function twin<A extends string, V>(of: Verb<A, V>) {
    const batches = new LRUCache<string, Batch<A, V>>({ max: 10_000 })
    return (
      { shard, book }: BookPlace,
      request: Record<A, string>,
      weight = 1,
    ): Promise<Outcome<V> | Problem> => {
      let batch = batches.get(book)
      if (!batch) {
        batch = new Batch(place, of, shard, book, limits, onWrite)
        batches.set(book, batch)
      }
      return batch.ask(request, weight)
    }
  }

  return {
    place,
    assign: twin(verbs.assign),
    assignCode: twin(verbs.assignCode),
    lock: twin(verbs.lock),
    unlock: twin(verbs.unlock),
    redeem: twin(verbs.redeem),
    rollback: twin(verbs.rollback),
    release: twin(verbs.release),
    void: twin(verbs.voidCode),
    pushBook: (policy: BookPolicy) => pushBook(place, policy),
    load: (shard: number, book: string, codes: string[], max: number | null) =>
      load(place, shard, book, codes, max),
    bookCounts: (shard: number, book: string) => bookCounts(place, shard, book),
    heldBy: ({ shard, book }: BookPlace, users: string[]) => heldBy(place, shard, book, users),
    show: ({ shard, book }: BookPlace, codes: string[]) => show(place, shard, book, codes),

    /** The book of a code that has left stock, asked of all shards in one pipeline. */
    async findCode(code: string): Promise<BookPlace | undefined> {
      const records = await Promise.all(
        place.gates.map(({ shard }) => place.redis.hget(keys.coupons(shard), code)),
      )
      const shard = records.findIndex((packed) => packed)
      if (shard < 0) return undefined
      return { shard, book: records[shard]!.slice(0, records[shard]!.indexOf('\t')) }
    },

    /** The code of a redemption, rolled back or not, asked of all shards in one pipeline. */
    async findRedemption(id: string): Promise<string | undefined> {
      const codes = await Promise.all(
        place.gates.map(({ shard }) => place.redis.hget(keys.redemptions(shard), id)),
      )
      return codes.find((code) => code)?.trimStart()
    },
  }
}
