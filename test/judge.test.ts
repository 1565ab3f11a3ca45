import { rmSync } from 'node:fs'
import { Redis } from 'ioredis'
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest'
import { scratchDir } from '../src/embedded/leftovers.ts'
import { startRedis } from '../src/embedded/redis.ts'
import { judge, readShard, sameLife, withoutMemory } from '../src/recovery/judge.ts'
import { scriptText } from '../src/store/lua.ts'
import { openWorld, until, type World } from './world.ts'

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

test('judge  knows a Redis again that was promoted and has forgotten, an hour later, whom it followed', async () => {
  const dir = scratchDir('redis')
  const other = await startRedis({ dir, durable: false, extra: ['--repl-backlog-ttl', '1'] })
  const redis = new Redis(other.url)
  onTestFinished(async () => {
    redis.disconnect()
    await other.stop()
    rmSync(dir, { recursive: true, force: true })
  })
  const replication = async () => await redis.info('replication')
  const memory = async () => (await readShard(withoutMemory(redis, 1), 0, ''))!.memory
  await redis.call('REPLICAOF', '127.0.0.1', String(world.redisServer.port))
  await until(async () => /master_link_status:up/.test(await replication()), 'it has all')
  await redis.call('REPLICAOF', 'NO', 'ONE')
  await redis.script('LOAD', scriptText('check'))
  const promoted = await memory()
  await until(async () => /master_replid2:0+\r/.test(await replication()), 'it has forgotten')
  const forgot = await memory()
  expect(forgot).not.toBe(promoted)
  expect(sameLife(promoted, forgot)).toBe(true)
  // Promoted since then, or another process: what it had may be gone.
  expect(sameLife(forgot, promoted)).toBe(false)
  expect(
    sameLife(
      promoted,
      forgot.replace(/^\w/, (first) => (first === '0' ? '1' : '0')),
    ),
  ).toBe(false)
})
