import { flushes } from '../channels.ts'
import { failpoint } from '../failpoint.ts'
import type { Entry } from '../journal/entry.ts'
import { type Database, transaction } from './database.ts'
import { applyCarefully } from './park.ts'
import { moveCheckpoint, type ShardRow } from './shards.ts'
import { isDataError, writeEntries } from './write.ts'

/**
 * Commits a batch of entries: checkpoint, ledger, coupons, redemptions, counters and minutes,
 * together or not at all. Returns the number of facts that had to be parked (0 in a healthy life).
 * Throws Overtaken if another process moved the shard, and whatever PostgreSQL throws when it is away.
 */
export function apply(
  database: Database,
  row: ShardRow,
  entries: Entry[],
  checkpointHash: string,
): Promise<number> {
  const facts = entries.reduce((sum, entry) => sum + entry.facts.length, 0)
  const to = { n: entries.at(-1)!.n, hash: checkpointHash, facts: row.facts + facts }
  const told = { shard: row.shard, facts, entries }
  return flushes.tracePromise(() => commit(database, row, entries, to), told)
}

async function commit(
  database: Database,
  row: ShardRow,
  entries: Entry[],
  to: { n: number; hash: string; facts: number },
): Promise<number> {
  try {
    await transaction(database, async (tx) => {
      const counts = await moveCheckpoint(tx, row, to)
      failpoint('flush.after-begin')
      await writeEntries(tx, row.shard, entries, counts)
      failpoint('flush.before-commit')
    })
    return 0
  } catch (error) {
    if (!isDataError(error)) throw error
    // Something in this batch does not fit: it is looked for, and parked.
    return transaction(database, async (tx) => {
      const counts = await moveCheckpoint(tx, row, to)
      return applyCarefully(tx, row.shard, entries, counts)
    })
  }
}
