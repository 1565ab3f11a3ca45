import { keys } from '../store/keys.ts'
import { type CouponRecord, isVoid, unpackRecord } from '../store/record.ts'
import type { Ops } from './ops.ts'

/** One fact of a coupon, as the ledger holds it. Times are Redis' own. */
export type TimelineFact = {
  at: Date
  entry: string
  kind: string
  user_id: string
  version: number
  redemptions: number
  actor: string
  request_id: string
  /** The span that it belongs to, if its request had one. */
  traceparent: string | null
}

export type Timeline = {
  code: string
  book_id: string
  facts: TimelineFact[]
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

/** Everything that is known of a code, by both stores; undefined: neither has ever heard of it. */
export async function timeline(
  { redis, database }: Ops,
  code: string,
): Promise<Timeline | undefined> {
  const facts = await database.query<TimelineFact & { book_id: string }>(
    `SELECT at, shard || '/' || epoch || '-' || n || '/' || i AS entry, kind, book_id, user_id, version,
       redemptions, context->>'actor' AS actor, context->>'request_id' AS request_id,
       context->>'traceparent' AS traceparent
     FROM ledger WHERE code = $1 ORDER BY epoch, n, i`,
    [code],
  )
  const known = await database.query<{ book_id: string; shard: number }>(
    `SELECT b.book_id, b.shard FROM books b
     WHERE b.book_id = coalesce((SELECT book_id FROM codes WHERE code = $1), $2::uuid)`,
    [code, facts.rows[0]?.book_id ?? null],
  )
  const home = known.rows[0]
  if (!home) return undefined
  const [coupon, parked, packed, stocked, guard] = await Promise.all([
    database.query('SELECT * FROM coupons WHERE code = $1', [code]),
    database.query<{ name: string; reason: string }>(
      `SELECT shard || '/' || epoch || '-' || n || '/' || i AS name, reason FROM parked_facts
       WHERE fact->'fact'->>'code' = $1`,
      [code],
    ),
    redis.hget(keys.coupons(home.shard), code),
    redis.sismember(keys.stock(home.shard, home.book_id), code),
    redis.exists(keys.lock(home.shard, code)),
  ])
  const gone = packed !== null && isVoid(packed)
  return {
    ...{ code, book_id: home.book_id },
    facts: facts.rows.map(({ book_id: _, ...fact }) => fact),
    parked: parked.rows,
    redis: {
      record: packed === null || gone ? null : withoutToken(unpackRecord(packed.split('\t'))),
      ...{ in_stock: stocked === 1, void: gone, locked_by_guard: guard === 1 },
    },
    postgres: coupon.rows[0] ? { ...coupon.rows[0], lock_token: undefined } : null,
  }
}

/** A lock's token is its holder's alone. */
const withoutToken = (record: CouponRecord) => ({ ...record, lockToken: '' })
