import { setTimeout as sleep } from 'node:timers/promises'
import { failpoint } from '../failpoint.ts'
import { audit } from '../ledger/audit.ts'
import { transaction } from '../ledger/database.ts'
import { keys } from '../store/keys.ts'
import type { By } from './control.ts'
import type { Ops } from './ops.ts'

/** A recovery rebuilds where its cause begins so: see src/recovery/recover.ts. */
const cause = 'damaged: an operator asked for a rebuild'
const pollMs = 100

/** What a rebuild of a shard would make anew in Redis, and what Redis has that the ledger lacks. */
export type Plan = {
  shard: number
  phase: string
  books: number
  codes: number
  coupons: number
  /** Facts in the journal that PostgreSQL does not have yet. */
  lag: number
}

/** The shards that are to be made anew; a book's is the shard it lives on, because that is what recovers. */
export async function planRebuild(
  { redis, database }: Ops,
  which: { shard?: number; book?: string },
): Promise<Plan[]> {
  const { rows } = await database.query<Omit<Plan, 'lag'>>(
    `SELECT s.shard, s.phase, count(b.book_id)::int AS books,
       coalesce(sum(b.total_code_count), 0)::bigint AS codes,
       coalesce(sum(c.held), 0)::bigint AS coupons
     FROM shards s LEFT JOIN books b USING (shard) LEFT JOIN book_counters c USING (book_id)
     WHERE ($1::int IS NULL OR s.shard = $1)
       AND ($2::uuid IS NULL OR s.shard = (SELECT shard FROM books WHERE book_id = $2))
     GROUP BY s.shard, s.phase ORDER BY s.shard`,
    [which.shard ?? null, which.book ?? null],
  )
  return Promise.all(
    rows.map(async (row) => {
      const [facts, flushed] = await redis.hmget(keys.meta(row.shard), 'facts', 'flushed')
      return { ...row, lag: Number(facts ?? 0) - Number(flushed ?? 0) }
    }),
  )
}

export type Rebuilt = {
  shard: number
  epoch: number
  codes: number
  coupons: number
  seconds: number
}

/**
 * Asks workers to make these shards anew from PostgreSQL, through a recovery: under a new epoch, what
 * the journal still holds first. Answers in which epoch each of them was.
 */
export async function requestRebuild(
  { database }: Ops,
  shards: readonly number[],
  by: By,
): Promise<{ shard: number; epoch: number }[]> {
  return transaction(database, async (tx) => {
    const { rows } = await tx.query<{ shard: number; epoch: number }>(
      `UPDATE shards SET suspect = $2 WHERE shard = ANY ($1) RETURNING shard, epoch`,
      [shards, cause],
    )
    for (const { shard } of rows)
      await audit(tx, { ...by, action: 'rebuild', target: `shard:${shard}` })
    return rows
  })
}

export type Wanted = {
  book?: string
  shard?: number
  /** Go on although Redis holds facts that the ledger lacks: a recovery flushes them first. */
  flushFirst: boolean
  timeoutMs: number
  by: By
  onProgress?: (done: number, total: number) => void
}

/** `late`: shards that were asked for and are not rebuilt yet. */
export type Rebuilding = { plan: Plan[]; rebuilt: Rebuilt[]; late: number[] }

/**
 * Has workers make a book's shard, one shard or all of them anew, and waits until they have. A string
 * says why nothing was asked for.
 */
export async function rebuild(ops: Ops, wanted: Wanted): Promise<Rebuilding | string> {
  const plan = await planRebuild(ops, wanted)
  if (plan.length === 0) return 'There is no such shard or book.'
  const lag = plan.reduce((sum, one) => sum + one.lag, 0)
  if (lag > 0 && !wanted.flushFirst)
    return (
      `Redis holds ${lag} facts that the ledger lacks. Drain first, or have them flushed first: ` +
      '--flush-first, or flush_first over HTTP.'
    )
  const before = await requestRebuild(
    ops,
    plan.map(({ shard }) => shard),
    wanted.by,
  )
  failpoint('rebuild.after-request')
  for (const until = performance.now() + wanted.timeoutMs; ; await sleep(pollMs)) {
    const rebuilt = await rebuiltSince(ops, before)
    wanted.onProgress?.(rebuilt.length, before.length)
    const done = new Set(rebuilt.map(({ shard }) => shard))
    const late = before.map(({ shard }) => shard).filter((shard) => !done.has(shard))
    if (late.length === 0 || performance.now() > until) return { plan, rebuilt, late }
  }
}

/**
 * The first rebuild of each shard after its epoch. Whatever its cause: where the worker that began it
 * dies, another one takes over, and calls that the cause.
 */
async function rebuiltSince(
  { database }: Ops,
  before: readonly { shard: number; epoch: number }[],
): Promise<Rebuilt[]> {
  const { rows } = await database.query<Rebuilt>(
    `SELECT DISTINCT ON (r.shard) r.shard, r.epoch, r.codes, r.coupons,
       extract(epoch FROM r.ended_at - r.begun_at)::float8 AS seconds
     FROM recoveries r JOIN unnest($1::int[], $2::bigint[]) AS b(shard, epoch) USING (shard)
     WHERE r.epoch > b.epoch AND r.ended_at IS NOT NULL AND r.rebuilt
     ORDER BY r.shard, r.epoch`,
    [before.map(({ shard }) => shard), before.map(({ epoch }) => epoch)],
  )
  return rows
}
