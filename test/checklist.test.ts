import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { environmentOf } from '../src/config.ts'
import { newest, type PostgresSettings } from '../src/ledger/settings.ts'
import {
  type Item,
  judgeClocks,
  judgePostgres,
  judgeRedis,
  judgeShards,
} from '../src/recovery/checklist.ts'
import { keys } from '../src/store/keys.ts'
import type { RedisSettings } from '../src/store/settings.ts'
import { openWorld, until, type World } from './world.ts'

const redis: RedisSettings = {
  version: '7.0.15',
  role: 'master',
  policy: 'noeviction',
  appendOnly: 'yes',
  appendFsync: 'always',
  noFsyncOnRewrite: 'no',
  lastWrite: 'ok',
  lastRewrite: 'ok',
  memory: 50,
  memoryLimit: 100,
  strayShards: [],
  now: 1_000,
  ours: 1_000,
}
const postgres: PostgresSettings = {
  version: 180_004,
  versionText: '18.4',
  standby: false,
  fsync: 'on',
  fullPageWrites: 'on',
  synchronousCommit: 'on',
  shards: 8,
  migration: newest.when,
  now: 1_000,
  ours: 1_000,
}
const unfine = (items: Item[]) =>
  items
    .filter(({ verdict }) => verdict !== 'fine')
    .map(({ setting, verdict }) => `${setting} ${verdict}`)

describe('checklist', () => {
  test('has nothing to say when all is well', () => {
    const all = [
      ...judgeRedis(redis, false),
      ...judgePostgres(postgres, false),
      ...judgeShards(8, redis, postgres),
      ...judgeClocks(redis, postgres),
    ]
    expect(unfine(all)).toEqual([])
    expect(all.filter(({ remedy }) => remedy !== '')).toEqual([])
    expect(all.length).toBeGreaterThan(15)
  })

  test.each<[Partial<RedisSettings>, string[]]>([
    [{ version: '6.2.14' }, ['version refusal']],
    [{ version: '8.0.0' }, []],
    [{ role: 'slave' }, ['role refusal']],
    [{ policy: 'allkeys-lru' }, ['maxmemory-policy refusal']],
    [{ policy: 'volatile-ttl' }, ['maxmemory-policy refusal']],
    [{ appendOnly: 'no' }, ['appendonly refusal']],
    [{ appendFsync: 'everysec' }, ['appendfsync note']],
    [{ appendFsync: 'no' }, ['appendfsync warning']],
    [{ noFsyncOnRewrite: 'yes' }, ['no-appendfsync-on-rewrite warning']],
    [{ lastWrite: 'err' }, ['aof_last_write_status refusal']],
    [{ lastRewrite: 'err' }, ['aof_last_bgrewrite_status warning']],
    [{ memory: 81 }, ['used_memory warning']],
    [{ memoryLimit: undefined, memory: undefined }, []],
    [
      { appendFsync: undefined, noFsyncOnRewrite: undefined },
      ['appendfsync refusal', 'no-appendfsync-on-rewrite refusal'],
    ],
    [{ appendOnly: undefined }, ['appendonly refusal']],
  ])('Redis with %j', (different, expected) => {
    const items = judgeRedis({ ...redis, ...different }, false)
    expect(unfine(items)).toEqual(expected)
    for (const { verdict, remedy } of items) if (verdict !== 'fine') expect(remedy).toMatch(/\w{3}/)
  })

  test.each<[Partial<RedisSettings>, string[]]>([
    [
      { appendFsync: undefined, noFsyncOnRewrite: undefined },
      ['appendfsync note', 'no-appendfsync-on-rewrite note'],
    ],
    [{ appendOnly: 'no' }, ['appendonly warning']],
    [{ policy: undefined, role: undefined }, ['role note', 'maxmemory-policy note']],
    // What would void `postgres` durability as well is refused of everybody.
    [{ policy: 'allkeys-lru' }, ['maxmemory-policy refusal']],
    [{ role: 'slave' }, ['role refusal']],
    [{ version: '6.2.14' }, ['version refusal']],
  ])('a managed Redis with %j', (different, expected) => {
    expect(unfine(judgeRedis({ ...redis, ...different }, true))).toEqual(expected)
  })

  test.each<[Partial<PostgresSettings>, string[]]>([
    [{ version: 130_011 }, ['version refusal']],
    [{ standby: true }, ['role refusal']],
    [{ fsync: 'off' }, ['fsync refusal']],
    [{ fullPageWrites: 'off' }, ['full_page_writes refusal']],
    [{ synchronousCommit: 'off' }, ['synchronous_commit refusal']],
    [{ synchronousCommit: 'remote_apply' }, []],
    [{ migration: 0 }, ['migrations refusal']],
    [{ migration: newest.when - 1 }, ['migrations refusal']],
    [{ migration: newest.when + 1 }, ['migrations refusal']],
  ])('PostgreSQL with %j', (different, expected) => {
    expect(unfine(judgePostgres({ ...postgres, ...different }, false))).toEqual(expected)
  })

  test('a rolling upgrade does not stop the version before it', () => {
    const newer = { ...postgres, migration: newest.when + 1 }
    expect(unfine(judgePostgres(newer, true))).toEqual(['migrations note'])
  })

  test.each([
    [400, 0, []],
    [0, -600, ['of postgres warning']],
    [5_000, 0, ['of redis warning']],
    [0, 3_700_000, ['of postgres refusal']],
  ])('clocks that are %i and %i ms ahead', (ofRedis, ofPostgres, expected) => {
    const there = { ...redis, now: redis.now + ofRedis }
    const proof = { ...postgres, now: postgres.now + ofPostgres }
    expect(unfine(judgeClocks(there, proof))).toEqual(expected)
  })

  test('shards that only one of the two knows', () => {
    const of = (served: number, stray: number[], shards: number) =>
      unfine(judgeShards(served, { ...redis, strayShards: stray }, { ...postgres, shards }))
    expect(of(8, [], 8)).toEqual([])
    expect(of(4, [4, 5], 8)).toEqual(['in PostgreSQL warning'])
    expect(of(8, [], 4)).toEqual(['in PostgreSQL refusal'])
    expect(of(4, [4], 4)).toEqual(['in Redis alone refusal'])
  })
})

describe('checklist of a running service', () => {
  let world: World
  beforeAll(async () => {
    world = await openWorld({ shards: 1 })
  })
  afterAll(() => world.close())

  const readiness = async () => (await world.call('GET', '/readyz')).body
  /** A new connection is looked at anew: the next look is not two seconds away. */
  const reconnect = () => world.redis.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes')
  const isRefused = (why: RegExp) =>
    until(async () => why.test((await readiness()).reason ?? ''), `refused: ${why}`)

  test('refuses a Redis that may evict, says how to set it, and serves once it is set', async () => {
    const book = await world.makeBook({}, 5)
    await world.redis.config('SET', 'maxmemory-policy', 'allkeys-lru')
    await reconnect()
    await isRefused(/maxmemory-policy is allkeys-lru: set it to noeviction/)
    const refused = await world.call('POST', 'coupons/assign', {
      as: world.service,
      body: { book_id: book, user_id: 'u' },
    })
    expect([refused.status, refused.body.code]).toEqual([503, 'not-ready'])
    await world.redis.config('SET', 'maxmemory-policy', 'noeviction')
    await world.ready()
  })

  test('notices within a few seconds what is set while it serves', async () => {
    await world.redis.config('SET', 'maxmemory-policy', 'volatile-lru')
    await isRefused(/maxmemory-policy is volatile-lru/)
    await world.redis.config('SET', 'maxmemory-policy', 'noeviction')
    await world.ready()
  })

  test('refuses a Redis that holds shards of another installation', async () => {
    await world.redis.hset(keys.meta(5), 'epoch', 1)
    await reconnect()
    await isRefused(/shards in Redis alone is 5/)
    await world.redis.del(keys.meta(5))
    await world.ready()
  })

  const main = fileURLToPath(new URL('../src/cli/main.ts', import.meta.url))
  const doctor = (redisUrl: string, databaseUrl: string, ...options: string[]) =>
    doctorIn({ REDIS_URL: redisUrl, DATABASE_URL: databaseUrl }, ...options)
  async function doctorIn(settings: Parameters<typeof environmentOf>[0], ...options: string[]) {
    const env = environmentOf(settings)
    const child = spawn(process.execPath, [main, ...options, 'doctor'], {
      env: env as NodeJS.ProcessEnv,
    })
    let out = ''
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (some) => (out += some))
    const [code] = await once(child, 'close')
    return { code, out }
  }

  test('doctor prints every item and ends with 0, or with 3 where something is amiss', async () => {
    const { REDIS_URL, DATABASE_URL } = world.settings
    const well = await doctor(REDIS_URL, DATABASE_URL)
    expect(well.out).toMatch(/^fine +redis version +\d+\.\d/)
    expect(well.out).toMatch(/^note +redis appendfsync +everysec\n +-> a power failure loses/m)
    expect(well.code).toBe(0)
    await world.redis.config('SET', 'no-appendfsync-on-rewrite', 'yes')
    const ill = await doctor(REDIS_URL, DATABASE_URL, '--json')
    const { items } = JSON.parse(ill.out) as { items: Item[] }
    expect(unfine(items)).toContain('no-appendfsync-on-rewrite warning')
    expect(ill.code).toBe(3)
    await world.redis.config('SET', 'no-appendfsync-on-rewrite', 'no')
  })

  test('doctor says which settings an API or a worker would not start with', async () => {
    const { REDIS_URL, DATABASE_URL } = world.settings
    const stores = { REDIS_URL, DATABASE_URL, JWT_SECRET: '' }
    // A machine may have the command alone: what is missing there is no fault.
    const alone = await doctorIn(stores)
    expect([alone.code, alone.out]).toEqual([
      0,
      expect.stringMatching(
        /^note +environment JWT_SECRET +is not set: .*\n +-> set it: an API that/m,
      ),
    ])
    const wrong = { JWT_SECRET: 'short', PORT: 'none', BACKLOG_FACTS: '1', METRICS_PORT: '-1' }
    const both = { DATABASE_POOL: '1', REDIS_MANAGED: 'yes' }
    const ill = await doctorIn({ ...stores, ...wrong, ...both })
    expect(ill.code).toBe(3)
    for (const name of Object.keys({ ...wrong, ...both }))
      expect(ill.out).toMatch(
        new RegExp(`^refusal +environment ${name} +.*\\n +-> correct it: `, 'm'),
      )
    expect(ill.out).not.toContain('short')
    expect(ill.out).toMatch(/METRICS_PORT .*\n +-> correct it: a worker that /)
    expect(ill.out).toMatch(/DATABASE_POOL .*\n +-> correct it: an API and a worker that /)
  })

  test("doctor looks at BullMQ's Redis where it is another one", async () => {
    const { REDIS_URL, DATABASE_URL } = world.settings
    const stores = { REDIS_URL, DATABASE_URL }
    const same = await doctorIn({ ...stores, QUEUE_REDIS_URL: REDIS_URL })
    expect([same.code, same.out]).toEqual([
      0,
      expect.stringMatching(/^fine +queue maxmemory-policy +noeviction$/m),
    ])
    const away = await doctorIn({ ...stores, QUEUE_REDIS_URL: 'redis://127.0.0.1:1' })
    expect([away.code, away.out]).toEqual([
      3,
      expect.stringMatching(/^warning +queue connection +.*ECONNREFUSED.*\n +-> start it, or /m),
    ])
  })

  test('doctor says which server is down and ends with 69', async () => {
    const { REDIS_URL, DATABASE_URL } = world.settings
    const [noRedis, noPostgres] = await Promise.all([
      doctor('redis://127.0.0.1:1', DATABASE_URL),
      doctor(REDIS_URL, 'postgres://nobody@127.0.0.1:1/none'),
    ])
    expect([noRedis.code, noPostgres.code]).toEqual([69, 69])
    expect(noRedis.out).toMatch(/^refusal +redis connection +does not answer: .*ECONNREFUSED/m)
    expect(noRedis.out).toMatch(/^fine +postgres fsync/m)
    expect(noPostgres.out).toMatch(
      /^refusal +postgres connection +does not answer: .*ECONNREFUSED/m,
    )
    expect(noPostgres.out).toMatch(/^fine +redis appendonly/m)
  })
})

test('a managed Redis: what nobody asks for is answered at postgres durability', async () => {
  const world = await openWorld({ shards: 1, managed: true })
  try {
    const book = await world.makeBook({}, 5)
    const assign = async (headers = {}) => {
      const body = { book_id: book, user_id: 'u' }
      const given = await world.call('POST', 'coupons/assign', { as: world.service, body, headers })
      return given.headers.get('durability')
    }
    expect(await assign()).toMatch(/^postgres; /)
    expect(await assign({ durability: 'redis' })).toMatch(/^redis; /)
  } finally {
    await world.close()
  }
})
