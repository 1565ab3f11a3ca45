import type { Redis } from 'ioredis'
import type { FactKind } from '../../src/journal/entry.ts'
import type { Database } from '../../src/ledger/database.ts'
import { keys } from '../../src/store/keys.ts'
import { unpackRecord } from '../../src/store/record.ts'

/** A coupon as any of the three tell of it: Redis, the `coupons` table, the ledger read as a story. */
export type Held = {
  user: string
  version: number
  redemptions: number
  max: number
  token: string
  /** 0: not locked. */
  lockedUntil: number
}
export type LedgerFact = Held & {
  shard: number
  epoch: number
  n: number
  i: number
  op: string
  kind: FactKind
  book: string
  code: string
  at: number
  redemption: string | null
  request: string
}
export type SeenBook = {
  book: string
  shard: number
  kind: 'codes' | 'counter'
  total: number
  maxHeld: number | null
  maxPerUser: number | null
  lockPolicy: 'strict' | 'holder' | 'required'
  counters: { held: number; redeemed: number; void: number }
  codes: string[]
  /** As Redis has them. */
  stock: string[]
  left: number
  held: number
  redeemed: number
  void: number
  users: Map<string, number>
}
export type SeenRedemption = { id: string; code: string; book: string; undone: boolean }
export type SeenShard = {
  shard: number
  phase: string
  epoch: number
  checkpoint: number
  facts: number
  meta: {
    epoch: number
    phase: string
    n: number
    watermark: number
    facts: number
    flushed: number
  }
  /** Guards of locks there are: code -> token. */
  guards: Map<string, string>
}
export type SeenRecovery = { shard: number; epoch: number; begun: number; ended: number | null }

/** Everything that both stores say, as plain data: the checker asks nobody else. */
export type Seen = {
  now: number
  books: SeenBook[]
  shards: SeenShard[]
  ledger: LedgerFact[]
  recoveries: SeenRecovery[]
  parked: { shard: number; epoch: number; n: number; i: number; reason: string }[]
  /** The `coupons` table, and the records in Redis. */
  table: Map<string, Held & { book: string }>
  memory: Map<string, Held & { book: string }>
  redemptionTable: SeenRedemption[]
  /** id -> code, a tab before it once rolled back. */
  redemptionMemory: Map<string, string>
}

/** A void code as all three tell of it: it is of a book, and nobody's. Redis keeps no more of it. */
export const nobodys: Held = {
  ...{ user: '', version: 0, redemptions: 0, max: 0, token: '', lockedUntil: 0 },
}

const ms = (column: string) => `round(extract(epoch FROM ${column}) * 1000)::float`
const held = `user_id AS "user", version, redemptions, max_redemptions AS max,
  coalesce(lock_token, '') AS token, coalesce(${ms('locked_until')}, 0) AS "lockedUntil"`

/** Reads both stores whole. Nothing may be under way, or they are read at different moments. */
export async function observe(redis: Redis, database: Database): Promise<Seen> {
  const all = async <T extends object>(sql: string) => (await database.query<T>(sql)).rows
  const [seconds] = await redis.time()
  const ledger = await all<LedgerFact>(
    `SELECT shard, epoch, n, i, op, kind, book_id AS book, code, ${held}, ${ms('at')} AS at,
       redemption_id AS redemption, coalesce(context->>'request_id', '') AS request
     FROM ledger ORDER BY shard, epoch, n, i`,
  )
  const rows = await all<Held & { code: string; book: string }>(
    `SELECT code, book_id AS book, ${held} FROM coupons`,
  )
  const seen: Seen = {
    now: Number(seconds) * 1000,
    books: [],
    shards: [],
    ledger,
    recoveries: await all(
      `SELECT shard, epoch, ${ms('begun_at')} AS begun, ${ms('ended_at')} AS ended
       FROM recoveries ORDER BY shard, epoch`,
    ),
    parked: await all('SELECT shard, epoch, n, i, reason FROM parked_facts'),
    table: new Map(
      rows.map(({ code, ...coupon }) => [
        code,
        coupon.user === '' ? { book: coupon.book, ...nobodys } : coupon,
      ]),
    ),
    memory: new Map(),
    redemptionTable: await all(
      `SELECT redemption_id AS id, code, book_id AS book, rolled_back_at IS NOT NULL AS undone
       FROM redemptions`,
    ),
    redemptionMemory: new Map(),
  }
  const shards = await all<Omit<SeenShard, 'meta' | 'guards'>>(
    'SELECT shard, phase, epoch, checkpoint, facts FROM shards ORDER BY shard',
  )
  for (const row of shards) seen.shards.push(await readShard(redis, row, seen))
  const books = await all<Omit<SeenBook, 'codes' | 'stock' | 'users' | 'left'>>(
    `SELECT book_id AS book, shard, kind, total_code_count AS total,
       max_assignments_per_user AS "maxHeld", max_redemptions_per_user AS "maxPerUser",
       lock_policy AS "lockPolicy", json_build_object('held', coalesce(c.held, 0),
       'redeemed', coalesce(c.redeemed, 0), 'void', coalesce(c.void, 0)) AS counters
     FROM books LEFT JOIN book_counters c USING (book_id) ORDER BY shard`,
  )
  for (const row of books) seen.books.push(await readBook(redis, database, row))
  return seen
}

async function readShard(
  redis: Redis,
  row: Omit<SeenShard, 'meta' | 'guards'>,
  seen: Seen,
): Promise<SeenShard> {
  const { shard } = row
  const { phase = '', ...meta } = await redis.hgetall(keys.meta(shard))
  const number = (name: string) => Number(meta[name] ?? Number.NaN)
  for (const [code, packed] of Object.entries(await redis.hgetall(keys.coupons(shard)))) {
    if (code === '') continue
    const { book, user, version, redemptions, max, lockToken, lockedUntil } = unpackRecord(
      packed.split('\t'),
    )
    const coupon = { user, version, redemptions, max, token: lockToken, lockedUntil }
    seen.memory.set(code, { book, ...(user === '' ? nobodys : coupon) })
  }
  const redemptions = await redis.hgetall(keys.redemptions(shard))
  for (const [id, code] of Object.entries(redemptions))
    if (id !== '') seen.redemptionMemory.set(id, code)
  const guards = new Map<string, string>()
  const prefix = keys.lock(shard, '')
  for await (const found of redis.scanStream({ match: `${prefix}*`, count: 5_000 }))
    for (const key of found as string[]) {
      const token = await redis.get(key)
      if (token) guards.set(key.slice(prefix.length), token)
    }
  return {
    ...row,
    meta: {
      phase,
      ...{ epoch: number('epoch'), n: number('n'), watermark: number('watermark') },
      ...{ facts: number('facts'), flushed: number('flushed') },
    },
    guards,
  }
}

async function readBook(
  redis: Redis,
  database: Database,
  row: Omit<SeenBook, 'codes' | 'stock' | 'users' | 'left'>,
): Promise<SeenBook> {
  const { book, shard } = row
  const { rows } = await database.query<{ codes: string | null }>(
    `SELECT string_agg(code, ' ') AS codes FROM codes WHERE book_id = $1`,
    [book],
  )
  const counters = await redis.hmget(keys.book(shard, book), 'left', 'held', 'redeemed', 'void')
  const [left, heldNow, redeemed, gone] = counters.map(Number) as [number, number, number, number]
  const { '': _, ...users } = await redis.hgetall(keys.users(shard, book))
  return {
    ...row,
    codes: rows[0]!.codes?.split(' ') ?? [],
    stock: await redis.smembers(keys.stock(shard, book)),
    ...{ left, held: heldNow, redeemed, void: gone },
    users: new Map(Object.entries(users).map(([user, count]) => [user, Number(count)])),
  }
}
