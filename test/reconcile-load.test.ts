import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest'
import { warmBook } from '../src/ops/books.ts'
import { reconcile } from '../src/ops/reconcile/reconcile.ts'
import { keys } from '../src/store/keys.ts'
import { openClient, placeOf } from './client.ts'
import { deep, matching, sides } from './sale.ts'
import { openWorld, type World } from './world.ts'

/** `npm run long` has twenty, as was asked for; `npm test` says whether there is hope. */
const comparisons = inject('long') ? 20 : 5
const whileLoading = inject('long') ? 3 : 1

/** Comparisons of a sale that goes on. */
describe('reconcile: under load', () => {
  let busy: World
  beforeAll(async () => {
    busy = await openWorld({ shards: 2 })
  })
  afterAll(() => busy.close())

  /** Users of every verb as fast as they are answered; `stop` says what they were told, by status. */
  async function crowd(users: number, codes = 5_000) {
    const client = openClient(busy)
    const books = [
      await busy.makeBook({ max_redemptions: 2 }, codes),
      await busy.makeBook({ lock_policy: 'holder' }, codes),
      await busy.makeBook({ kind: 'counter', units: 100_000 }),
    ]
    const told: Record<number, number> = {}
    let over = false
    async function shop(user: string, trip: number): Promise<void> {
      const note = <R extends { status: number }>(reply: R) => {
        told[reply.status] = (told[reply.status] ?? 0) + 1
        return reply
      }
      const got = note(await client.assign(books[trip % books.length]!, user, { count: 2 }))
      const [first, second] = (got.body.coupons ?? []).map(({ code }: { code: string }) => code)
      if (!first) return
      const lock = note(await client.lock(first, user))
      if (trip % 3 === 0) note(await client.unlock(first, user))
      const lock_token = trip % 3 === 0 ? undefined : lock.body.lock_token
      const use = note(await client.redeem(first, user, { lock_token, durability: 'redis' }))
      if (trip % 2 === 0 && use.body.redemption_id)
        note(await client.rollback(use.body.redemption_id, { durability: 'redis' }))
      const back = trip % 10 === 0 ? client.void : client.release
      note(await back(second, { durability: 'redis' }))
      if (trip % 25 === 0) {
        const path = `books/${books[0]}/coupons?state=UNASSIGNED&limit=1`
        const { body } = await busy.call('GET', path, { as: busy.admin })
        if (body.data?.[0]) note(await client.void(body.data[0].code, { durability: 'redis' }))
      }
      if (trip % 20 === 0) note(await client.change(books[0]!, { max_redemptions: 2 + (trip % 3) }))
    }
    const all = Array.from({ length: users }, async (_, u) => {
      for (let trip = u; !over; trip++) await shop(`u${u % 7}`, trip)
    })
    return {
      books,
      told,
      async stop() {
        over = true
        await Promise.all(all)
      },
    }
  }
  const ops = () => ({ redis: busy.redis, database: busy.database })
  const compare = () => reconcile(ops(), { exact: false })

  test('there is no difference in any comparison, and warm sees no half of a purchase', async () => {
    const { books, told, stop } = await crowd(2, 300)
    try {
      for (let round = 0; round < comparisons; round++) {
        const { differences } = await compare()
        expect([round, differences]).toEqual([round, []])
        if (round % 4 > 0) continue
        const warm = await warmBook(ops(), books[0]!)
        const why = 'problem' in warm ? warm.problem : warm.why_not.join()
        expect([round, why]).toEqual([
          round,
          // The crowd changes its policy, too, which is in force a moment later.
          expect.stringMatching(/^$|^(it is sold out, or empty|Redis has an older policy)$/),
        ])
      }
    } finally {
      await stop()
    }
    expect(told[200]).toBeGreaterThan(100)
  }, 60_000)

  test('there is never a difference, while codes are brought in as well', async () => {
    const { books: sold, told, stop } = await crowd(16)
    let loading = true
    const loads = (async () => {
      const body = { count: 300 }
      for (let book = 0; loading; book = 1 - book)
        await busy.call('POST', `books/${sold[book]}/codes/generate`, { as: busy.admin, body })
    })()
    try {
      for (let round = 0; round < whileLoading; round++) {
        const { differences, books } = await compare()
        expect(differences).toEqual([])
        expect(books.length).toBeGreaterThanOrEqual(3)
        for (const its of books) expect(its.digest_redis).toBe(its.digest_postgres)
      }
    } finally {
      loading = false
      await Promise.all([loads, stop()])
    }
    expect(told[200]).toBeGreaterThan(150 * whileLoading)
  }, 60_000)

  test('nor while a shard is made anew', async () => {
    const { stop } = await crowd(8)
    try {
      for (const shard of [0, 1]) {
        const before = compare()
        await busy.database.query(
          "UPDATE shards SET suspect = 'damaged: a test' WHERE shard = $1",
          [shard],
        )
        for (const { differences } of await Promise.all([before, compare()]))
          expect(differences).toEqual([])
      }
    } finally {
      await stop()
    }
    const { rows } = await busy.database.query("SELECT FROM recoveries WHERE cause ~ 'a test'")
    expect(rows.length).toBeGreaterThanOrEqual(2)
  }, 60_000)

  test('each damage is named with both sides, and nothing else', async () => {
    // A worker has just compared the numbers of every book: in ten seconds it would find out itself.
    await busy.stopWorker()
    await busy.startWorker()
    await busy.ready()
    const { books, stop } = await crowd(8)
    try {
      const on = await placeOf(busy, books[0]!)
      const client = openClient(busy)
      const bystanders = ['row', 'record', 'counter', 'fact']
      const codes: string[] = []
      for (const user of bystanders)
        codes.push((await client.assign(on.book, user)).body.coupons[0].code)
      const [row, record, , fact] = codes as [string, string, string, string]
      await busy.level()
      const stock = (await busy.redis.srandmember(keys.stock(on.shard, on.book)))!
      const packed = (await busy.redis.hget(keys.coupons(on.shard), record))!
      await busy.redis
        .multi()
        .hset(keys.coupons(on.shard), record, packed.replace('\trecord\t', '\ttrudy\t'))
        .hincrby(keys.users(on.shard, on.book), 'counter', 3)
        .srem(keys.stock(on.shard, on.book), stock)
        .hincrby(keys.book(on.shard, on.book), 'left', -1)
        .exec()
      const sql = (text: string, code: string) => busy.database.query(text, [code])
      await sql("UPDATE coupons SET user_id = 'mallory' WHERE code = $1", row)
      await sql('DELETE FROM ledger WHERE code = $1 AND version = 1', fact)
      const { differences } = await compare()
      const expected = [
        {
          ...{ class: 'STATE_MISMATCH', code: row },
          what: 'coupons differs from Redis and the ledger',
          redis: { coupon: { user_id: 'row' } },
          postgres: { coupons: { user_id: 'mallory' }, ledger: { user_id: 'row' } },
        },
        {
          ...{ class: 'STATE_MISMATCH', code: record },
          what: 'Redis differs from coupons and the ledger',
          redis: { coupon: { user_id: 'trudy' } },
          postgres: { coupons: { user_id: 'record' }, ledger: { user_id: 'record' } },
        },
        {
          ...{ class: 'UNDERSOLD', code: stock },
          ...sides({ in_stock: false, coupon: null }, { loaded: true, coupons: null }),
        },
        {
          ...{ class: 'COUNTER_MISMATCH', what: 'coupons that user counter holds' },
          ...sides(4, 1),
        },
        {
          ...{ class: 'SEQUENCE_GAP', code: fact },
          what: matching(/^the ledger lacks a fact: nothing between .* and /),
          redis: { coupon: { user_id: 'fact' } },
          postgres: { coupons: { user_id: 'fact' }, ledger: null },
        },
      ]
      expect(differences).toHaveLength(expected.length)
      for (const one of expected)
        expect(differences).toContainEqual(
          expect.objectContaining(deep({ ...one, shard: on.shard, book_id: on.book })),
        )
    } finally {
      await stop()
    }
  }, 60_000)
})
