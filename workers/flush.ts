import { failpoint } from '../src/failpoint.ts'
import { entryId } from '../src/journal/entry.ts'
import { JournalForked } from '../src/journal/journal.ts'
import { apply } from '../src/ledger/apply.ts'
import type { Database } from '../src/ledger/database.ts'
import { entryBefore, Overtaken, type ShardRow, shardRow } from '../src/ledger/shards.ts'
import { readBatch } from '../src/recovery/batch.ts'
import { behind, isBehind } from '../src/recovery/judge.ts'
import { keys } from '../src/store/keys.ts'
import type { Place } from '../src/store/place.ts'
import { announce } from '../src/store/watermark.ts'
import { Retention } from './retention.ts'

/** Facts that one transaction should carry: larger ones cost less, smaller ones are sooner there. */
const factsWanted = 4_000
const entriesMax = 2_000

/** What a flusher remembers of a shard between two flushes; losing it costs nothing but speed. */
export type Flusher = {
  place: Place
  database: Database
  shard: number
  factsPerEntry: number
  retention: Retention
  /** Redis is nearly full: only what PostgreSQL has yet to get may stay in the journal. */
  tight: () => boolean
}

export function flusher(
  place: Place,
  database: Database,
  shard: number,
  tight = () => false,
): Flusher {
  return { place, database, shard, factsPerEntry: 1, retention: new Retention(), tight }
}

/** `paused`: an operator holds the flush. */
export type Flushed = { facts: number; parked: number; more: boolean; paused?: true }

/**
 * Moves one batch of a shard's journal into the ledger; says how many facts it had and whether more
 * are waiting. Killed on any line, the next call does the same work again and the ledger ends the
 * same: rows and checkpoint commit together, the announcement and the trim follow the commit.
 * Throws JournalForked when Redis is not the one the ledger knows; Overtaken is nobody's loss.
 */
export async function flushOnce(flusher: Flusher): Promise<Flushed> {
  const { place, database, shard } = flusher
  // Asked before PostgreSQL, which then is ahead of it, unless it was restored from an old backup. To
  // flush the journal into that one would hide what else it lacks.
  const known = await place.redis.hmget(keys.meta(shard), 'epoch', 'phase', 'n', 'watermark')
  const row = await shardRow(database, shard)
  if (row.phase !== 'active') return { facts: 0, parked: 0, more: false }
  if (row.flush === 'paused') return { facts: 0, parked: 0, more: false, paused: true }
  const [epoch, last, watermark] = [0, 2, 3].map((k) => Number(known[k])) as [
    number,
    number,
    number,
  ]
  const redis = { epoch, phase: known[1] ?? '', n: last, watermark }
  if (isBehind(row, redis)) throw new JournalForked(behind(row, redis))
  const count = Math.max(16, Math.min(entriesMax, Math.ceil(factsWanted / flusher.factsPerEntry)))
  const batch = await readBatch(place, row, count).catch(async (error) => {
    // Where Redis is nearly full, what another worker has just committed leaves the journal at once.
    const now = await shardRow(database, shard)
    const moved = now.epoch !== row.epoch || now.checkpoint !== row.checkpoint
    if (error instanceof JournalForked && moved) return 'overtaken' as const
    throw error
  })
  if (batch === 'overtaken') return { facts: 0, parked: 0, more: true }
  if (!batch) {
    await announceAgain(flusher, row)
    return { facts: 0, parked: 0, more: false }
  }
  failpoint('flush.after-read')
  const { entries, facts, n, hash } = batch
  const parked = await apply(database, row, entries, hash).catch((error) => {
    // Another worker flushed the same entries first. Nothing of ours was committed.
    if (error instanceof Overtaken) return undefined
    throw error
  })
  if (parked === undefined) return { facts: 0, parked: 0, more: true }
  failpoint('flush.after-commit')
  flusher.factsPerEntry = facts / entries.length
  const kept = flusher.retention.add({ epoch: row.checkpointEpoch, n }, row.facts + facts)
  await announce(place, shard, {
    epoch: row.checkpointEpoch,
    watermark: n,
    facts: row.facts + facts,
    trimBelow: flusher.tight() ? entryId({ epoch: row.checkpointEpoch, n }) : kept,
  })
  failpoint('flush.after-announce')
  return { facts, parked, more: entries.length >= count }
}

/**
 * Lets go of what PostgreSQL has, but of its last `facts` facts, and never of the last entry, which proves
 * that both are of one mind: of all of earlier epochs where nothing was flushed in this one.
 */
export async function squeeze({ place, database, shard }: Flusher, facts: number): Promise<void> {
  const row = await shardRow(database, shard)
  if (row.phase !== 'active') return
  const last = { epoch: row.checkpointEpoch, n: row.checkpoint }
  const oldest = facts === 0 ? last : await entryBefore(database, shard, facts)
  if (!oldest) return
  failpoint('squeeze.after-read')
  await announce(place, shard, {
    epoch: row.checkpointEpoch,
    watermark: row.checkpoint,
    facts: row.facts,
    trimBelow: entryId(oldest),
  })
  failpoint('squeeze.after-trim')
}

/** A flusher that died after its commit announced nothing: Redis learns of it here. */
async function announceAgain({ place, shard }: Flusher, row: ShardRow): Promise<void> {
  const watermark = await place.redis.hget(keys.meta(shard), 'watermark')
  if (watermark === null || Number(watermark) >= row.checkpoint) return
  await announce(place, shard, {
    epoch: row.checkpointEpoch,
    watermark: row.checkpoint,
    facts: row.facts,
    trimBelow: '',
  })
}
