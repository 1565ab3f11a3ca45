import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { usual } from '../src/http/book-view.ts'
import { type Book, createBook } from '../src/ledger/books.ts'
import { type Database, openDatabase } from '../src/ledger/database.ts'
import { createDistribution, openShares, takeDistribution } from '../src/ledger/distributions.ts'
import { createPool, type Pool } from '../src/ledger/pools.ts'
import { makePlan } from '../src/recovery/plan.ts'
import { dealt, shareMax, shuffled } from '../src/shares.ts'
import type { BookPlace } from '../src/store/store.ts'
import { makeDatabase } from './house.ts'

/** How far counts are from equal ones: for 10 users, 45 or more comes about once in a million times. */
const far = 45

/** Pearson's statistic; `factor` allows for draws of several at once, which exclude each other. */
function chiSquare(counts: number[], factor = 1): number {
  const expected = counts.reduce((sum, count) => sum + count, 0) / counts.length
  return counts.reduce((sum, count) => sum + (count - expected) ** 2 / expected, 0) * factor
}

describe('dealt', () => {
  test.each([
    [[9, 9, 9], 6, [2, 2, 2]],
    [[9, 9, 9], 7, [3, 2, 2]],
    [[0, 9, 9], 5, [0, 3, 2]],
    [[1, 9, 9], 6, [1, 3, 2]],
    [[1, 2, 3], 99, [1, 2, 3]],
    [[9, 9], 0, [0, 0]],
    [[0, 0], 5, [0, 0]],
    [[Infinity, Infinity], 1_000_000, [shareMax, shareMax]],
    [[], 5, []],
  ])('rooms %j share %i as %j', (rooms, count, shares) => {
    expect(dealt(rooms, count)).toEqual(shares)
  })

  test('gives as many as there are, as far as there is room, and differs by one at most', () => {
    for (let run = 0; run < 500; run++) {
      const rooms = Array.from({ length: 1 + (run % 40) }, (_, u) => (run * 7 + u * 13) % 12)
      const count = (run * 31) % 200
      const shares = dealt(rooms, count)
      const room = rooms.reduce((sum, one) => sum + one, 0)
      expect(shares.reduce((sum, one) => sum + one, 0)).toBe(Math.min(count, room))
      for (const [u, share] of shares.entries()) expect(share).toBeLessThanOrEqual(rooms[u]!)
      const below = shares.filter((share, u) => share < rooms[u]!)
      const most = Math.max(...shares)
      for (const share of below) expect(most - share).toBeLessThanOrEqual(1)
    }
  })
})

describe('the extra ones of a plan', () => {
  let made: Awaited<ReturnType<typeof makeDatabase>>
  let database: Database
  let pool: Pool
  const users = Array.from({ length: 10 }, (_, u) => `user-${u}`)
  let place: BookPlace
  beforeAll(async () => {
    made = await makeDatabase()
    database = openDatabase(made.url, 2, 'test')
    const policy = { ...usual, name: 'A book', owner_id: 'o', created_by: 'test' }
    const book = (await createBook(database, policy, [0])) as Book
    place = { shard: 0, book: book.book_id }
    const wanted = { name: 'Ten', description: null, created_by: 'test', users }
    pool = (await createPool(database, wanted, { actor: 'test' })) as Pool
  })
  afterAll(async () => {
    await database?.end()
    await made?.drop()
  })

  const runs = 1_000
  /** Who of 10 users got more than one, in as many distributions of 13 coupons, as production plans them. */
  async function drawn(): Promise<number[]> {
    const counts = new Map(users.map((user) => [user, 0]))
    for (let run = 0; run < runs; run++) {
      const { job_id } = await createDistribution(database, {
        ...{ pool_id: pool.pool_id, book_id: place.book, users: users.length, mode: 'random' },
        ...{ amount: 13, all: false, request_id: 'r', created_by: 'test' },
      })
      const its = (await takeDistribution(database, job_id))!
      const store = { heldBy: () => Promise.reject(new Error('the book has no limit')) }
      expect(await makePlan({ database, store }, its, place)).toBe(true)
      const { shares } = await openShares(database, job_id, -1, users.length)
      expect(shares.map(({ share }) => share)).toEqual([2, 2, 2, 1, 1, 1, 1, 1, 1, 1])
      for (const { user } of shares.slice(0, 3)) counts.set(user, counts.get(user)! + 1)
    }
    return [...counts.values()]
  }
  // 3 of 10 at once, without putting back: (10 - 1) / (10 - 3).
  const factor = 9 / 7

  test('go to everybody equally often', async () => {
    const counts = await drawn()
    expect(counts.reduce((sum, count) => sum + count, 0)).toBe(3 * runs)
    expect(chiSquare(counts, factor)).toBeLessThan(far)
  })

  test.each([
    ['went to the first ones', () => users],
    // It leaves most of them near where they were.
    ['came of a crooked shuffle', () => users.toSorted(() => Math.random() - 0.5)],
  ])('would be found out if they %s', (_, order) => {
    const counts = new Map(users.map((user) => [user, 0]))
    for (let run = 0; run < 1_000; run++)
      for (const user of order().slice(0, 3)) counts.set(user, counts.get(user)! + 1)
    expect(chiSquare([...counts.values()], factor)).toBeGreaterThan(far)
  })
})

test('shuffled  keeps everybody, and every order is equally likely', () => {
  const orders = new Map<string, number>()
  for (let run = 0; run < 6_000; run++) {
    const order = shuffled(['a', 'b', 'c']).join('')
    orders.set(order, (orders.get(order) ?? 0) + 1)
  }
  expect([...orders.keys()].sort()).toEqual(['abc', 'acb', 'bac', 'bca', 'cab', 'cba'])
  expect(chiSquare([...orders.values()])).toBeLessThan(far)
})
