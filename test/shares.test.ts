import { describe, expect, test } from 'vitest'
import { dealt, shareMax, shuffled } from '../src/shares.ts'

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

describe('the extra ones', () => {
  /** Who of 10 users got more than one, in 1,000 distributions of 13 coupons. */
  function drawn(draw: (users: number[]) => number[]): number[] {
    const counts = new Array<number>(10).fill(0)
    for (let run = 0; run < 1_000; run++) {
      const users = draw([...counts.keys()])
      const shares = dealt(
        users.map(() => 5),
        13,
      )
      for (const [u, share] of shares.entries()) if (share > 1) counts[users[u]!]!++
    }
    return counts
  }
  // 3 of 10 at once, without putting back: (10 - 1) / (10 - 3).
  const factor = 9 / 7

  test('go to everybody equally often', () => {
    const counts = drawn(shuffled)
    expect(counts.reduce((sum, count) => sum + count, 0)).toBe(3_000)
    expect(chiSquare(counts, factor)).toBeLessThan(far)
  })

  test('would be found out if they went to the first ones, or by a crooked shuffle', () => {
    expect(
      chiSquare(
        drawn((users) => users),
        factor,
      ),
    ).toBeGreaterThan(far)
    const crooked = (users: number[]) => users.toSorted(() => Math.random() - 0.5)
    expect(chiSquare(drawn(crooked), factor)).toBeGreaterThan(far)
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
