import { randomInt } from 'node:crypto'

/** Nobody gets more of one distribution: what one request of assign may ask for, too. */
export const shareMax = 100

/** In an order that chance has drawn, every one of them equally likely. */
export function shuffled<T>(items: readonly T[]): T[] {
  const all = [...items]
  for (let i = all.length - 1; i > 0; i--) {
    const j = randomInt(i + 1)
    ;[all[i], all[j]] = [all[j]!, all[i]!]
  }
  return all
}

/**
 * Deals `count` coupons to users who have room for so many each (Infinity: no limit): shares of those
 * who are not full differ by one at most. Who comes first gets the extra ones, so whoever asks
 * draws the order. What nobody has room for is not dealt.
 */
export function dealt(rooms: readonly number[], count: number): number[] {
  let level = 0
  while (level < shareMax && sumUpTo(rooms, level + 1) <= count) level++
  let extra = level < shareMax ? count - sumUpTo(rooms, level) : 0
  return rooms.map((room) => {
    if (room <= level || extra === 0) return Math.min(room, level)
    extra--
    return level + 1
  })
}

function sumUpTo(rooms: readonly number[], level: number): number {
  let sum = 0
  for (const room of rooms) sum += Math.min(room, level)
  return sum
}
