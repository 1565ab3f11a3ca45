import { acceptLoss, shardRows } from '../ledger/shards.ts'
import { type Loss, lossOf } from '../recovery/loss.ts'
import type { By } from './control.ts'
import type { Ops } from './ops.ts'

/** What a PostgreSQL that was restored lacks, of all shards or of one; undefined: there is no such shard. */
export async function losses(
  { redis, database }: Ops,
  shard?: number,
): Promise<Loss[] | undefined> {
  const rows = await shardRows(database)
  const asked = rows.filter((row) => shard === undefined || row.shard === shard)
  if (asked.length === 0) return undefined
  const found = await Promise.all(asked.map((row) => lossOf(redis, row)))
  return found.filter((loss) => loss !== undefined)
}

/** Has workers go on with what PostgreSQL has: they make these shards anew. */
export async function acceptLosses({ database }: Ops, found: Loss[], by: By): Promise<void> {
  for (const loss of found) {
    const what = { action: 'accept-loss', target: `shard:${loss.shard}`, detail: { ...loss } }
    await acceptLoss(database, loss.shard, { ...by, ...what })
  }
}
