import { rmSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { Redis } from 'ioredis'
import pino from 'pino'
import { expect, type TestContext, test } from 'vitest'
import { scratchDir } from '../src/embedded/leftovers.ts'
import { startRedis } from '../src/embedded/redis.ts'
import { openHouse } from '../src/house.ts'
import { openQueues } from '../src/queues.ts'
import { keys } from '../src/store/keys.ts'
import { scriptText } from '../src/store/lua.ts'
import { audit } from './audit.ts'
import { type Client, expectProblem, openClient, placeOf } from './client.ts'
import { copyShards, digest } from './script.ts'
import { openWorld, until, type World } from './world.ts'

/** A world of this test's own: what is done to it here nobody else should live in. */
async function open(
  { onTestFinished }: Pick<TestContext, 'onTestFinished'>,
  options: Parameters<typeof openWorld>[0] = {},
) {
  const world = await openWorld({ shards: 1, ...options })
  onTestFinished(() => world.close())
  return { world, client: openClient(world) }
}

/** A book that has seen everything: F-1 and F-2 are ann's, F-2 locked, F-3 redeemed by her. */
async function makeBook(world: World, client: Client) {
  const book = await world.makeBook({}, ['F-1', 'F-2', 'F-3', 'F-4', 'F-5', 'F-6'])
  const own = { codes: ['F-7'], max_redemptions: 7 }
  await world.call('POST', `books/${book}/codes/upload`, { as: world.admin, body: own })
  for (const code of ['F-1', 'F-2']) await client.assignCode(code, 'ann')
  await client.assignCode('F-3', 'ann', { key: 'known' })
  await client.lock('F-2', 'ann')
  const { body } = await client.redeem('F-3', 'ann')
  return { book, redemption: body.redemption_id as string }
}

type Named = { redis: World['redis']; client: Client; book: string }
const meta = keys.meta(0)
const damages: Record<string, (of: Named) => Promise<unknown>> = {
  meta: ({ redis }) => redis.del(meta),
  'the book': ({ redis, book }) => redis.del(keys.book(0, book)),
  'its stock': ({ redis, book }) => redis.del(keys.stock(0, book)),
  'one code of its stock': ({ redis, book }) => redis.spop(keys.stock(0, book)),
  'its users': ({ redis, book }) => redis.del(keys.users(0, book)),
  'its codes’ own limits': ({ redis, book }) => redis.del(keys.uses(0, book)),
  'the answers under keys': async ({ redis }) => redis.del(await redis.keys('{s0}:keys:*')),
  'the coupons': ({ redis }) => redis.del(keys.coupons(0)),
  'the redemptions': ({ redis }) => redis.del(keys.redemptions(0)),
  'the journal': ({ redis }) => redis.del(keys.journal(0)),
  'its last moment, known to this process alone': async ({ redis, client, book }) => {
    const putBack = await copyShards({ redis })
    await client.assign(book, 'ben')
    await putBack()
  },
  'meta’s word for an entry that nobody saw': async ({ redis }) => {
    const [epoch, n] = await redis.hmget(meta, 'epoch', 'n')
    await redis.xadd(keys.journal(0), `${epoch}-${Number(n) + 1}`, 'kind', 'unheard of')
  },
  'meta’s word for the last entry': ({ redis }) => redis.hincrby(meta, 'n', -1),
  everything: ({ redis }) => redis.flushall(),
}

/** Damages Redis. No worker is there: an API process repairs nothing, it refuses until one did. */
async function lose(what: string, world: World, client: Client, book: string): Promise<void> {
  await world.level()
  await world.stopWorker()
  await damages[what]!({ redis: world.redis, client, book })
}

test.concurrent.for(Object.keys(damages))(
  'fence  shuts when Redis lost %s: nothing is written, and /readyz says why',
  async (lost, context) => {
    const { world, client } = await open(context)
    const { book, redemption } = await makeBook(world, client)
    await lose(lost, world, client, book)
    const before = await digest(world)
    for (let round = 0; round < 6; round++) {
      const replies = await Promise.all([
        client.assign(book, 'ben'),
        client.assignCode('F-4', 'ben'),
        client.lock('F-1', 'ann'),
        client.unlock('F-2', 'ann'),
        client.redeem('F-1', 'ann'),
        client.rollback(redemption),
        client.release('F-1'),
        client.void('F-7'),
      ])
      for (const reply of replies) {
        expectProblem(reply, 'not-ready')
        expect(reply.headers.get('retry-after')).toBe('1')
      }
      const { status, body } = await world.call('GET', '/readyz')
      expect(status).toBe(503)
      expect(body).toMatchObject({ ready: false, reason: expect.stringMatching(/.{10}/) })
      await sleep(30)
    }
    expect(await digest(world)).toBe(before)
    expect((await world.call('GET', '/livez')).status).toBe(200)
  },
)

test.concurrent.for(Object.keys(damages))(
  'fence  answers no read wrongly when Redis lost %s',
  async (lost, context) => {
    const { world, client } = await open(context)
    const { book } = await makeBook(world, client)
    const read = () => Promise.all([client.show('F-1'), client.show('F-7')])
    const told = await read()
    await lose(lost, world, client, book)
    for (const [r, reply] of (await read()).entries())
      if (reply.status !== 200) expectProblem(reply, 'not-ready')
      else expect(reply.body).toEqual(told[r]!.body)
  },
)

test.concurrent('fence  opens by itself after SCRIPT FLUSH: a worker looks and loads the scripts again', async (context) => {
  const { world, client } = await open(context)
  const { book } = await makeBook(world, client)
  await world.redis.call('SCRIPT', 'FLUSH')
  expectProblem(await client.assign(book, 'ben'), 'not-ready')
  await until(
    async () => (await client.assign(book, 'ben')).status === 200,
    'it serves again',
    3_000,
  )
  expect((await world.call('GET', '/readyz')).status).toBe(200)
  await audit(world, { book, history: client.history })
})

test.concurrent('fence  opens by itself after Redis was killed and came back with all it had', async (context) => {
  let again: Awaited<ReturnType<typeof startRedis>> | undefined
  context.onTestFinished(() => again?.stop()) // after the world: what is noted first is done last
  const { world, client } = await open(context)
  const { book } = await makeBook(world, client)
  const { redis, redisServer } = world
  redis.on('error', () => {})
  const [, dir] = (await redis.config('GET', 'dir')) as [string, string]
  const epoch = await redis.hget(meta, 'epoch')
  process.kill(redisServer.pid, 'SIGKILL')
  await until(async () => (await client.assign(book, 'ben')).status === 503, 'it refuses')
  const { status, body } = await world.call('GET', '/readyz')
  expect([status, body.redis, body.postgres]).toEqual([503, false, true])
  again = await startRedis({ dir, port: redisServer.port, durable: true })
  await until(async () => (await client.assign(book, 'ben')).status === 200, 'it serves again')
  // Nothing was lost, but nobody can know that of what nobody alive has seen.
  expect(await redis.hget(meta, 'epoch')).toBe(`${Number(epoch) + 1}`)
  const { nudge } = world.flushes()
  const { lock_token } = (await client.lock('F-1', 'ann')).body
  await until(
    async () => {
      await client.lock('F-1', 'ann', { lock_token })
      return world.flushes().nudge > nudge
    },
    'BullMQ is back, too',
    40_000,
  ) // it waits up to 20 s between two tries
  await audit(world, { book, history: client.history })
})

test.concurrent('fence  takes no notice of a replica that comes and goes', async (context) => {
  const dir = scratchDir('redis')
  const other = await startRedis({ dir, durable: false })
  const replica = new Redis(other.url)
  context.onTestFinished(async () => {
    replica.disconnect()
    await other.stop()
    rmSync(dir, { recursive: true, force: true })
  })
  const { world, client } = await open(context, { shards: 2 })
  const { book } = await makeBook(world, client)
  const epochs = async () => {
    const { rows } = await world.database.query('SELECT epoch, phase FROM shards ORDER BY shard')
    return [rows, await Promise.all([0, 1].map((s) => world.redis.hget(keys.meta(s), 'epoch')))]
  }
  const before = await epochs()
  const serves = async () => {
    expect((await client.assignCode('F-4', 'ben', { durability: 'postgres' })).status).toBe(200)
    expect((await client.release('F-4', { durability: 'postgres' })).status).toBe(200)
    expect((await world.call('GET', '/readyz')).status).toBe(200)
    expect(await epochs()).toEqual(before)
  }
  await replica.call('REPLICAOF', '127.0.0.1', String(world.redisServer.port))
  await until(async () => {
    await serves()
    return /master_link_status:up/.test(await replica.info('replication'))
  }, 'the replica has all')
  await serves()
  // It follows: what it holds is what the master holds.
  await world.level()
  await world.redis.wait(1, 1_000)
  expect(await digest({ redis: replica } as World)).toBe(await digest(world))
  await replica.call('REPLICAOF', 'NO', 'ONE')
  for (let round = 0; round < 3; round++) {
    await serves()
    await sleep(200)
  }
  await audit(world, { book, history: client.history })
})

test.concurrent('fence  opens where a worker died that had loaded a part of the scripts', async (context) => {
  const { world, client } = await open(context)
  const book = await world.makeBook({}, 100)
  const first = ['check', 'recovering', 'restore', 'publish', 'flushed', 'intake', 'book', 'count']
  const died = world.redis.multi().script('FLUSH')
  for (const name of first) died.script('LOAD', scriptText(name))
  await died.exec()
  const again = async () => (await client.assign(book, 'ben')).status
  await until(async () => (await again()) === 200, 'it serves again', 5_000)
  await audit(world, { book, history: client.history })
})

test.concurrent('fence  lets a worker stop while Redis is away', async (context) => {
  const { world, client } = await open(context)
  const book = await world.makeBook({}, 3)
  world.redis.on('error', () => {})
  process.kill(world.redisServer.pid, 'SIGKILL')
  await until(async () => (await client.assign(book, 'ben')).status === 503, 'it refuses')
  const begun = performance.now()
  await world.stopWorker()
  expect(performance.now() - begun).toBeLessThan(7_000)
})

test.concurrent('fence  stops intake where meta says so, and goes on reading', async (context) => {
  const { world, client } = await open(context)
  const { book } = await makeBook(world, client)
  const set = async (intake: string) => {
    await world.database.query('UPDATE shards SET intake = $1', [intake])
    await world.redis.hset(meta, 'intake', intake)
  }
  await set('stopped')
  const refused = await client.assign(book, 'ben')
  expectProblem(refused, 'intake-stopped')
  expect(refused.headers.get('retry-after')).toBe('5')
  expectProblem(await client.redeem('F-1', 'ann'), 'intake-stopped')
  expect((await client.show('F-1')).status).toBe(200)
  const { body } = await world.call('GET', '/readyz')
  expect(body).toMatchObject({ ready: true, shards: [{ intake: 'stopped' }] })
  await set('open')
  expect((await client.assign(book, 'ben')).status).toBe(200)
  await audit(world, { book, history: client.history })
})

test.concurrent('fence  answers a repeat under its key while it refuses what is new', async (context) => {
  const { world } = await open(context)
  const book = await world.makeBook({}, 9)
  const ask = (key: string) =>
    world.call('POST', 'coupons/assign', {
      as: world.service,
      body: { book_id: book, user_id: 'cyd' },
      headers: { 'idempotency-key': key },
    })
  const first = await ask('once')
  await world.database.query("UPDATE shards SET intake = 'stopped'")
  await until(
    async () => (await world.redis.hget(meta, 'intake')) === 'stopped',
    'intake is stopped',
  )
  const repeat = await ask('once')
  expect([repeat.status, repeat.body]).toEqual([200, first.body])
  expect(repeat.headers.get('idempotent-replayed')).toBe('true')
  expectProblem(await ask('third'), 'intake-stopped')
})

test.concurrent('fence  refuses while the ledger is too far behind, and serves again when it is not', async (context) => {
  const { world, client } = await open(context)
  const book = await world.makeBook({}, 20)
  await world.level()
  await world.stopWorker()
  const settings = { ...world.settings, BACKLOG_FACTS: 3 }
  const queues = openQueues(settings.REDIS_URL)
  const house = await openHouse(settings, queues, pino({ level: 'fatal' }))
  await until(async () => (await house.openGates()) === 0, 'the other process serves')
  const place = await placeOf(world, book)
  const ask = async () => {
    const context = JSON.stringify({ actor: 'user:test', request_id: 'test' })
    const request = { user: 'ann', count: '1', codes: '', key: '', hash: '', context }
    return house.deps.store.assign(place, request)
  }
  const came: string[] = []
  for (let i = 0; i < 6; i++) {
    const outcome = await ask()
    came.push(outcome.ok ? 'done' : outcome.problem)
  }
  expect(came).toEqual(['done', 'done', 'done', 'done', 'backlog', 'backlog'])
  expect(await ask()).toMatchObject({ problem: 'backlog', retryAfter: 1 })
  const { body } = await world.call('GET', '/readyz')
  expect(body.shards[0].lag).toBe(4)
  await world.startWorker()
  await until(async () => (await ask()).ok, 'it serves again')
  await queues.close()
  await house.close()
  await audit(world, { book })
  expect(client.history).toEqual([])
})

test.concurrent('fence  a ledger that does not follow in time is said to be: 202 and level redis', async (context) => {
  const { world, client } = await open(context, { waitMs: 150 })
  const { book } = await makeBook(world, client)
  await world.level()
  await world.stopWorker()
  const late = await client.redeem('F-1', 'ann')
  expect(late.status).toBe(202)
  expect(late.body).toMatchObject({ success: true, code: 'F-1', state: 'REDEEMED' })
  expect(late.headers.get('durability')).toMatch(/^redis; entry=0\/1-\d+\/0$/)
  expect((await client.redeem('F-1', 'ann')).body.code).toBe('coupon-redeemed')
  await world.startWorker()
  await audit(world, { book, history: client.history })
})
