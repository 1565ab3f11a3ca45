import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { Redis } from 'ioredis'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { environmentOf } from '../src/config.ts'
import { type AclUser, aclRules, aclUsers } from '../src/embedded/acl.ts'
import { warmBook } from '../src/ops/books.ts'
import { planRebuild } from '../src/ops/rebuild.ts'
import { reconcile } from '../src/ops/reconcile/reconcile.ts'
import { replay } from '../src/ops/replay.ts'
import { status } from '../src/ops/status.ts'
import { timeline } from '../src/ops/timeline.ts'
import { keys } from '../src/store/keys.ts'
import { openWorld, until, type World } from './world.ts'

/** The whole service where each connection may do only what is its own. */
let world: World
const connections = {} as Record<AclUser, Redis>
beforeAll(async () => {
  world = await openWorld({ shards: 2, acl: true })
  for (const user of aclUsers) connections[user] = new Redis(world.redisServer.urlOf(user))
})
afterAll(async () => {
  for (const redis of Object.values(connections)) redis.disconnect()
  await world.close()
})

const post = (path: string, body: unknown, as = world.service) =>
  world.call('POST', path, { as, body })

describe('with ACL users', () => {
  test('every verb works, and so do lists, counters and generation by a job', async () => {
    const book = await world.makeBook({ max_redemptions: 2 }, ['ACL-1', 'ACL-2', 'ACL-3'])
    const counter = await world.makeBook({ kind: 'counter', units: 5 })
    const user = { user_id: 'u1' }
    const statuses = [
      await post('coupons/assign/ACL-1', user),
      await post('coupons/assign', { ...user, book_id: book }),
      await post('coupons/assign', { ...user, book_id: counter, count: 2 }),
      await post('coupons/lock/ACL-1', user),
      await post('coupons/unlock/ACL-1', user),
      await post('coupons/lock/ACL-1', { ...user, lock_duration_seconds: 1 }),
      await world.call('GET', 'coupons/ACL-1', { as: world.admin }),
      await world.call('GET', `books/${book}/stats`, { as: world.admin }),
      await world.call('GET', `books/${book}/coupons`, { as: world.admin }),
      await world.call('PATCH', `books/${book}`, { as: world.admin, body: { max_redemptions: 3 } }),
    ].map(({ status }) => status)
    expect(statuses).toEqual(statuses.map(() => 200))
    const token = (await post('coupons/lock/ACL-1', user)).body
    expect(token.code).toBe('coupon-locked')
    await until(
      async () => (await post('coupons/redeem/ACL-1', user)).status === 200,
      'the lock is over',
    )
    const again = await world.call('POST', 'coupons/redeem/ACL-1', {
      as: world.service,
      body: user,
      headers: { 'idempotency-key': 'acl' },
    })
    expect(again.status).toBe(200)
    const undone = await post(`redemptions/${again.body.redemption_id}/rollback`, undefined)
    expect(undone.status).toBe(200)
    const held = await world.call('GET', 'users/u1/coupons', { as: world.admin })
    const other = held.body.coupons.find(
      ({ code, book_id }: { code: string; book_id: string }) =>
        code !== 'ACL-1' && book_id === book,
    )
    expect((await post(`coupons/release/${other.code}`, undefined, world.admin)).status).toBe(200)
    expect((await post(`coupons/void/${other.code}`, undefined, world.admin)).status).toBe(200)
    const job = await post(`books/${book}/codes/generate`, { count: 20_000 })
    expect(job.status).toBe(202)
    await until(async () => {
      const { body } = await world.call('GET', `jobs/${job.body.job_id}`, { as: world.admin })
      return body.state === 'done'
    }, 'the job is done')
  })

  test('flushes come by nudge, and numbers can be scraped', async () => {
    await until(() => world.flushes().nudge > 0, 'a nudge reached the worker')
    const scraped = await (await fetch(`${world.base}/metrics`)).text()
    expect(scraped).toMatch(/^stampede_jobs\{queue="flush",state="waiting"\} \d/m)
    expect(scraped).toMatch(/^stampede_redis_memory_bytes \d/m)
  })

  test('a worker brings back what Redis lost', async () => {
    await world.level()
    const before = await world.redis.hget(keys.meta(0), 'epoch')
    await world.redis.flushall()
    await until(async () => {
      await post('coupons/lock/ACL-1', { user_id: 'u1' })
      const epoch = await world.redis.hget(keys.meta(0), 'epoch')
      return Number(epoch) > Number(before) && world.house.place.gates.every(({ open }) => open)
    }, 'both shards serve again')
    const shown = await world.call('GET', 'coupons/ACL-1', { as: world.admin })
    expect(shown.body).toMatchObject({ assigned_user_id: 'u1', redemption_count: 1 })
  })

  test('what operators ask is allowed to the worker user', async () => {
    await world.level()
    const ops = { redis: connections.worker, database: world.database }
    expect(await reconcile(ops, { exact: false })).toMatchObject({ differences: [] })
    const limits = { backlog: 1_000, managed: false }
    for (const user of ['api', 'worker'] as const) {
      const its = await status({ ...ops, redis: connections[user] }, limits)
      expect(its.problems).toEqual([])
      for (const shard of its.shards) expect(shard).toMatchObject({ serves: true, lag: 0 })
    }
    const stranger = await status({ ...ops, redis: connections.queue }, limits)
    expect(stranger.problems[0]).toMatch(/^shard 0 could not be looked at: NOPERM/)
    expect(stranger.shards[0]).toMatchObject({ serves: null, lag: null })
    const { rows } = await world.database.query('SELECT code FROM coupons LIMIT 1')
    expect(await timeline(ops, rows[0].code)).toBeDefined()
    const books = await world.database.query('SELECT book_id FROM books LIMIT 1')
    expect(await warmBook(ops, books.rows[0].book_id)).toHaveProperty('ready')
    expect(await planRebuild(ops, {})).toHaveLength(2)
    expect(await replay(ops, { by: { actor: 'x', reason: 'a test' } })).toHaveLength(2)
  })

  const refusals = /^NOPERM|DEBUG command not allowed|user executing the script can't/
  const coupons = keys.coupons(0)
  const forbidden: Record<AclUser, string[][]> = {
    api: [
      ['EVAL', 'return 1', '0'],
      ['SCRIPT', 'LOAD', 'return 1'],
      ['SCRIPT', 'FLUSH'],
      ['FUNCTION', 'FLUSH'],
      ['FLUSHALL'],
      ['FLUSHDB'],
      ['SWAPDB', '0', '1'],
      ['CONFIG', 'SET', 'appendonly', 'no'],
      ['DEL', coupons],
      ['UNLINK', coupons],
      ['SET', coupons, 'x'],
      ['EXPIRE', coupons, '0'],
      ['RENAME', coupons, keys.stock(0, 'x')],
      ['KEYS', '*'],
      ['SCAN', '0'],
      ['XTRIM', keys.journal(0), 'MAXLEN', '0'],
      ['XDEL', keys.journal(0), '1-1'],
      ['GET', 'anything'],
      ['HGETALL', '{stampede}:flush:1'],
      ['PUBLISH', 'stampede:flushed:x', '0 1 1'],
      ['SHUTDOWN', 'NOSAVE'],
      ['DEBUG', 'RELOAD'],
      ['ACL', 'LIST'],
      ['REPLICAOF', 'NO', 'ONE'],
      ['CLIENT', 'KILL', 'TYPE', 'normal'],
      ['MONITOR'],
    ],
    worker: [
      ['EVAL', 'return 1', '0'],
      ['SCRIPT', 'FLUSH'],
      ['FLUSHALL'],
      ['FLUSHDB'],
      ['SWAPDB', '0', '1'],
      ['CONFIG', 'SET', 'appendonly', 'no'],
      ['KEYS', '*'],
      ['GET', 'anything'],
      ['DEL', '{stampede}:flush:1'],
      ['SHUTDOWN', 'NOSAVE'],
      ['DEBUG', 'RELOAD'],
      ['ACL', 'LIST'],
    ],
    queue: [
      ['HGET', coupons, 'x'],
      ['DEL', coupons],
      ['EVAL', `return redis.call('DEL', '${coupons}')`, '0'],
      ['EVAL', `return redis.call('DEL', KEYS[1])`, '1', coupons],
      ['SCRIPT', 'LOAD', 'return 1'],
      ['SCRIPT', 'FLUSH'],
      ['FUNCTION', 'FLUSH'],
      ['FLUSHALL'],
      ['FLUSHDB'],
      ['SWAPDB', '0', '1'],
      ['CONFIG', 'SET', 'appendonly', 'no'],
      ['KEYS', '*'],
      ['SHUTDOWN', 'NOSAVE'],
      ['PUBLISH', 'stampede:flushed:x', '0 1 1'],
    ],
    limit: [
      ['HGET', coupons, 'x'],
      ['DEL', coupons],
      ['SET', coupons, 'x'],
      ['EXPIRE', coupons, '0'],
      ['EVAL', `return redis.call('DEL', '${coupons}')`, '0'],
      ['EVAL', `return redis.call('SET', KEYS[1], 1)`, '1', coupons],
      ['SET', '{stampede}:flush:1', 'x'],
      ['SCRIPT', 'LOAD', 'return 1'],
      ['SCRIPT', 'FLUSH'],
      ['FLUSHALL'],
      ['CONFIG', 'GET', '*'],
      ['KEYS', '*'],
      ['PUBLISH', 'stampede:flushed:x', '0 1 1'],
    ],
  }
  test.each(aclUsers)('%s is refused what is not its own', async (user) => {
    const answers = await Promise.all(
      forbidden[user].map(async ([name, ...args]) => {
        const answer = await connections[user].call(name!, ...args).catch((error: Error) => error)
        const refused = answer instanceof Error && refusals.test(answer.message)
        return refused ? [] : [`${name} ${args.join(' ')}: ${answer}`]
      }),
    )
    expect(answers.flat()).toEqual([])
    expect(await connections[user].ping()).toBe('PONG')
  })

  test('a lock that is gone by its own verb is all that api may delete', async () => {
    expect(await connections.api.del(keys.lock(0, 'NONE'))).toBe(0)
  })

  test.each(['api', 'worker'] as const)(
    'doctor may look at all it asks for as %s',
    async (user) => {
      const env = environmentOf({
        REDIS_URL: world.redisServer.urlOf(user),
        DATABASE_URL: world.settings.DATABASE_URL,
      })
      const main = fileURLToPath(new URL('../src/cli/main.ts', import.meta.url))
      const child = spawn(process.execPath, [main, 'doctor'], { env: env as NodeJS.ProcessEnv })
      let out = ''
      for (const stream of [child.stdout, child.stderr]) stream.on('data', (some) => (out += some))
      const [code] = await once(child, 'close')
      expect(out).not.toMatch(/NOPERM|hidden/)
      expect(code).toBe(0)
    },
  )

  test('a worker may list clients, for the health check of its container', async () => {
    expect(String(await connections.worker.client('LIST'))).toMatch(/ name=stampede-worker /)
  })

  test('docs/redis-acl.md has the same rules', () => {
    const page = readFileSync(new URL('../docs/redis-acl.md', import.meta.url), 'utf8')
    const shown = [...page.matchAll(/^user (\w+) on (?:>\S+) (.+)$/gm)]
    expect(Object.fromEntries(shown.map(([, name, rules]) => [name, rules]))).toEqual(aclRules)
  })
})
