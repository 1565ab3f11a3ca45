import { afterAll, beforeAll, expect, test } from 'vitest'
import { openDatabase } from '../src/ledger/database.ts'
import { shutGatesOnce } from '../src/recovery/gate.ts'
import { keys } from '../src/store/keys.ts'
import { openWorld, type World } from './world.ts'

let world: World
beforeAll(async () => {
  world = await openWorld({ shards: 1 })
})
afterAll(() => world.close())

test('gate  leaves intake and gates as they are while PostgreSQL cannot say what they should be', async () => {
  const away = openDatabase('postgres://nobody@127.0.0.1:1/nothing', 2, 'test')
  await shutGatesOnce(world.house.place, away)
  expect(await world.redis.hget(keys.meta(0), 'intake')).toBe('open')
  expect(world.house.place.gates[0]!.open).toBe(true)
  await away.end()
})
