import { afterAll, beforeAll, expect, test } from 'vitest'
import { judge } from '../src/recovery/judge.ts'
import { openWorld, type World } from './world.ts'

let world: World
beforeAll(async () => {
  world = await openWorld({ shards: 1 })
})
afterAll(() => world.close())

test('judge  does not take what is flushed between its two looks for an old backup', async () => {
  const book = await world.makeBook({}, 5_000)
  let selling = true
  const crowd = Array.from({ length: 8 }, async (_, user) => {
    while (selling)
      await world.call('POST', 'coupons/assign', {
        as: world.service,
        body: { book_id: book, user_id: `user-${user}` },
        headers: { durability: 'postgres' },
      })
  })
  const said = new Set<string>()
  for (const until = performance.now() + 2_500; performance.now() < until; ) {
    const verdict = await judge(world.house.place, world.database, 0)
    said.add(verdict.is === 'level' ? 'level' : verdict.why)
  }
  selling = false
  await Promise.all(crowd)
  expect([...said]).toEqual(['level'])
})
