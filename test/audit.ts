import { afterAll, afterEach, beforeAll, beforeEach } from 'vitest'
import { entryHash } from '../src/journal/entry.ts'
import { counts } from '../src/ledger/aside.ts'
import { type ShardRow, shardRow } from '../src/ledger/shards.ts'
import { keys } from '../src/store/keys.ts'
import { unpackRecord } from '../src/store/record.ts'
import { type Act, type Client, openClient } from './client.ts'
import {
  auditHistory,
  Findings,
  type Held,
  heldColumns,
  heldOf,
  ms,
  readFacts,
  readStory,
} from './story.ts'
import { openWorld, type World } from './world.ts'

/**
 * A world for the tests of one file. Each test gets a fresh client, and every book that it made is
 * audited when it is over, against all that its client was told.
 */
export function auditedWorld(options: Parameters<typeof openWorld>[0] = {}) {
  let world: World
  let client: Client
  let books: string[] = []
  beforeAll(async () => {
    world = await openWorld(options)
  })
  afterAll(() => world.close())
  beforeEach(() => {
    client = openClient(world)
    books = []
  })
  afterEach(async () => {
    for (const book of books) await audit(world, { book, history: client.history })
  })
  return {
    world: () => world,
    client: () => client,
    makeBook: async (...of: Parameters<World['makeBook']>) => {
      const book = await world.makeBook(...of)
      books.push(book)
      return book
    },
  }
}

/**
 * Compares, once the ledger is level, what Redis, PostgreSQL and the clients of a run know of a
 * book. `history` must hold every call of a verb on it. Throws with all that differs.
 */
export async function audit(
  world: World,
  { book, history }: { book: string; history?: readonly Act[] },
): Promise<void> {
  await world.level()
  const findings = new Findings()
  const { rows } = await world.database.query(
    'SELECT shard, kind, total_code_count AS total FROM books WHERE book_id = $1',
    [book],
  )
  const its = { book, ...(rows[0] as { shard: number; kind: string; total: number }) }
  const row = await shardRow(world.database, its.shard)
  const facts = await readFacts(world, book)
  await auditShard(world, row, findings)
  const story = readStory(facts, findings)
  const held = await readHeld(world, its, findings)
  const table = await readTable(world, book)
  findings.same('the coupon in Redis', held, table)
  findings.same('the row in coupons, against the story in the ledger,', table, story)
  await auditStock(world, its, held, findings)
  await auditCounters(world, its, held, findings)
  await auditRedemptions(world, its, held, findings)
  if (history) auditHistory(book, facts, history, findings)
  const { found } = findings
  if (found.length > 0)
    throw new Error(
      `audit of book ${book}: ${found.length} differences\n${found.slice(0, 20).join('\n')}`,
    )
}

/** Facts without a hole, nothing parked, and all who count them agree on how many there are. */
async function auditShard(world: World, row: ShardRow, findings: Findings): Promise<void> {
  const { shard } = row
  const ask = async (sql: string) => (await world.database.query(sql)).rows
  findings.equal('parked facts', await ask('SELECT * FROM parked_facts'), [])
  findings.equal(
    'epochs with holes in n',
    await ask(`SELECT shard, epoch, count(DISTINCT n), max(n) FROM ledger GROUP BY 1, 2
      HAVING min(n) <> 1 OR max(n) <> count(DISTINCT n)`),
    [],
  )
  findings.equal(
    'entries with holes in i',
    await ask(`SELECT shard, epoch, n, count(*), max(i) FROM ledger GROUP BY 1, 2, 3
      HAVING min(i) <> 0 OR max(i) <> count(*) - 1`),
    [],
  )
  const meta = await world.redis.hgetall(keys.meta(shard))
  const [{ count }] = await ask(`SELECT count(*) FROM ledger WHERE shard = ${shard}`)
  const told = { facts: Number(meta.facts), flushed: Number(meta.flushed), row: row.facts }
  findings.equal('facts of the shard', told, { facts: count, flushed: count, row: count })
  const { checkpoint } = row
  const n = { n: Number(meta.n), watermark: Number(meta.watermark) }
  findings.equal('entries of the shard', n, { n: checkpoint, watermark: checkpoint })
  const kept = await world.redis.xlen(keys.journal(shard))
  findings.equal('entries kept in the stream', Number(meta.kept), kept)
  if (checkpoint === 0) return // nothing was written in this epoch
  const [last] = await world.redis.xrevrange(keys.journal(shard), '+', '-', 'COUNT', 1)
  findings.equal('last entry of the stream', last?.[0], `${row.checkpointEpoch}-${checkpoint}`)
  findings.equal('its hash', last && entryHash(...last), row.checkpointHash)
}

async function readTable(world: World, book: string): Promise<Map<string, Held>> {
  const { rows } = await world.database.query<Held & { code: string }>(
    `SELECT ${heldColumns}, ${ms('assigned_at')} AS "assignedAt", ${ms('updated_at')} AS "updatedAt"
     FROM coupons WHERE book_id = $1`,
    [book],
  )
  return new Map(rows.map((row) => [row.code, heldOf(row)]))
}

type Its = { book: string; shard: number; kind: string; total: number }

/** The book's records in Redis, each live lock with its guard and no other guard. */
async function readHeld(
  { redis }: World,
  { book, shard }: Its,
  findings: Findings,
): Promise<Map<string, Held>> {
  const held = new Map<string, Held>()
  const now = Number((await redis.time())[0]) * 1000
  for (const [code, packed] of Object.entries(await redis.hgetall(keys.coupons(shard)))) {
    const record = unpackRecord(packed.split('\t'))
    if (record.book !== book) continue
    held.set(code, heldOf({ ...record, token: record.lockToken }))
    const guard = keys.lock(shard, code)
    const ends = record.lockedUntil
    if (Math.abs(ends - now) < 2_000) continue // about to end: either is right
    const shown = [await redis.get(guard), ends > now ? await redis.pexpiretime(guard) : null]
    findings.equal(`guard of ${code}`, shown, ends > now ? [record.lockToken, ends] : [null, null])
  }
  return held
}

/** Every code that was loaded is in stock, held or void, and only one of these. */
async function auditStock(
  { redis, database }: World,
  { book, shard, kind, total }: Its,
  held: Map<string, Held>,
  findings: Findings,
): Promise<void> {
  const stock = await redis.smembers(keys.stock(shard, book))
  const left = Number(await redis.hget(keys.book(shard, book), 'left'))
  findings.equal(
    'in stock and held',
    stock.filter((code) => held.has(code)),
    [],
  )
  findings.equal('left + held', left + held.size, total)
  if (kind === 'counter') return findings.equal('stock of a counter book', stock, [])
  findings.equal('left', left, stock.length)
  const { rows } = await database.query<{ code: string; max: number | null }>(
    'SELECT code, max_redemptions AS max FROM codes WHERE book_id = $1 ORDER BY code',
    [book],
  )
  const known = [...stock, ...held.keys()].sort()
  findings.equal('codes in Redis', known, rows.map(({ code }) => code).sort())
  const own = rows.flatMap(({ code, max }) => (max === null ? [] : [[code, String(max)] as const]))
  const uses = await redis.hgetall(keys.uses(shard, book))
  findings.same('the own limit', new Map(Object.entries(uses)), new Map(own))
}

async function auditCounters(
  { redis, database }: World,
  { book, shard }: Its,
  held: Map<string, Held>,
  findings: Findings,
): Promise<void> {
  const perUser = new Map<string, number>()
  let redeemed = 0
  let gone = 0
  for (const { user, max, redemptions } of held.values()) {
    if (user === '') gone++
    else perUser.set(user, (perUser.get(user) ?? 0) + 1)
    if (max > 0 && redemptions >= max) redeemed++
  }
  const expected = { held: held.size - gone, redeemed, void: gone }
  const inRedis = await redis.hmget(keys.book(shard, book), 'held', 'redeemed', 'void')
  findings.equal('counters in Redis', inRedis.map(Number), Object.values(expected))
  const { rows } = await database.query(
    'SELECT held, redeemed, void FROM book_counters WHERE book_id = $1',
    [book],
  )
  findings.equal('book_counters', rows[0] ?? { held: 0, redeemed: 0, void: 0 }, expected)
  const minutes = await database.query(
    `SELECT minute, kind, sum(count)::bigint AS count FROM book_minutes
     WHERE book_id = $1 GROUP BY 1, 2 ORDER BY 1, 2`,
    [book],
  )
  const facts = await database.query(
    `SELECT date_trunc('minute', at) AS minute, kind, count(*) FROM ledger l
     WHERE book_id = $1 AND ${counts('l')} GROUP BY 1, 2 ORDER BY 1, 2`,
    [book],
  )
  findings.equal('book_minutes', minutes.rows, facts.rows)
  const { '': sentinel, ...users } = await redis.hgetall(keys.users(shard, book))
  findings.equal('there is a sentinel of users', Boolean(sentinel), true)
  const own = Object.entries(users).map(([user, count]) => [user, Number(count)] as const)
  findings.same('coupons', new Map(own), perUser)
}

/** Every redemption stands in both stores, and those that count are as many as the coupon says. */
async function auditRedemptions(
  { redis, database }: World,
  { book, shard }: Its,
  held: Map<string, Held>,
  findings: Findings,
): Promise<void> {
  const { rows } = await database.query<{ id: string; code: string; undone: boolean }>(
    `SELECT redemption_id AS id, code, rolled_back_at IS NOT NULL AS undone
     FROM redemptions WHERE book_id = $1`,
    [book],
  )
  const inRedis = await redis.hgetall(keys.redemptions(shard))
  const codes = new Set(rows.map(({ code }) => code))
  for (const [id, of] of Object.entries(inRedis))
    if (!codes.has(of.trimStart()) && !held.has(of.trimStart())) delete inRedis[id]
  const expected = rows.map(({ id, code, undone }) => [id, undone ? `\t${code}` : code] as const)
  findings.same('the redemption', new Map(Object.entries(inRedis)), new Map(expected))
  const uses = new Map([...held.keys()].map((code) => [code, 0]))
  for (const { code, undone } of rows)
    if (!undone) uses.set(code, (uses.get(code) ?? Number.NaN) + 1)
  const told = [...held].map(([code, { redemptions }]) => [code, redemptions] as const)
  findings.same('the redemptions', uses, new Map(told))
}
