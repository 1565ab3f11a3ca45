import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { keys } from '../src/store/keys.ts'
import { audit } from './audit.ts'
import { type Act, openClient, placeOf } from './client.ts'
import { openWorld, type World } from './world.ts'

/** Whoever audits must be audited: every kind of damage is done once, and has to be found. */
let world: World
let book: string
let shard: number
let history: Act[]

beforeAll(async () => {
  world = await openWorld()
  book = await world.makeBook({ max_redemptions: 2 }, ['A-1', 'A-2', 'A-3', 'A-4', 'A-5'])
  const own = { codes: ['A-6'], max_redemptions: 6 }
  await world.call('POST', `books/${book}/codes/upload`, { as: world.admin, body: own })
  shard = (await placeOf(world, book)).shard
  const client = openClient(world)
  history = client.history
  for (const code of ['A-1', 'A-2', 'A-3']) await client.assignCode(code, 'ann')
  await client.lock('A-1', 'ann')
  const { body } = await client.redeem('A-2', 'ann')
  await client.redeem('A-2', 'ann')
  await client.rollback(body.redemption_id)
  await client.redeem('A-2', 'ann')
  await client.release('A-3')
  await client.assignCode('A-3', 'ben')
  await client.assign(book, 'ann', { count: 99 }) // sold out
  await world.level()
  await sleep(50) // for the last announcement
  await world.stopWorker() // it would see the damage, and repair it
})
afterAll(() => world.close())

test('audit  finds nothing where all is well', async () => {
  await audit(world, { book, history })
})

/** Damage to a key of Redis, which is put back afterwards. */
type Damage = { key: () => string; harm: (redis: World['redis'], key: string) => Promise<unknown> }
const of = (name: 'book' | 'stock' | 'users' | 'uses') => () => keys[name](shard, book)
const coupons = () => keys.coupons(shard)
const meta = () => keys.meta(shard)

/** Changes one field of a coupon's record. */
const field = (f: number, value: string) => async (redis: World['redis'], key: string) => {
  const record = (await redis.hget(key, 'A-1'))!.split('\t')
  record[f] = value
  await redis.hset(key, 'A-1', record.join('\t'))
}
const inRedis: Record<string, Damage> = {
  'left + held: 7': { key: of('book'), harm: (redis, key) => redis.hincrby(key, 'left', 1) },
  'left: 3, expected 4': { key: of('stock'), harm: (redis, key) => redis.sadd(key, 'A-9') },
  'codes in Redis': {
    key: of('stock'),
    harm: (redis, key) => redis.srem(key, 'A-4'),
  },
  'in stock and held: ["A-1"]': { key: of('stock'), harm: (redis, key) => redis.sadd(key, 'A-1') },
  'own limit of A-6: "7"': { key: of('uses'), harm: (redis, key) => redis.hset(key, 'A-6', 7) },
  'counters in Redis: [4,1,0]': {
    key: of('book'),
    harm: (redis, key) => redis.hincrby(key, 'held', 1),
  },
  'counters in Redis: [3,2,0]': {
    key: of('book'),
    harm: (redis, key) => redis.hincrby(key, 'redeemed', 1),
  },
  'counters in Redis: [3,1,1]': {
    key: of('book'),
    harm: (redis, key) => redis.hincrby(key, 'void', 1),
  },
  'coupons of ann: 3': { key: of('users'), harm: (redis, key) => redis.hincrby(key, 'ann', 1) },
  'coupons of dan: 0': { key: of('users'), harm: (redis, key) => redis.hset(key, 'dan', 0) },
  'there is a sentinel': { key: of('users'), harm: (redis, key) => redis.hdel(key, '') },
  'coupon in Redis of A-1: undefined': {
    key: coupons,
    harm: (redis, key) => redis.hdel(key, 'A-1'),
  },
  '"user":"eve"': { key: coupons, harm: field(1, 'eve') },
  '"version":9': { key: coupons, harm: field(2, '9') },
  '"assignedAt":1,': { key: coupons, harm: field(3, '1') },
  '"updatedAt":1}': { key: coupons, harm: field(4, '1') },
  '"redemptions":1': { key: coupons, harm: field(5, '1') },
  '"max":7': { key: coupons, harm: field(6, '7') },
  '"token":"guessed"': { key: coupons, harm: field(7, 'guessed') },
  'guard of A-1: [null,-2]': {
    key: () => keys.lock(shard, 'A-1'),
    harm: (redis, key) => redis.del(key),
  },
  'guard of A-2: ["x"': {
    key: () => keys.lock(shard, 'A-2'),
    harm: (redis, key) => redis.set(key, 'x'),
  },
  'the redemption of': {
    key: () => keys.redemptions(shard),
    harm: async (redis, key) => redis.hdel(key, (await redis.hkeys(key)).find((id) => id)!),
  },
  'facts of the shard: {"facts":11': {
    key: meta,
    harm: (redis, key) => redis.hincrby(key, 'facts', 1),
  },
  '"flushed":11': { key: meta, harm: (redis, key) => redis.hincrby(key, 'flushed', 1) },
  'entries kept in the stream': {
    key: meta,
    harm: (redis, key) => redis.hincrby(key, 'kept', 1),
  },
  'last entry of the stream': {
    key: () => keys.journal(shard),
    harm: (redis, key) => redis.xadd(key, '1-99', 'kind', 'unheard of'),
  },
  'its hash': {
    key: () => keys.journal(shard),
    async harm(redis, key) {
      const [last] = await redis.xrevrange(key, '+', '-', 'COUNT', 1)
      await redis.del(key)
      await redis.xadd(key, last![0], 'kind', 'another')
    },
  },
}

test.each(Object.keys(inRedis))('audit  finds damage in Redis: %s', async (finding) => {
  const { key, harm } = inRedis[finding]!
  const kept = await world.redis.dumpBuffer(key())
  const until = Math.max(0, await world.redis.pexpiretime(key()))
  await harm(world.redis, key())
  const found = await audit(world, { book, history }).catch((error: Error) => error.message)
  if (kept) await world.redis.restore(key(), until, kept, 'REPLACE', 'ABSTTL')
  else await world.redis.del(key())
  expect(found).toContain(finding)
  await audit(world, { book, history })
})

const set = (table: string, column: string, wrong: string, where = `code = 'A-1'`) => [
  `UPDATE ${table} SET ${column} = ${wrong} WHERE ${where}`,
]
/** Damage to PostgreSQL. The table is put back from a copy. */
const inPostgres: Record<string, string[]> = {
  'coupons: the row in coupons, against the story': set('coupons', 'user_id', `'eve'`),
  'coupons: of A-1: undefined': [`DELETE FROM coupons WHERE code = 'A-1'`],
  'coupons: "lockedUntil":0': set('coupons', 'locked_until', 'NULL'),
  'ledger: epochs with holes': [`DELETE FROM ledger WHERE kind = 'lock'`],
  'ledger: entries with holes': set('ledger', 'i', '1', `kind = 'lock'`),
  'ledger: expected {"version":2': set('ledger', 'version', '3', `kind = 'lock'`),
  'ledger: begins: false, expected true': set('ledger', 'kind', `'lock'`, `code = 'A-1' AND n = 1`),
  'ledger: is a kind': set('ledger', 'kind', `'gift'`, `kind = 'lock'`),
  'ledger: the answer': set('ledger', 'context', `'{"request_id":"x"}'`, `kind = 'lock'`),
  'parked_facts: parked facts': [`INSERT INTO parked_facts VALUES (0, 1, 1, 0, 'why', '{}')`],
  'book_counters: book_counters: {"held":9': set('book_counters', 'held', '9', 'true'),
  'book_minutes: book_minutes: [{"minute"': set('book_minutes', 'count', 'count + 1', 'true'),
  'redemptions: the redemptions of A-2': set(
    'redemptions',
    'rolled_back_at',
    'now()',
    `code = 'A-2'`,
  ),
  'codes: codes in Redis': [`DELETE FROM codes WHERE code = 'A-4'`],
  'shards: entries of the shard': set('shards', 'checkpoint', 'checkpoint - 1', 'checkpoint > 1'),
}

test.each(Object.keys(inPostgres))('audit  finds damage in PostgreSQL, table %s', async (name) => {
  const [table, finding] = name.split(/: (.*)/) as [string, string]
  const { database } = world
  await database.query(`CREATE TABLE kept AS TABLE ${table}`)
  for (const sql of inPostgres[name]!)
    expect((await database.query(sql)).rowCount).toBeGreaterThan(0)
  const found = await audit(world, { book, history }).catch((error: Error) => error.message)
  await database.query(`ALTER TABLE ${table} DISABLE TRIGGER ALL; DELETE FROM ${table};
    INSERT INTO ${table} SELECT * FROM kept; DROP TABLE kept; ALTER TABLE ${table} ENABLE TRIGGER ALL`)
  expect(found).toContain(finding)
})

/** What clients may say that is not so. */
const told: Record<string, (acts: Act[]) => Act[]> = {
  'nobody was told of lock': (acts) => acts.filter(({ verb }) => verb !== 'lock'),
  'two answers claim': (acts) => [...acts, acts[0]!],
  '"user":"eve"': ([first, ...rest]) => [{ ...first!, user: 'eve' }, ...rest],
  '"code":"A-5"': ([first, ...rest]) => [{ ...first!, codes: ['A-5'] }, ...rest],
  '"from":"another"': ([first, ...rest]) => [{ ...first!, requestId: 'another' }, ...rest],
  '-99/0: undefined': ([first, ...rest]) => [
    { ...first!, fact: { ...first!.fact!, n: 99 } },
    ...rest,
  ],
  'A-3 was acknowledged to 2 users': (acts) => acts.filter(({ verb }) => verb !== 'release'),
}

test.each(Object.keys(told))('audit  finds answers that do not fit: %s', async (finding) => {
  const acts = told[finding]!(history)
  const found = await audit(world, { book, history: acts }).catch((error: Error) => error.message)
  expect(found).toContain(finding)
})
