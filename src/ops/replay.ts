import { decodeEntry, type Entry, type EntryId, entryId } from '../journal/entry.ts'
import { audit } from '../ledger/audit.ts'
import { transaction } from '../ledger/database.ts'
import { applyAgain } from '../ledger/park.ts'
import { shardRows } from '../ledger/shards.ts'
import { keys } from '../store/keys.ts'
import type { By } from './control.ts'
import type { Ops } from './ops.ts'

const entriesPerPage = 500

/** What came of a shard's journal, in facts. `waiting`: not flushed yet, a worker does that. */
export type Replayed = {
  shard: number
  applied: number
  already_there: number
  parked: number
  waiting: number
}

/**
 * Brings what the journals still hold into the ledger again: facts that the ledger lacks although its
 * checkpoint is past them, as after a row was deleted by hand. May be repeated as often as one likes.
 * `from`: entries before this one are left alone.
 */
export async function replay(
  ops: Ops,
  options: { shard?: number; from?: EntryId; by: By; onProgress?: (entries: number) => void },
): Promise<Replayed[]> {
  const rows = (await shardRows(ops.database)).filter(
    ({ shard }) => options.shard === undefined || shard === options.shard,
  )
  const all: Replayed[] = []
  let done = 0
  for (const { shard, checkpointEpoch, checkpoint } of rows) {
    const sum: Replayed = { shard, applied: 0, already_there: 0, parked: 0, waiting: 0 }
    const isFlushed = ({ epoch, n }: EntryId) =>
      epoch < checkpointEpoch || (epoch === checkpointEpoch && n <= checkpoint)
    for await (const entries of pages(ops, shard, options.from)) {
      const flushed = entries.filter(isFlushed)
      sum.waiting += factsOf(entries) - factsOf(flushed)
      const missing = await lacking(ops, shard, flushed)
      sum.already_there += factsOf(flushed) - factsOf(missing)
      for (const entry of missing) await applyEntry(ops, shard, entry, sum)
      done += entries.length
      options.onProgress?.(done)
    }
    all.push(sum)
  }
  await audit(ops.database, {
    ...options.by,
    ...{ action: 'replay', target: 'journal', detail: { shards: all } },
  })
  return all
}

const factsOf = (entries: readonly Entry[]) =>
  entries.reduce((sum, { facts }) => sum + facts.length, 0)

async function* pages({ redis }: Ops, shard: number, from: EntryId | undefined) {
  let start = from ? entryId(from) : '-'
  for (;;) {
    const rows = await redis.xrange(keys.journal(shard), start, '+', 'COUNT', entriesPerPage)
    if (rows.length === 0) return
    yield rows.map(([id, fields]) => decodeEntry(id, fields))
    start = `(${rows.at(-1)![0]}`
  }
}

/** The facts of these entries that neither the ledger nor the parked ones hold, in their entries. */
async function lacking({ database }: Ops, shard: number, entries: Entry[]): Promise<Entry[]> {
  if (entries.length === 0) return []
  const { rows } = await database.query<{ place: string }>(
    `SELECT epoch || '-' || n || '/' || i AS place FROM (
       SELECT epoch, n, i FROM ledger l JOIN unnest($2::bigint[], $3::bigint[]) AS e(epoch, n)
         USING (epoch, n) WHERE l.shard = $1
       UNION SELECT epoch, n, i FROM parked_facts WHERE shard = $1) AS held`,
    [shard, entries.map(({ epoch }) => epoch), entries.map(({ n }) => n)],
  )
  const held = new Set(rows.map(({ place }) => place))
  return entries.flatMap((entry) => {
    const facts = entry.facts.filter(({ i }) => !held.has(`${entryId(entry)}/${i}`))
    return facts.length > 0 ? [{ ...entry, facts }] : []
  })
}

async function applyEntry({ database }: Ops, shard: number, entry: Entry, sum: Replayed) {
  await transaction(database, async (tx) => {
    for (const fact of entry.facts) {
      await applyAgain(tx, shard, entry, fact)
      const { rowCount } = await tx.query(
        'SELECT FROM ledger WHERE shard = $1 AND epoch = $2 AND n = $3 AND i = $4',
        [shard, entry.epoch, entry.n, fact.i],
      )
      // The ledger has it now. Whether the fold is past it, or it does not fit, reconcile tells.
      if (rowCount) sum.applied++
      else sum.parked++
    }
  })
}
