import type { Redis } from 'ioredis'
import { entryHash, parseEntryId } from '../journal/entry.ts'
import type { ShardRow } from '../ledger/shards.ts'
import { keys } from '../store/keys.ts'
import { isBehind } from './judge.ts'

/** What PostgreSQL, restored from a backup, lacks of a shard. */
export type Loss = {
  shard: number
  postgres: { epoch: number; entry: number; facts: number }
  redis: { epoch: number; entry: number; facts: number }
  /** Entries that the journal still has: they are committed again, and not lost. */
  retained: number
}

/** Compares a shard's row with what Redis knows to have been committed; undefined: nothing lacks. */
export async function lossOf(redis: Redis, row: ShardRow): Promise<Loss | undefined> {
  const fields = ['epoch', 'n', 'watermark', 'flushed', 'phase'] as const
  const meta = await redis.hmget(keys.meta(row.shard), ...fields)
  if (meta.includes(null)) return undefined
  const [epoch, n, watermark, flushed] = meta.map(Number) as [number, number, number, number]
  if (!isBehind(row, { epoch, phase: meta[4]!, n, watermark })) return undefined
  return {
    shard: row.shard,
    postgres: { epoch: row.epoch, entry: row.checkpoint, facts: row.facts },
    redis: { epoch, entry: watermark, facts: flushed },
    retained: await retained(redis, row),
  }
}

/** How many entries follow the checkpoint in the journal, if it still is the one that was taken. */
async function retained(redis: Redis, row: ShardRow): Promise<number> {
  const { checkpointEpoch: epoch, checkpoint, checkpointHash } = row
  const journal = keys.journal(row.shard)
  const [first] = await redis.xrange(journal, `${epoch}-${checkpoint}`, `${epoch}`, 'COUNT', 1)
  const [last] = await redis.xrevrange(journal, `${epoch}`, `${epoch}`, 'COUNT', 1)
  if (!first || !last) return 0
  const { n } = parseEntryId(first[0])
  const follows =
    checkpoint === 0 ? n === 1 : n === checkpoint && entryHash(...first) === checkpointHash
  return follows ? parseEntryId(last[0]).n - checkpoint : 0
}
