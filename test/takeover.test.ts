import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import pino from 'pino'
import { expect, type TestContext, test } from 'vitest'
import {
  beginRecovery,
  endRecovery,
  keepRecovering,
  moveCheckpoint,
  Overtaken,
  shardRow,
  suspectShard,
} from '../src/ledger/shards.ts'
import { Superseded, writer } from '../src/recovery/rebuild.ts'
import { keys } from '../src/store/keys.ts'
import { startWorker } from '../workers/main.ts'
import { audit } from './audit.ts'
import { openClient } from './client.ts'
import { digest } from './script.ts'
import { openWorld, until } from './world.ts'

/** Recoveries that end otherwise than they began, and what they leave of a waiter or a full Redis. */
const shard = 0
const meta = keys.meta(shard)

async function open(
  { onTestFinished }: Pick<TestContext, 'onTestFinished'>,
  options: Parameters<typeof openWorld>[0] = {},
) {
  const world = await openWorld({ shards: 1, ...options })
  onTestFinished(() => world.close())
  const book = await world.makeBook({}, 20)
  const client = openClient(world)
  expect((await client.assign(book, 'ann', { durability: 'postgres' })).status).toBe(200)
  await world.level()
  await world.stopWorker()
  const epoch = async () => Number(await world.redis.hget(meta, 'epoch'))
  return { world, client, book, epoch }
}

/** The rows of all recoveries but the first, which every installation begins with. */
const laterRecoveries = (world: Awaited<ReturnType<typeof openWorld>>) =>
  world.database
    .query<{ epoch: number; ended: boolean; rebuilt: boolean }>(
      `SELECT epoch, ended_at IS NOT NULL AS ended, rebuilt FROM recoveries
       WHERE epoch > 1 ORDER BY epoch`,
    )
    .then(({ rows }) => rows)

test('takeover  a recoverer that is silent for 5 s is followed by another, and writes nothing more', async (context) => {
  const { world, client, book, epoch } = await open(context)
  const { database, house } = world
  const { place } = house
  const before = await epoch()

  // A worker begins, clears half of the shard, says once more that it lives, and freezes.
  const old = { shard, epoch: before + 1, token: randomUUID() }
  const row = await shardRow(database, shard)
  expect(await beginRecovery(database, row, old.epoch, old.token, 'a test')).toBe(true)
  expect(await place.call('recovering', [meta], [old.epoch, old.token])).toBe('begun')
  const write = writer(place, old)
  await write('UNLINK', [keys.coupons(shard), keys.stock(shard, book)])
  await write('HSET', keys.coupons(shard), 'half', 'done')
  const frozen = await shardRow(database, shard)
  await keepRecovering(database, shard, old.token)
  const silentSince = performance.now()
  expect((await client.assign(book, 'ben')).body.code).toBe('not-ready')

  await world.startWorker()
  while (performance.now() - silentSince < 4_000) {
    const { recoverer, abandoned } = await shardRow(database, shard)
    expect([recoverer, abandoned]).toEqual([old.token, false])
    expect((await client.assign(book, 'ben')).body.code).toBe('not-ready')
    await sleep(100)
  }
  await until(
    async () => (await client.assign(book, 'ben')).status === 200,
    'another worker has taken over',
    6_000,
  )
  expect(performance.now() - silentSince).toBeGreaterThan(4_900)
  expect(await epoch()).toBeGreaterThan(old.epoch)
  expect(await laterRecoveries(world)).toEqual([
    { epoch: old.epoch, ended: false, rebuilt: false },
    { epoch: old.epoch + 1, ended: true, rebuilt: true },
  ])

  // It wakes up, and goes on as if nothing had been.
  await world.level()
  await world.stopWorker()
  const now = await digest(world)
  const standing = await shardRow(database, shard)
  await expect(write('HSET', keys.coupons(shard), 'late', 'write')).rejects.toThrow(Superseded)
  await expect(write('UNLINK', [keys.coupons(shard)])).rejects.toThrow(Superseded)
  await expect(write('SADD', keys.stock(shard, book), 'late')).rejects.toThrow(Superseded)
  const published = await place.call(
    'publish',
    [meta, keys.coupons(shard), keys.redemptions(shard), keys.journal(shard)],
    [old.epoch, old.token, 0, 'open', old.epoch],
  )
  expect(published).toBe('stale')
  const begun = await place.call('recovering', [meta], [old.epoch, old.token])
  expect(begun).toBe(`stale\t${old.epoch + 1}`)
  const did = { flushed: 0, rebuilt: true, codes: 0, coupons: 0 }
  await expect(keepRecovering(database, shard, old.token)).rejects.toThrow(Overtaken)
  const ended = endRecovery(database, shard, old.epoch, old.token, '', did)
  await expect(ended).rejects.toThrow(Overtaken)
  const tx = await database.connect()
  const to = { n: 99, hash: 'late', facts: 99 }
  await expect(moveCheckpoint(tx, frozen, to)).rejects.toThrow(Overtaken)
  tx.release()
  expect(await beginRecovery(database, frozen, old.epoch + 9, old.token, 'late')).toBe(false)
  expect(await digest(world)).toBe(now)
  expect(await shardRow(database, shard)).toEqual(standing)
  await world.startWorker()
  await audit(world, { book, history: client.history })
}, 40_000)

test('takeover  of workers that find the same loss one recovers it, once', async (context) => {
  const { world, client, book, epoch } = await open(context)
  const before = await epoch()
  await world.redis.flushall()
  const log = pino({ level: 'fatal' })
  const workers = await Promise.all([1, 2, 3].map(() => startWorker(world.settings, log)))
  context.onTestFinished(async () => {
    await Promise.all(workers.map((worker) => worker.stop()))
  })
  await until(async () => (await client.assign(book, 'ben')).status === 200, 'it serves again')
  await until(
    () => workers.every(({ place }) => place.gates.every((gate) => gate.open)),
    'all workers are at work',
  )
  expect(await laterRecoveries(world)).toEqual([{ epoch: before + 1, ended: true, rebuilt: true }])
  await audit(world, { book, history: client.history })
})

test('takeover  what is flushed while Redis is full becomes level, and then it serves again', async (context) => {
  const { world, client, book, epoch } = await open(context)
  const before = await epoch()
  for (const user of ['ben', 'cat', 'dan']) await client.assign(book, user)
  const state = async () => (await world.redis.hmget(meta, 'n', 'watermark')).map(Number)
  expect(await state()).toEqual([4, 1])
  await world.redis.config('SET', 'maxmemory', '100kb')
  expect((await client.assign(book, 'eve')).body.code).toBe('not-ready')
  await world.startWorker()
  await until(async () => (await state())[1] === 4, 'the ledger is level')
  const { rows } = await world.database.query(
    'SELECT user_id AS user FROM ledger ORDER BY epoch, n',
  )
  expect(rows.map(({ user }) => user)).toEqual(['ann', 'ben', 'cat', 'dan'])
  expect((await client.assign(book, 'eve')).body.code).toBe('not-ready')
  await world.redis.config('SET', 'maxmemory', '0')
  await until(async () => (await client.assign(book, 'eve')).status === 200, 'it serves again')
  expect(await epoch()).toBe(before)
  await audit(world, { book, history: client.history })
})

test('takeover  who waits for PostgreSQL is answered by what a recovery saved of the journal', async (context) => {
  const { world, client, book, epoch } = await open(context, { waitMs: 20_000 })
  const before = await epoch()
  const n = Number(await world.redis.hget(meta, 'n'))
  const waiting = client.assign(book, 'ben', { durability: 'postgres' })
  await until(async () => Number(await world.redis.hget(meta, 'n')) > n, 'Redis has decided')
  await world.redis.del(keys.coupons(shard))
  await world.startWorker()
  const { status, headers, body } = await waiting
  expect([status, headers.get('durability')]).toEqual([
    200,
    `postgres; entry=${shard}/${before}-${n + 1}/0`,
  ])
  expect(await epoch()).toBeGreaterThan(before)
  // This process has not looked since: its first call finds the new epoch.
  const show = () => client.show(body.coupons[0].code)
  await until(async () => (await show()).status === 200, 'it serves again')
  const shown = await show()
  expect(shown.body).toMatchObject({ state: 'ASSIGNED', assigned_user_id: 'ben' })
  await audit(world, { book, history: client.history })
})

test('takeover  a Redis that is full and damaged is recovered, and serves once there is room', async (context) => {
  const { world, client, book, epoch } = await open(context)
  const before = await epoch()
  await client.assign(book, 'ben')
  await world.redis.del(keys.coupons(shard))
  await world.redis.config('SET', 'maxmemory', '100kb')
  await world.startWorker()
  await until(async () => (await shardRow(world.database, shard)).epoch > before, 'one begins')
  await until(
    async () => (await shardRow(world.database, shard)).phase === 'active',
    'it comes to its end',
  )
  expect(await laterRecoveries(world)).toEqual([{ epoch: before + 1, ended: true, rebuilt: true }])
  expect((await client.assign(book, 'eve')).body.code).toBe('not-ready')
  await world.redis.config('SET', 'maxmemory', '0')
  await until(async () => (await client.assign(book, 'eve')).status === 200, 'it serves again')
  await audit(world, { book, history: client.history })
})

test('takeover  a recovery does not swallow what was suspected after it was decided on', async (context) => {
  const { world, epoch } = await open(context)
  const { database } = world
  const row = await shardRow(database, shard)
  const next = (await epoch()) + 1
  await suspectShard(database, shard, row.epoch, 'damaged: stock')
  expect(await beginRecovery(database, row, next, randomUUID(), 'another cause')).toBe(false)
  const now = await shardRow(database, shard)
  expect(now).toMatchObject({ phase: 'active', suspect: 'damaged: stock' })
  expect(await beginRecovery(database, now, next, randomUUID(), now.suspect!)).toBe(true)
})
