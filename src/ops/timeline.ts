import type { Redis } from 'ioredis'
import { prefixOf } from '../codes.ts'
import { type Context, decodeEntry, entryId } from '../journal/entry.ts'
import type { Database } from '../ledger/database.ts'
import { type ShardRow, shardRows } from '../ledger/shards.ts'
import { keys } from '../store/keys.ts'
import { type CouponRecord, isVoid, unpackRecord } from '../store/record.ts'
import type { Ops } from './ops.ts'

/** One fact of a coupon. */
export type TimelineFact = {
  /** When it was decided, by Redis' clock. */
  at: Date
  /** Else it stands in the journal alone: a flush has yet to carry it. */
  in_ledger: boolean
  /** When PostgreSQL got it, by its own clock; null too where that was before it was written down. */
  recorded_at: Date | null
  entry: string
  kind: string
  user_id: string
  version: number
  redemptions: number
  actor: string | null
  request_id: string | null
  /** The span that it belongs to, if its request had one. */
  traceparent: string | null
}

export type Timeline = {
  code: string
  book_id: string
  facts: TimelineFact[]
  /** More waits in the journal than is read here: between the ledger's facts and the others some may be missing. */
  journal_cut: boolean
  parked: { name: string; reason: string }[]
  /** Both present states, null where a store has none: in stock, void, or not known there. */
  redis: {
    record: CouponRecord | null
    in_stock: boolean
    void: boolean
    locked_by_guard: boolean
  }
  /** Its row in coupons; that of a void code is nobody's (user_id ''). */
  postgres: Record<string, unknown> | null
}

/** `known`: it was seen there; else only its prefix speaks for this book. */
type Home = { shard: number; book_id: string; known: boolean }

/** How many facts are read of the journal, beyond the ledger. */
const tailFacts = 10_000
const entriesPerPage = 50

/**
 * Everything that is known of a code; undefined: PostgreSQL has no such code, and Redis no such coupon.
 * The checkpoint is asked first, the journal next, the ledger last: what a flush carries meanwhile is
 * seen in one of them.
 */
export async function timeline(
  { redis, database }: Ops,
  code: string,
  most = tailFacts,
): Promise<Timeline | undefined> {
  const shards = await shardRows(database)
  const home =
    (await homeInRedis(redis, shards, code)) ?? (await homeInPostgres(database, shards, code))
  if (!home) return undefined
  const { shard, book_id } = home
  const tail = await journalTail(redis, shards.find((row) => row.shard === shard)!, code, most)
  const [facts, parked, coupon, packed, stocked, guard] = await Promise.all([
    ledgerFacts(database, code),
    database.query<{ name: string; reason: string }>(
      `SELECT shard || '/' || epoch || '-' || n || '/' || i AS name, reason FROM parked_facts
       WHERE fact->'fact'->>'code' = $1`,
      [code],
    ),
    database.query('SELECT * FROM coupons WHERE code = $1', [code]),
    redis.hget(keys.coupons(shard), code),
    redis.sismember(keys.stock(shard, book_id), code),
    redis.exists(keys.lock(shard, code)),
  ])
  const settled = new Set([...facts.map(({ entry }) => entry), ...parked.rows.map(nameOf)])
  const waiting = tail.facts.filter(({ entry }) => !settled.has(entry))
  const isKnown = home.known || facts.length + parked.rows.length + waiting.length > 0
  // Where the journal could not be read to its end, nobody can say that there never was such a code.
  if (!isKnown && !tail.cut) return undefined
  const gone = packed !== null && isVoid(packed)
  return {
    ...{ code, book_id, facts: [...facts, ...waiting] },
    ...{ journal_cut: tail.cut, parked: parked.rows },
    redis: {
      record: packed === null || gone ? null : withoutToken(unpackRecord(packed.split('\t'))),
      ...{ in_stock: stocked === 1, void: gone, locked_by_guard: guard === 1 },
    },
    postgres: coupon.rows[0] ? { ...coupon.rows[0], lock_token: undefined } : null,
  }
}

const nameOf = ({ name }: { name: string }) => name

/** A lock's token is its holder's alone. */
const withoutToken = (record: CouponRecord) => ({ ...record, lockToken: '' })

/** A counter book's code comes into being in Redis: PostgreSQL hears of it by its first flush. */
async function homeInRedis(
  redis: Redis,
  shards: ShardRow[],
  code: string,
): Promise<Home | undefined> {
  const packed = await Promise.all(shards.map(({ shard }) => redis.hget(keys.coupons(shard), code)))
  const found = packed.findIndex((record) => record?.includes('\t'))
  if (found < 0) return undefined
  const book_id = packed[found]!.slice(0, packed[found]!.indexOf('\t'))
  return { shard: shards[found]!.shard, book_id, known: true }
}

async function homeInPostgres(
  database: Database,
  shards: ShardRow[],
  code: string,
): Promise<Home | undefined> {
  const { rows } = await database.query<Home>(
    `SELECT shard, book_id, true AS known FROM books JOIN codes USING (book_id) WHERE code = $1
     UNION ALL (SELECT shard, book_id, true FROM ledger WHERE code = $1 LIMIT 1)
     UNION ALL SELECT shard, book_id, false FROM books WHERE code_prefix = $2`,
    [code, prefixOf(code)],
  )
  return rows.find((row) => shards.some(({ shard }) => shard === row.shard))
}

async function ledgerFacts(database: Database, code: string): Promise<TimelineFact[]> {
  const { rows } = await database.query<TimelineFact>(
    `SELECT at, true AS in_ledger, recorded_at, shard || '/' || epoch || '-' || n || '/' || i AS entry,
       kind, user_id, version, redemptions, context->>'actor' AS actor,
       context->>'request_id' AS request_id, context->>'traceparent' AS traceparent
     FROM ledger WHERE code = $1 ORDER BY epoch, n, i`,
    [code],
  )
  return rows
}

/** The facts of a code that stand in the journal beyond the checkpoint: of the newest ones, if they are too many. */
async function journalTail(
  redis: Redis,
  { shard, checkpointEpoch, checkpoint }: ShardRow,
  code: string,
  most: number,
): Promise<{ facts: TimelineFact[]; cut: boolean }> {
  const beyond = `(${entryId({ epoch: checkpointEpoch, n: checkpoint })}`
  const facts: TimelineFact[] = []
  const count = Math.min(entriesPerPage, most)
  let end = '+'
  for (let read = 0; ; ) {
    const page = await redis.xrevrange(keys.journal(shard), end, beyond, 'COUNT', count)
    if (page.length === 0 || read >= most) return { facts, cut: page.length > 0 }
    for (const [id, fields] of page) {
      const entry = decodeEntry(id, fields)
      read += entry.facts.length
      for (const { i, user, context, ...fact } of entry.facts.toReversed())
        if (fact.code === code)
          facts.unshift({
            ...{ at: new Date(entry.at), in_ledger: false, recorded_at: null },
            ...{ entry: `${shard}/${id}/${i}`, kind: entry.kind, user_id: user },
            ...{ version: fact.version, redemptions: fact.redemptions, ...whoAsked(context) },
          })
    }
    end = `(${page.at(-1)![0]}`
  }
}

/** A context that the ledger would not take is none that could be read here. */
function whoAsked(text: string): Pick<TimelineFact, 'actor' | 'request_id' | 'traceparent'> {
  try {
    const { actor, request_id, traceparent } = JSON.parse(text) as Context
    return { actor, request_id, traceparent: traceparent ?? null }
  } catch {
    return { actor: null, request_id: null, traceparent: null }
  }
}
