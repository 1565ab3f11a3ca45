import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { type Difference, reconcile } from '../src/ops/reconcile/reconcile.ts'
import { keys } from '../src/store/keys.ts'
import { flusher, flushOnce } from '../workers/flush.ts'
import { openClient } from './client.ts'
import { openWorld, type World } from './world.ts'

export let world: World
export const sql = (text: string, ...values: unknown[]) => world.database.query(text, values)
export const look = (exact: boolean, book?: string) =>
  reconcile({ redis: world.redis, database: world.database }, { exact, ...(book && { book }) })

/** A sale of every verb on one shard; what it came to is remembered by name. */
export const shard = 0
export let book: string
export let held: string[]
export let locked: string
export let used: string
export let redemption: string
export let stock: string
/** Void ones: taken from stock, and from u0. */
export let voidStock: string
export let voidHeld: string

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

/** Opens it for the tests of one file, each of which finds it as it was. */
export function aSale(): void {
  beforeAll(async () => {
    world = await openWorld({ shards: 1 })
    await sale()
    await world.stopWorker()
    await save()
  })
  afterEach(() => restore())
  afterAll(() => world.close())
}

export const record = async (code: string) => (await world.redis.hget(keys.coupons(shard), code))!
export const change = async (code: string, field: number, value: string) => {
  const fields = (await record(code)).split('\t')
  fields[field] = value
  await world.redis.hset(keys.coupons(shard), code, fields.join('\t'))
}
export const place = async (code: string, version: number) => {
  const { rows } = await sql('SELECT * FROM ledger WHERE code = $1 AND version = $2', code, version)
  return rows[0] as { epoch: number; n: number; i: number }
}
export const forget = (code: string, version: number) =>
  sql('DELETE FROM ledger WHERE code = $1 AND version = $2', code, version)

/** An entry as a script would write it, but with a fact of our choice; then it is flushed. */
export async function forge(kind: string, state: string): Promise<number> {
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
export const copy = (code: string, version: number, changes: Record<string, string>) => {
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
export type Row = [what: string, harm: () => Promise<unknown>, expected: () => Expected[]]

export const sides = (redis: unknown, postgres: unknown) => ({ redis, postgres })
export const matching = (text: RegExp) => expect.stringMatching(text) as unknown as string

/** Each of these harms is named, with both sides, and nothing else is. */
export function names(rows: Row[]): void {
  describe('reconcile', () => {
    test.each(rows)('names it where %s', async (...row) => {
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
}

/** Objects in it need only hold what is expected of them. */
export function deep(value: Record<string, unknown>): Record<string, unknown> {
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
