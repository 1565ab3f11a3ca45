import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { environmentOf } from '../src/config.ts'
import { archiveBook, updateBook } from '../src/ledger/books.ts'
import { warmBook } from '../src/ops/books.ts'
import { type Difference, reconcile } from '../src/ops/reconcile/reconcile.ts'
import { keys } from '../src/store/keys.ts'
import { flusher, flushOnce } from '../workers/flush.ts'
import { openClient, placeOf } from './client.ts'
import { makeWire } from './wire.ts'
import { openWorld, until, type World } from './world.ts'

let world: World
const sql = (text: string, ...values: unknown[]) => world.database.query(text, values)
const look = (exact: boolean, book?: string) =>
  reconcile({ redis: world.redis, database: world.database }, { exact, ...(book && { book }) })

/** A sale of every verb on one shard; what it came to is remembered by name. */
const shard = 0
let book: string
let held: string[]
let locked: string
let used: string
let redemption: string
let stock: string
/** Void ones: taken from stock, and from u0. */
let voidStock: string
let voidHeld: string

async function sale(): Promise<void> {
  const client = openClient(world)
  const codes = Array.from({ length: 30 }, (_, c) => `CODE-${String(c).padStart(2, '0')}`)
  book = await world.makeBook({ max_redemptions: 2, max_assignments_per_user: 4 }, codes)
  await world.call('POST', `books/${book}/codes/upload`, {
    as: world.admin,
    body: { codes: ['OWN-1', 'OWN-2'], max_redemptions: 7 },
  })
  held = []
  for (let c = 0; c < 10; c++) {
    await client.assignCode(codes[c]!, `u${c % 5}`)
    held.push(codes[c]!)
  }
  ;[locked, used] = [held[8]!, held[9]!]
  await client.lock(locked, 'u3', { lock_duration_seconds: 600 })
  await client.lock(held[7]!, 'u2')
  await client.unlock(held[7]!, 'u2')
  redemption = (await client.redeem(used, 'u4')).body.redemption_id
  const undone = await client.redeem(used, 'u4')
  await client.rollback(undone.body.redemption_id)
  await client.assignCode(codes[20]!, 'u0')
  await client.release(codes[20]!)
  ;[voidStock, voidHeld] = [codes[21]!, codes[22]!]
  await client.void(voidStock)
  await client.assignCode(voidHeld, 'u0')
  await client.void(voidHeld)
  stock = codes[25]!
  const units = await world.makeBook({ kind: 'counter', units: 100 })
  const unit = await client.assign(units, 'u1')
  await client.void(unit.body.coupons[0].code)
  const { body } = await client.assign(units, 'u1', { count: 3 })
  await client.release(body.coupons[0].code)
  await world.level()
}

const tables = [
  ...['shards', 'books', 'loads', 'codes', 'coupons', 'book_counters', 'redemptions'],
  ...['ledger', 'parked_facts'],
]
let saved: { key: string; dump: Buffer; until: number }[]

/** Both stores as they are, to come back to after each test. */
async function save(): Promise<void> {
  await sql('CREATE SCHEMA saved')
  for (const table of tables) await sql(`CREATE TABLE saved.${table} AS SELECT * FROM ${table}`)
  saved = []
  for (const key of await world.redis.keys('{s0}:*'))
    saved.push({
      key,
      dump: (await world.redis.dumpBuffer(key))!,
      until: Math.max(0, await world.redis.pexpiretime(key)),
    })
}
async function restore(): Promise<void> {
  await sql(`TRUNCATE ${tables.join(', ')} CASCADE`)
  for (const table of tables)
    await sql(`INSERT INTO ${table} OVERRIDING SYSTEM VALUE SELECT * FROM saved.${table}`)
  const there = await world.redis.keys('{s0}:*')
  const restored = world.redis.multi().del(...there)
  for (const { key, dump, until } of saved) restored.restore(key, until, dump, 'ABSTTL')
  await restored.exec()
}

beforeAll(async () => {
  world = await openWorld({ shards: 1 })
  await sale()
  await world.stopWorker()
  await save()
})
afterEach(() => restore())
afterAll(() => world.close())

const record = async (code: string) => (await world.redis.hget(keys.coupons(shard), code))!
const change = async (code: string, field: number, value: string) => {
  const fields = (await record(code)).split('\t')
  fields[field] = value
  await world.redis.hset(keys.coupons(shard), code, fields.join('\t'))
}
const place = async (code: string, version: number) => {
  const { rows } = await sql('SELECT * FROM ledger WHERE code = $1 AND version = $2', code, version)
  return rows[0] as { epoch: number; n: number; i: number }
}
const forget = (code: string, version: number) =>
  sql('DELETE FROM ledger WHERE code = $1 AND version = $2', code, version)

/** An entry as a script would write it, but with a fact of our choice; then it is flushed. */
async function forge(kind: string, state: string): Promise<number> {
  const [epoch, n, facts] = (await world.redis.hmget(keys.meta(shard), 'epoch', 'n', 'facts')).map(
    Number,
  ) as [number, number, number]
  const head = ['kind', kind, 'book', book, 'at', `${Date.now()}`, 'op', crypto.randomUUID()]
  const fact = [state, '{"actor":"user:x","request_id":"r"}']
  await world.redis.xadd(keys.journal(shard), `${epoch}-${n + 1}`, ...head, ...fact)
  await world.redis.hset(keys.meta(shard), 'n', n + 1, 'facts', facts + 1)
  await world.redis.hincrby(keys.meta(shard), 'kept', 1)
  await flushOnce(flusher(world.house.place, world.database, shard))
  return n + 1
}

/** Copies a fact of the ledger to another place, changed. */
const copy = (code: string, version: number, changes: Record<string, string>) => {
  const columns = [
    'shard',
    'epoch',
    'n',
    'i',
    'op',
    'kind',
    'book_id',
    'code',
    'user_id',
    'version',
  ]
  columns.push('at', 'redemptions', 'max_redemptions', 'lock_token', 'locked_until')
  columns.push('redemption_id', 'context', 'assigned_at')
  return sql(
    `INSERT INTO ledger (${columns}) SELECT ${columns.map((name) => changes[name] ?? name)}
     FROM ledger WHERE code = $1 AND version = $2`,
    code,
    version,
  )
}

type Expected = Partial<Omit<Difference, 'redis' | 'postgres'>> & Record<string, unknown>
type Row = [what: string, harm: () => Promise<unknown>, expected: () => Expected[]]

const sides = (redis: unknown, postgres: unknown) => ({ redis, postgres })
const matching = (text: RegExp) => expect.stringMatching(text) as unknown as string

const coupons: Row[] = [
  [
    'a coupon row was changed by SQL',
    () => sql("UPDATE coupons SET user_id = 'mallory' WHERE code = $1", held[0]),
    () => [
      {
        ...{ class: 'STATE_MISMATCH', code: held[0], book_id: book, shard },
        what: 'coupons differs from Redis and the ledger',
        redis: { in_stock: false, coupon: { user_id: 'u0', version: 1 } },
        postgres: { coupons: { user_id: 'mallory' }, ledger: { user_id: 'u0', version: 1 } },
      },
    ],
  ],
  [
    'a coupon row has more redemptions than it may have',
    () => sql('UPDATE coupons SET redemptions = 3 WHERE code = $1', used),
    () => [
      {
        ...{ class: 'STATE_MISMATCH', code: used },
        ...sides({ coupon: { redemptions: 1 } }, { coupons: { redemptions: 3 } }),
      },
    ],
  ],
  [
    'a coupon row was deleted',
    () => sql('DELETE FROM coupons WHERE code = $1', held[1]),
    () => [
      {
        ...{ class: 'STATE_MISMATCH', code: held[1] },
        ...sides({ coupon: { user_id: 'u1' } }, { coupons: null, ledger: { user_id: 'u1' } }),
      },
    ],
  ],
  [
    'a coupon row was added for a code in stock',
    () =>
      sql(
        `INSERT INTO coupons SELECT $1, book_id, user_id, version, redemptions, max_redemptions,
           lock_token, locked_until, assigned_at, updated_at FROM coupons WHERE code = $2`,
        stock,
        held[0],
      ),
    () => [
      {
        ...{ class: 'STOCK_MISMATCH', code: stock },
        ...sides({ in_stock: true, coupon: null }, { coupons: { user_id: 'u0' }, ledger: null }),
      },
    ],
  ],
  [
    'a record in Redis was changed',
    () => change(held[2]!, 1, 'mallory'),
    () => [
      {
        ...{ class: 'STATE_MISMATCH', code: held[2] },
        what: 'Redis differs from coupons and the ledger',
        redis: { coupon: { user_id: 'mallory' } },
        postgres: { coupons: { user_id: 'u2' }, ledger: { user_id: 'u2' } },
      },
    ],
  ],
  [
    'a record in Redis has another deadline',
    () => change(locked, 8, '1795132800000'),
    () => [
      {
        ...{ class: 'STATE_MISMATCH', code: locked },
        redis: { coupon: { locked_until: '2026-11-20T00:00:00.000Z' } },
      },
    ],
  ],
  [
    'a record in Redis was overwritten with anything',
    () => world.redis.hset(keys.coupons(shard), locked, '\t\t\t9e99\t\t\t\t\t99999999999999999'),
    () => [{ class: 'STATE_MISMATCH', code: locked, postgres: { coupons: { user_id: 'u3' } } }],
  ],
  [
    'a record in Redis was deleted',
    () => world.redis.hdel(keys.coupons(shard), held[3]!),
    () => [
      {
        ...{ class: 'STATE_MISMATCH', code: held[3] },
        ...sides({ in_stock: false, coupon: null }, { coupons: { user_id: 'u3' } }),
      },
    ],
  ],
  [
    'a record in Redis was made up',
    async () => world.redis.hset(keys.coupons(shard), 'MADE-UP', await record(held[0]!)),
    () => [
      {
        ...{ class: 'STATE_MISMATCH', code: 'MADE-UP', book_id: book },
        ...sides({ coupon: { user_id: 'u0' } }, { loaded: false, coupons: null, ledger: null }),
      },
    ],
  ],
  [
    'a code was removed from stock',
    () => world.redis.srem(keys.stock(shard, book), stock),
    () => [
      {
        ...{ class: 'UNDERSOLD', code: stock, book_id: book },
        ...sides({ in_stock: false, coupon: null }, { loaded: true, coupons: null }),
      },
    ],
  ],
  [
    'a code that nobody knows is in stock',
    () => world.redis.sadd(keys.stock(shard, book), 'MADE-UP'),
    () => [
      {
        ...{ class: 'STOCK_MISMATCH', code: 'MADE-UP', book_id: book },
        ...sides({ in_stock: true }, { loaded: false, coupons: null }),
      },
    ],
  ],
  [
    'a code that somebody has is in stock',
    () => world.redis.sadd(keys.stock(shard, book), held[4]!),
    () => [
      {
        ...{ class: 'STOCK_MISMATCH', code: held[4] },
        ...sides({ in_stock: true, coupon: { user_id: 'u4' } }, { coupons: { user_id: 'u4' } }),
      },
    ],
  ],
  [
    'a void code came back into stock',
    () => world.redis.sadd(keys.stock(shard, book), voidStock),
    () => [
      {
        ...{ class: 'STOCK_MISMATCH', code: voidStock, book_id: book },
        what: 'in stock in Redis, void in PostgreSQL',
        ...sides({ in_stock: true }, { loaded: true, coupons: { user_id: null } }),
      },
    ],
  ],
  [
    'a void code is a coupon again in Redis',
    async () => world.redis.hset(keys.coupons(shard), voidHeld, await record(held[0]!)),
    () => [
      {
        ...{ class: 'STATE_MISMATCH', code: voidHeld, book_id: book },
        what: 'Redis differs from coupons and the ledger',
        ...sides({ coupon: { user_id: 'u0' } }, { coupons: { user_id: null } }),
      },
    ],
  ],
  [
    'Redis forgot that a code is void',
    () => world.redis.hdel(keys.coupons(shard), voidStock),
    () => [
      {
        ...{ class: 'STATE_MISMATCH', code: voidStock },
        ...sides({ in_stock: false, coupon: null }, { coupons: { user_id: null } }),
      },
    ],
  ],
  [
    'a void code was given to somebody by SQL',
    () => sql("UPDATE coupons SET user_id = 'mallory' WHERE code = $1", voidStock),
    () => [
      {
        ...{ class: 'STATE_MISMATCH', code: voidStock },
        what: 'coupons differs from Redis and the ledger',
        ...sides({ coupon: { user_id: null } }, { coupons: { user_id: 'mallory' } }),
      },
    ],
  ],
  [
    'PostgreSQL forgot that a code is void',
    () => sql('DELETE FROM coupons WHERE code = $1', voidHeld),
    () => [
      {
        ...{ class: 'STATE_MISMATCH', code: voidHeld },
        ...sides({ coupon: { user_id: null } }, { coupons: null, ledger: { user_id: null } }),
      },
    ],
  ],
  [
    'a code lost its own limit',
    () => world.redis.hdel(keys.uses(shard, book), 'OWN-1'),
    () => [{ class: 'STOCK_MISMATCH', code: 'OWN-1', what: matching(/null in Redis, 7 in/) }],
  ],
  [
    'a redemption was forgotten',
    () => world.redis.hdel(keys.redemptions(shard), redemption),
    () => [
      {
        ...{ class: 'STATE_MISMATCH', code: used, what: `redemption ${redemption}` },
        ...sides(null, { code: used, rolled_back: false }),
      },
    ],
  ],
  [
    'a redemption was rolled back by SQL',
    () => sql('UPDATE redemptions SET rolled_back_at = now() WHERE redemption_id = $1', redemption),
    () => [
      {
        ...{ class: 'STATE_MISMATCH', code: used },
        ...sides({ code: used, rolled_back: false }, { code: used, rolled_back: true }),
      },
    ],
  ],
  [
    'a redemption was made up',
    () => world.redis.hset(keys.redemptions(shard), 'not-a-uuid', used),
    () => [{ class: 'STATE_MISMATCH', code: used, ...sides({ code: used }, null) }],
  ],
  [
    'a policy was changed in Redis',
    () => world.redis.hset(keys.book(shard, book), 'max_held', 400),
    () => [
      {
        ...{ class: 'STATE_MISMATCH', book_id: book, what: 'the policy of the book: max_held' },
        ...sides({ max_held: '400' }, { max_held: '4' }),
      },
    ],
  ],
]

const locks: Row[] = [
  [
    'a guard was deleted',
    () => world.redis.del(keys.lock(shard, locked)),
    () => [
      {
        ...{ class: 'LOCK_MISMATCH', code: locked, what: 'a live lock without its guard' },
        redis: { guard: null, coupon: { token: matching(/^.{4}\.\.\.$/) } },
        postgres: { coupons: { token: matching(/^.{4}\.\.\.$/) } },
      },
    ],
  ],
  [
    'a guard has another token',
    () => world.redis.set(keys.lock(shard, locked), 'another', 'KEEPTTL'),
    () => [{ class: 'LOCK_MISMATCH', code: locked, redis: { guard: { token: 'anot...' } } }],
  ],
  [
    'a guard never ends',
    () => world.redis.persist(keys.lock(shard, locked)),
    () => [{ class: 'LOCK_MISMATCH', code: locked, redis: { guard: { until: null } } }],
  ],
  [
    'a guard of a coupon that nobody has locked',
    () => world.redis.set(keys.lock(shard, held[0]!), 'token', 'PX', 600_000),
    () => [
      {
        ...{ class: 'LOCK_MISMATCH', code: held[0], what: 'a guard without a live lock' },
        ...sides({ coupon: null }, { coupons: null }),
      },
    ],
  ],
  [
    'a guard of a code in stock',
    () => world.redis.set(keys.lock(shard, stock), 'token', 'PX', 600_000),
    () => [{ class: 'LOCK_MISMATCH', code: stock, book_id: book }],
  ],
]

const numbers: Row[] = [
  [
    'a user’s counter was changed',
    () => world.redis.hincrby(keys.users(shard, book), 'u0', 3),
    () => [{ class: 'COUNTER_MISMATCH', what: matching(/user u0/), ...sides(5, 2) }],
  ],
  [
    'a user’s counter was deleted',
    () => world.redis.hdel(keys.users(shard, book), 'u1'),
    () => [{ class: 'COUNTER_MISMATCH', what: matching(/user u1/), ...sides(0, 2) }],
  ],
  [
    'a user’s counter was made up',
    () => world.redis.hset(keys.users(shard, book), 'mallory', 1),
    () => [{ class: 'COUNTER_MISMATCH', what: matching(/user mallory/), ...sides(1, 0) }],
  ],
  [
    'held was changed in Redis',
    () => world.redis.hincrby(keys.book(shard, book), 'held', 2),
    () => [
      {
        ...{ class: 'COUNTER_MISMATCH', book_id: book, what: 'held of the book' },
        ...sides(12, { book_counters: 10, coupons: 10 }),
      },
    ],
  ],
  [
    'the number of void codes was changed in Redis',
    () => world.redis.hincrby(keys.book(shard, book), 'void', -1),
    () => [
      {
        ...{ class: 'COUNTER_MISMATCH', book_id: book, what: 'void of the book' },
        ...sides(1, { book_counters: 2, coupons: 2 }),
      },
    ],
  ],
  [
    'book_counters was changed by SQL',
    () => sql('UPDATE book_counters SET redeemed = 1 WHERE book_id = $1', book),
    () => [
      {
        ...{ class: 'COUNTER_MISMATCH', what: 'redeemed of the book' },
        ...sides(0, { book_counters: 1, coupons: 0 }),
      },
    ],
  ],
  [
    'left was changed in Redis',
    () => world.redis.hincrby(keys.book(shard, book), 'left', 5),
    () => [{ class: 'STOCK_MISMATCH', book_id: book, redis: { left: 25, stock: 20 } }],
  ],
  [
    'a code was taken from PostgreSQL',
    () => sql('DELETE FROM codes WHERE code = $1', stock),
    () => [
      { class: 'STOCK_MISMATCH', code: stock, postgres: { loaded: false } },
      { class: 'COUNTER_MISMATCH', postgres: { total_code_count: 32, codes: 31 } },
    ],
  ],
  [
    'the shard’s facts were changed in Redis',
    () => world.redis.hincrby(keys.meta(shard), 'facts', 1),
    () => [{ class: 'COUNTER_MISMATCH', shard, book_id: null, what: matching(/^facts/) }],
  ],
  [
    'the shard’s facts were changed by SQL',
    () => sql('UPDATE shards SET facts = facts + 7'),
    () => [{ class: 'COUNTER_MISMATCH', shard, book_id: null, what: matching(/^facts/) }],
  ],
  [
    'the journal lost entries',
    () => world.redis.xtrim(keys.journal(shard), 'MAXLEN', 2),
    () => [{ class: 'COUNTER_MISMATCH', what: matching(/damaged/), redis: { entries: 2 } }],
  ],
  [
    'a user has more than the book allows',
    async () => {
      await sql('UPDATE books SET max_assignments_per_user = 1 WHERE book_id = $1', book)
      await world.redis.hset(keys.book(shard, book), 'max_held', 1)
    },
    () =>
      ['u0', 'u1', 'u2', 'u3', 'u4'].map((user) => ({
        ...{
          class: 'CAP_EXCEEDED',
          book_id: book,
          what: matching(new RegExp(`user ${user} holds 2`)),
        },
        ...sides({ held: 2 }, { held: 2, limit: 1 }),
      })),
  ],
  [
    'a coupon was redeemed more often than its user may',
    async () => {
      await sql('UPDATE coupons SET redemptions = 3 WHERE code = $1', used)
      await sql('UPDATE ledger SET redemptions = 3 WHERE code = $1 AND version = 4', used)
      await change(used, 5, '3')
      await sql('UPDATE book_counters SET redeemed = 1 WHERE book_id = $1', book)
      await world.redis.hset(keys.book(shard, book), 'redeemed', 1)
    },
    () => [
      {
        class: 'CAP_EXCEEDED',
        code: used,
        ...sides({ redemptions: 3 }, { redemptions: 3, limit: 2 }),
      },
    ],
  ],
]

const ledger: Row[] = [
  [
    'the only fact of a coupon was deleted',
    () => forget(held[0]!, 1),
    () => [
      {
        ...{ class: 'SEQUENCE_GAP', code: held[0], book_id: book },
        what: matching(/^the ledger lacks a fact: nothing between .* and 0\/\d+-\d+\/0$/),
        redis: { coupon: { user_id: 'u0' } },
        postgres: { coupons: { user_id: 'u0' }, ledger: null },
      },
    ],
  ],
  [
    'a fact between two others was deleted',
    () => forget(used, 2),
    () => [
      {
        class: 'SEQUENCE_GAP',
        code: used,
        what: matching(/^the ledger lacks a fact after .* and before /),
      },
    ],
  ],
  [
    'the last fact of a coupon was deleted',
    () => forget(held[7]!, 3),
    () => [
      {
        ...{ class: 'SEQUENCE_GAP', code: held[7] },
        postgres: { coupons: { version: 3 }, ledger: { version: 2 } },
      },
    ],
  ],
  [
    'the release of a code was deleted',
    () => sql("DELETE FROM ledger WHERE kind = 'release' AND book_id = $1", book),
    () => [
      {
        ...{ class: 'SEQUENCE_GAP', code: 'CODE-20' },
        ...sides({ in_stock: true, coupon: null }, { coupons: null, ledger: { user_id: 'u0' } }),
      },
    ],
  ],
  [
    'the void of a code that somebody had was deleted',
    () => forget(voidHeld, 2),
    () => [
      {
        ...{ class: 'SEQUENCE_GAP', code: voidHeld },
        postgres: { coupons: { user_id: null }, ledger: { user_id: 'u0' } },
      },
    ],
  ],
  [
    'the void of a code in stock was deleted',
    () => forget(voidStock, 1),
    () => [
      {
        ...{ class: 'SEQUENCE_GAP', code: voidStock },
        postgres: { coupons: { user_id: null }, ledger: null },
      },
    ],
  ],
  [
    'the newest fact of all was deleted',
    () => sql('DELETE FROM ledger WHERE n = (SELECT max(n) FROM ledger)'),
    () => [{ class: 'SEQUENCE_GAP', what: matching(/and the checkpoint$/) }],
  ],
  [
    'one fact of an entry was deleted',
    () => sql("DELETE FROM ledger WHERE kind = 'assign' AND book_id <> $1 AND i = 1", book),
    () => [
      { class: 'SEQUENCE_GAP', what: matching(/nothing between 0\/1-\d+\/0 and 0\/1-\d+\/2$/) },
    ],
  ],
  [
    'the last fact of an entry was deleted',
    () => sql("DELETE FROM ledger WHERE kind = 'assign' AND book_id <> $1 AND i = 2", book),
    () => [{ class: 'SEQUENCE_GAP', what: matching(/^the ledger lacks a fact$/) }],
  ],
  [
    'a fact was changed by SQL',
    () => sql("UPDATE ledger SET user_id = 'mallory' WHERE code = $1", held[0]),
    () => [
      {
        ...{ class: 'STATE_MISMATCH', code: held[0], what: matching(/^the ledger differs/) },
        postgres: { coupons: { user_id: 'u0' }, ledger: { user_id: 'mallory' } },
      },
    ],
  ],
  [
    'a fact stands twice',
    () => copy(held[0]!, 1, { i: '1' }),
    () => [
      {
        ...{ class: 'DUPLICATE_FACT', code: held[0], what: matching(/^version 1 stands twice/) },
        redis: { coupon: { user_id: 'u0' } },
        postgres: { facts: [matching(/\/0$/), matching(/\/1$/)], coupons: { user_id: 'u0' } },
      },
    ],
  ],
  [
    'an old fact stands once more behind a newer one',
    async () => {
      const { n } = await place(held[7]!, 3)
      await copy(held[7]!, 1, { n: `${n}`, i: '1' })
    },
    () => [{ class: 'DUPLICATE_FACT', code: held[7] }],
  ],
  [
    'a held code was assigned once more',
    () =>
      copy(held[0]!, 1, { i: '1', user_id: "'mallory'", assigned_at: "now() - interval '1 y'" }),
    () => [{ class: 'DUPLICATE_FACT', code: held[0], what: matching(/^assigned a second time/) }],
  ],
  [
    'a fact beyond the checkpoint',
    () => copy(held[0]!, 1, { n: 'n + 1000000' }),
    () => [
      { class: 'SEQUENCE_GAP', what: matching(/beyond the checkpoint/) },
      { class: 'DUPLICATE_FACT', code: held[0] },
    ],
  ],
  [
    'a parked fact',
    () => forge('assign', `${held[0]}\tthief\t1\t1795132800000\t0\t1\t\t\t`),
    () => [
      {
        ...{ class: 'PARKED', code: held[0], book_id: book },
        ...sides({ user_id: 'thief', version: 1 }, { parked: matching(/duplicate/) }),
      },
    ],
  ],
  [
    'a parked fact that the ledger could not even hold',
    async () => {
      await forge('assign', `NUL\tthief\u0000\t1\t1795132800000\t0\t1\t\t\t`)
      expect((await sql("SELECT FROM ledger WHERE code = 'NUL'")).rowCount).toBe(0)
    },
    () => [{ class: 'PARKED', code: 'NUL' }],
  ],
  [
    'a fact that was given up stands in the ledger',
    async () => {
      const n = await forge('assign', `${held[0]}\tthief\t1\t1795132800000\t0\t1\t\t\t`)
      await sql('DELETE FROM parked_facts')
      await sql(
        "INSERT INTO audit_log (actor, action, target) VALUES ('a test', 'parked.discard', $1)",
        `fact:0/1-${n}/0`,
      )
    },
    () => [],
  ],
]

describe('reconcile', () => {
  test('finds a sale of every verb equal', async () => {
    for (const exact of [true, false])
      for (const of of [undefined, book]) {
        const found = await look(exact, of)
        expect(found.differences).toEqual([])
        const books = found.books.map(({ codes, coupons }) => ({ codes, coupons }))
        expect(books).toContainEqual({ codes: 32, coupons: 10 })
        expect(found.books).toHaveLength(of ? 1 : 2)
        for (const its of found.books) expect(its.digest_redis).toBe(its.digest_postgres)
      }
  })

  test.each([...coupons, ...locks, ...numbers, ...ledger])('names it where %s', async (...row) => {
    const [, harm, expected] = row
    await harm()
    for (const exact of [true, false]) {
      const { differences, verdict, more } = await look(exact)
      expect(differences, exact ? 'exact' : 'live').toEqual(
        expected().map((one) => expect.objectContaining(deep(one))),
      )
      expect([verdict, more]).toEqual([expected().length > 0 ? 'different' : 'equal', 0])
    }
  })
})

describe('reconcile: what it does not call a difference, and what it cannot tell', () => {
  test('a limit that was lowered after the coupons were assigned', async () => {
    await updateBook(world.database, book, { max_assignments_per_user: 1 })
    for (const exact of [true, false]) expect((await look(exact)).differences).toEqual([])
  })

  test('a limit that was passed, whatever else of the book was changed since', async () => {
    await sql('UPDATE books SET max_assignments_per_user = 1 WHERE book_id = $1', book)
    await sql('UPDATE books SET max_redemptions_per_user = 0 WHERE book_id = $1', book)
    await updateBook(world.database, book, { is_active: false })
    await updateBook(world.database, book, { closes_at: new Date(), max_assignments_per_user: 1 })
    await updateBook(world.database, book, { is_active: true, max_redemptions: 3 })
    await archiveBook(world.database, book)
    for (const exact of [true, false]) {
      const { differences } = await look(exact)
      expect(differences.map(({ class: of, code, what }) => [of, code ?? what])).toEqual([
        ...['u0', 'u1', 'u2', 'u3', 'u4'].map((user) => [
          ...['CAP_EXCEEDED', `user ${user} holds 2 coupons, 1 are allowed`],
        ]),
        ['CAP_EXCEEDED', used],
      ])
    }
  })

  test('a load that Redis does not have yet, unless nothing may be under way', async () => {
    await world.redis.srem(keys.stock(shard, book), 'OWN-1', 'OWN-2')
    await world.redis.hincrby(keys.book(shard, book), 'left', -2)
    await sql("UPDATE loads SET state = 'written' WHERE max_redemptions = 7")
    const live = await look(false)
    expect(live.differences).toEqual([])
    expect(live.books[0]!.digest_redis).toBe(live.books[0]!.digest_postgres)
    const { differences } = await look(true)
    expect(differences.map(({ class: of, code }) => [of, code])).toEqual([
      ['UNDERSOLD', 'OWN-1'],
      ['UNDERSOLD', 'OWN-2'],
    ])
  })

  test('a journal that nobody flushes: live it throws, exact it says so', async () => {
    const client = openClient(world)
    await sql("UPDATE shards SET flush = 'paused'")
    // The journal went back with `restore`: whoever saw it further on refuses until it has checked.
    const assign = () => client.assignCode(stock, 'u0', { durability: 'redis' })
    await until(async () => (await assign()).status === 200, 'the code is assigned')
    await expect(look(false)).rejects.toThrow(
      /at entry 1-\d+, the ledger stays at 1-\d+: its flush/,
    )
    const { differences } = await look(true)
    expect(differences.map(({ class: of }) => of)).toEqual([
      ...['STATE_MISMATCH', 'COUNTER_MISMATCH', 'COUNTER_MISMATCH'],
    ])
  })

  test('twenty-one thousand users and as many redemptions that are wrong', async () => {
    const many = Array.from({ length: 21_000 }, (_, i) => `made-up-${i}`)
    await world.redis.hset(keys.users(shard, book), new Map(many.map((user) => [user, 1])))
    await world.redis.hset(keys.redemptions(shard), new Map(many.map((id) => [id, used])))
    const { totals, differences, more } = await look(false)
    expect(totals).toEqual({ STATE_MISMATCH: 21_000, COUNTER_MISMATCH: 21_000 })
    expect([differences.length, more]).toEqual([1_000, 41_000])
  }, 20_000)

  test('a shard that does not serve', async () => {
    await world.redis.hset(keys.meta(shard), 'phase', 'recovering:somebody')
    const { differences, books } = await look(true)
    expect(differences).toMatchObject([
      { what: 'the shard does not serve', redis: { phase: 'recovering:somebody' } },
    ])
    expect(books[0]).toMatchObject({ codes: 0, digest_redis: '', digest_postgres: '' })
  })

  test('another book', async () => {
    await world.redis.hincrby(keys.users(shard, book), 'u0', 3)
    await world.redis.srem(keys.stock(shard, book), stock)
    await world.redis.hset(keys.coupons(shard), 'MADE-UP', await record(held[0]!))
    const { rows } = await sql('SELECT book_id FROM books WHERE book_id <> $1', book)
    expect((await look(true, rows[0].book_id)).differences).toEqual([])
    const { differences } = await look(true, book)
    expect(differences.map(({ class: of }) => of)).toEqual([
      ...['STATE_MISMATCH', 'UNDERSOLD', 'COUNTER_MISMATCH'],
    ])
    await expect(look(true, 'no-book')).rejects.toThrow('There is no book no-book.')
  })

  test('lists a thousand differences, of each class some, and counts the rest', async () => {
    const codes = Array.from({ length: 1_500 }, (_, c) => `MADE-UP-${c}`)
    await world.redis.sadd(keys.stock(shard, book), ...codes)
    await world.redis.hincrby(keys.users(shard, book), 'u0', 3)
    const { differences, more, totals } = await look(true)
    expect([differences.length, more]).toEqual([1_000, 501])
    expect(totals).toEqual({ STOCK_MISMATCH: 1_500, COUNTER_MISMATCH: 1 })
    expect(differences.at(-1)).toMatchObject({ class: 'COUNTER_MISMATCH', redis: 5, postgres: 2 })
  })
})

describe('reconcile: under load', () => {
  let busy: World
  beforeAll(async () => {
    busy = await openWorld({ shards: 2 })
  })
  afterAll(() => busy.close())

  /** Users of every verb as fast as they are answered; `stop` says what they were told, by status. */
  async function crowd(users: number, codes = 5_000) {
    const client = openClient(busy)
    const books = [
      await busy.makeBook({ max_redemptions: 2 }, codes),
      await busy.makeBook({ lock_policy: 'holder' }, codes),
      await busy.makeBook({ kind: 'counter', units: 100_000 }),
    ]
    const told: Record<number, number> = {}
    let over = false
    async function shop(user: string, trip: number): Promise<void> {
      const note = <R extends { status: number }>(reply: R) => {
        told[reply.status] = (told[reply.status] ?? 0) + 1
        return reply
      }
      const got = note(await client.assign(books[trip % books.length]!, user, { count: 2 }))
      const [first, second] = (got.body.coupons ?? []).map(({ code }: { code: string }) => code)
      if (!first) return
      const lock = note(await client.lock(first, user))
      if (trip % 3 === 0) note(await client.unlock(first, user))
      const lock_token = trip % 3 === 0 ? undefined : lock.body.lock_token
      const use = note(await client.redeem(first, user, { lock_token, durability: 'redis' }))
      if (trip % 2 === 0 && use.body.redemption_id)
        note(await client.rollback(use.body.redemption_id, { durability: 'redis' }))
      const back = trip % 10 === 0 ? client.void : client.release
      note(await back(second, { durability: 'redis' }))
      if (trip % 25 === 0) {
        const path = `books/${books[0]}/coupons?state=UNASSIGNED&limit=1`
        const { body } = await busy.call('GET', path, { as: busy.admin })
        if (body.data?.[0]) note(await client.void(body.data[0].code, { durability: 'redis' }))
      }
      if (trip % 20 === 0) note(await client.change(books[0]!, { max_redemptions: 2 + (trip % 3) }))
    }
    const all = Array.from({ length: users }, async (_, u) => {
      for (let trip = u; !over; trip++) await shop(`u${u % 7}`, trip)
    })
    return {
      books,
      told,
      async stop() {
        over = true
        await Promise.all(all)
      },
    }
  }
  const ops = () => ({ redis: busy.redis, database: busy.database })
  const compare = () => reconcile(ops(), { exact: false })

  test('there is no difference in any of twenty comparisons, and warm sees no half of a purchase', async () => {
    const { books, told, stop } = await crowd(2, 300)
    try {
      for (let round = 0; round < 20; round++) {
        const { differences } = await compare()
        expect([round, differences]).toEqual([round, []])
        if (round % 4 > 0) continue
        const warm = await warmBook(ops(), books[0]!)
        const why = 'problem' in warm ? warm.problem : warm.why_not.join()
        expect([round, why]).toEqual([
          round,
          expect.stringMatching(/^$|^it is sold out, or empty$/),
        ])
      }
    } finally {
      await stop()
    }
    expect(told[200]).toBeGreaterThan(100)
  }, 60_000)

  test('there is never a difference, while codes are brought in as well', async () => {
    const { books: sold, told, stop } = await crowd(16)
    let loading = true
    const loads = (async () => {
      const body = { count: 300 }
      for (let book = 0; loading; book = 1 - book)
        await busy.call('POST', `books/${sold[book]}/codes/generate`, { as: busy.admin, body })
    })()
    try {
      for (let round = 0; round < 3; round++) {
        const { differences, books } = await compare()
        expect(differences).toEqual([])
        expect(books.length).toBeGreaterThanOrEqual(3)
        for (const its of books) expect(its.digest_redis).toBe(its.digest_postgres)
      }
    } finally {
      loading = false
      await Promise.all([loads, stop()])
    }
    expect(told[200]).toBeGreaterThan(500)
  }, 60_000)

  test('nor while a shard is made anew', async () => {
    const { stop } = await crowd(8)
    try {
      for (const shard of [0, 1]) {
        const before = compare()
        await busy.database.query(
          "UPDATE shards SET suspect = 'damaged: a test' WHERE shard = $1",
          [shard],
        )
        for (const { differences } of await Promise.all([before, compare()]))
          expect(differences).toEqual([])
      }
    } finally {
      await stop()
    }
    const { rows } = await busy.database.query("SELECT FROM recoveries WHERE cause ~ 'a test'")
    expect(rows.length).toBeGreaterThanOrEqual(2)
  }, 60_000)

  test('each damage is named with both sides, and nothing else', async () => {
    // A worker has just compared the numbers of every book: in ten seconds it would find out itself.
    await busy.stopWorker()
    await busy.startWorker()
    await busy.ready()
    const { books, stop } = await crowd(8)
    try {
      const on = await placeOf(busy, books[0]!)
      const client = openClient(busy)
      const bystanders = ['row', 'record', 'counter', 'fact']
      const codes: string[] = []
      for (const user of bystanders)
        codes.push((await client.assign(on.book, user)).body.coupons[0].code)
      const [row, record, , fact] = codes as [string, string, string, string]
      await busy.level()
      const stock = (await busy.redis.srandmember(keys.stock(on.shard, on.book)))!
      const packed = (await busy.redis.hget(keys.coupons(on.shard), record))!
      await busy.redis
        .multi()
        .hset(keys.coupons(on.shard), record, packed.replace('\trecord\t', '\ttrudy\t'))
        .hincrby(keys.users(on.shard, on.book), 'counter', 3)
        .srem(keys.stock(on.shard, on.book), stock)
        .hincrby(keys.book(on.shard, on.book), 'left', -1)
        .exec()
      const sql = (text: string, code: string) => busy.database.query(text, [code])
      await sql("UPDATE coupons SET user_id = 'mallory' WHERE code = $1", row)
      await sql('DELETE FROM ledger WHERE code = $1 AND version = 1', fact)
      const { differences } = await compare()
      const expected = [
        {
          ...{ class: 'STATE_MISMATCH', code: row },
          what: 'coupons differs from Redis and the ledger',
          redis: { coupon: { user_id: 'row' } },
          postgres: { coupons: { user_id: 'mallory' }, ledger: { user_id: 'row' } },
        },
        {
          ...{ class: 'STATE_MISMATCH', code: record },
          what: 'Redis differs from coupons and the ledger',
          redis: { coupon: { user_id: 'trudy' } },
          postgres: { coupons: { user_id: 'record' }, ledger: { user_id: 'record' } },
        },
        {
          ...{ class: 'UNDERSOLD', code: stock },
          ...sides({ in_stock: false, coupon: null }, { loaded: true, coupons: null }),
        },
        {
          ...{ class: 'COUNTER_MISMATCH', what: 'coupons that user counter holds' },
          ...sides(4, 1),
        },
        {
          ...{ class: 'SEQUENCE_GAP', code: fact },
          what: matching(/^the ledger lacks a fact: nothing between .* and /),
          redis: { coupon: { user_id: 'fact' } },
          postgres: { coupons: { user_id: 'fact' }, ledger: null },
        },
      ]
      expect(differences).toHaveLength(expected.length)
      for (const one of expected)
        expect(differences).toContainEqual(
          expect.objectContaining(deep({ ...one, shard: on.shard, book_id: on.book })),
        )
    } finally {
      await stop()
    }
  }, 60_000)
})

describe('stampede reconcile', () => {
  const main = fileURLToPath(new URL('../src/cli/main.ts', import.meta.url))
  const begin = (args: string[], REDIS_URL = world.settings.REDIS_URL) => {
    const { DATABASE_URL } = world.settings
    const env = environmentOf({ REDIS_URL, DATABASE_URL }) as NodeJS.ProcessEnv
    return spawn(process.execPath, [main, 'reconcile', ...args], { env })
  }
  /** Redis has an entry that the ledger has not. */
  async function runAhead() {
    for (const field of ['n', 'facts']) await world.redis.hincrby(keys.meta(shard), field, 1)
  }
  async function stopIntake() {
    await sql("UPDATE shards SET intake = 'stopped'")
    await world.redis.hset(keys.meta(shard), 'intake', 'stopped')
  }
  async function stampede(...args: string[]) {
    const child = begin(args)
    let out = ''
    let err = ''
    child.stdout.on('data', (some) => (out += some))
    child.stderr.on('data', (some) => (err += some))
    const [code] = await once(child, 'close')
    return { code, out, err }
  }

  test('says that both stores are equal, and ends with 0', async () => {
    await stopIntake()
    for (const args of [[], ['--exact'], ['--book', book]]) {
      const { code, out, err } = await stampede(...args)
      expect([code, err]).toEqual([0, ''])
      const books = args.includes('--book') ? '1 book, 32 codes, 10' : '2 books, 35 codes, 12'
      expect(out).toMatch(new RegExp(`^2\\S+Z equal: ${books} coupons, \\d+\\.\\d s\n$`))
    }
  })

  test('lists differences by class with both sides, fifty at most, and ends with 3', async () => {
    await stopIntake()
    await sql("UPDATE coupons SET user_id = 'mallory' WHERE code = $1", held[0])
    const codes = Array.from({ length: 60 }, (_, c) => `MADE-UP-${c}`)
    await world.redis.sadd(keys.stock(shard, book), ...codes)
    const { code, out } = await stampede('--exact')
    expect(code).toBe(3)
    const lines = out.trimEnd().split('\n')
    expect(lines[0]).toMatch(/ different: 2 books/)
    expect(lines[2]).toBe('STATE_MISMATCH (1)')
    expect(lines[3]).toBe(
      `  shard 0  book ${book}  CODE-00  coupons differs from Redis and the ledger`,
    )
    expect(lines[4]).toMatch(/^ {4}redis \{.*"user_id":"u0".*\} {2}postgres \{.*mallory.*u0.*\}$/)
    expect(lines[6]).toBe('STOCK_MISMATCH (60)')
    expect(lines.filter((line) => line.startsWith('  shard'))).toHaveLength(50)
    expect(lines.at(-1)).toBe('11 more: --json lists a thousand')
    const { code: again, out: json } = await stampede('--exact', '--json')
    expect([again, JSON.parse(json)]).toMatchObject([3, { verdict: 'different', exact: true }])
    expect(JSON.parse(json).differences).toHaveLength(61)
  })

  test('refuses --exact while something may be written, and ends with 1', async () => {
    const open = await stampede('--exact')
    expect([open.code, open.out]).toEqual([1, ''])
    expect(open.err).toMatch(/stand still .* and intake is open: drain, or pause --intake, and ask/)
    await runAhead()
    await stopIntake()
    const ahead = await stampede('--exact')
    expect([ahead.code, ahead.err]).toEqual([
      ...[1, expect.stringMatching(/ and shard 0: 1 facts wait for the ledger: drain, /)],
    ])
  })

  test('ends with 4 where the ledger does not follow', async () => {
    await runAhead()
    await sql("UPDATE shards SET flush = 'paused'")
    const { code, out, err } = await stampede()
    expect([code, out]).toEqual([4, ''])
    expect(err).toMatch(/^shard 0: Redis is at entry .* its flush is paused\n$/)
  })

  test('goes on comparing with --watch, whatever is away meanwhile', async () => {
    const wire = await makeWire(world.settings.REDIS_URL)
    const child = begin(['--watch', '1'], wire.url)
    let [out, err] = ['', '']
    child.stdout.on('data', (some) => (out += some))
    child.stderr.on('data', (some) => (err += some))
    await until(() => / equal: /.test(out), 'it has looked once')
    wire.set('cut')
    await until(() => /^Redis does not answer: /m.test(err), 'it says that Redis is away')
    wire.set('up')
    world.wire.set('cut')
    await until(() => /^PostgreSQL does not answer: /m.test(err), 'it says that PostgreSQL is away')
    world.wire.set('up')
    await world.redis.hincrby(keys.users(shard, book), 'u0', 3)
    await until(() => / different: .*\n\nCOUNTER_MISMATCH/s.test(out), 'it has looked again')
    child.kill()
    await once(child, 'close')
    wire.close()
  })

  test('refuses what it cannot read with 2', async () => {
    for (const args of [
      ['--book', 'x'],
      ['--watch', '0'],
    ])
      expect((await stampede(...args)).code).toBe(2)
    expect((await stampede('--help')).out).toMatch(
      /^Example:\n {2}\$ npm run stampede -- reconcile/,
    )
  })
})

/** Objects in it need only hold what is expected of them. */
function deep(value: Record<string, unknown>): Record<string, unknown> {
  const isPlain = (part: unknown): part is Record<string, unknown> =>
    Object.prototype.toString.call(part) === '[object Object]' &&
    Object.getPrototypeOf(part) === Object.prototype
  return Object.fromEntries(
    Object.entries(value).map(([name, part]) => [
      name,
      isPlain(part) ? expect.objectContaining(deep(part)) : part,
    ]),
  )
}
