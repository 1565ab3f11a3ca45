import { failpoint } from '../failpoint.ts'
import { decodeEntry, type Entry, type EntryId, entryId } from '../journal/entry.ts'
import { aside } from '../ledger/aside.ts'
import { audit } from '../ledger/audit.ts'
import { transaction } from '../ledger/database.ts'
import { recordAgain } from '../ledger/park.ts'
import { shardRows } from '../ledger/shards.ts'
import { keys } from '../store/keys.ts'
import type { By } from './control.ts'
import type { Ops } from './ops.ts'

const entriesPerPage = 500

/**
 * What came of a shard's journal, in facts. `parked`: stand aside, see `parked`; `discarded`: an operator
 * gave them up for good; `refused`: the ledger did not take them now; `waiting`: not flushed yet, a
 * worker does that.
 */
export type Replayed = {
  shard: number
  applied: number
  already_there: number
  parked: number
  discarded: number
  refused: number
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
  const there = await shardRows(ops.database)
  const rows = there.filter(({ shard }) => shard === (options.shard ?? shard))
  if (rows.length === 0)
    throw new Error(`There is no shard ${options.shard}: they are 0 to ${there.length - 1}.`)
  const all: Replayed[] = []
  let done = 0
  for (const { shard, checkpointEpoch, checkpoint } of rows) {
    const sum: Replayed = {
      ...{ shard, applied: 0, already_there: 0 },
      ...{ parked: 0, discarded: 0, refused: 0, waiting: 0 },
    }
    const isFlushed = ({ epoch, n }: EntryId) =>
      epoch < checkpointEpoch || (epoch === checkpointEpoch && n <= checkpoint)
    for await (const entries of pages(ops, shard, options.from)) {
      const flushed = entries.filter(isFlushed)
      sum.waiting += factsOf(entries) - factsOf(flushed)
      const missing = await lacking(ops, shard, flushed, sum)
      for (const entry of missing) {
        await applyEntry(ops, shard, entry, sum)
        failpoint('replay.after-entry')
      }
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

/** The facts of these entries that the ledger lacks and that do not stand aside; counts the others. */
async function lacking(
  { database }: Ops,
  shard: number,
  entries: Entry[],
  sum: Replayed,
): Promise<Entry[]> {
  if (entries.length === 0) return []
  // In the order of the alphabet: what stands aside does so although its row may be there.
  const { rows } = await database.query<{
    place: string
    how: 'already_there' | 'discarded' | 'parked'
  }>(
    `SELECT epoch || '-' || n || '/' || i AS place, max(how) AS how FROM (
       SELECT epoch, n, i, 'already_there' AS how
       FROM ledger l JOIN unnest($2::bigint[], $3::bigint[]) AS e(epoch, n) USING (epoch, n)
       WHERE l.shard = $1
       UNION ALL SELECT epoch, n, i, how FROM ${aside} AS a WHERE shard = $1) AS held GROUP BY 1`,
    [shard, entries.map(({ epoch }) => epoch), entries.map(({ n }) => n)],
  )
  const held = new Map(rows.map(({ place, how }) => [place, how]))
  return entries.flatMap((entry) => {
    const facts = entry.facts.filter(({ i }) => {
      const how = held.get(`${entryId(entry)}/${i}`)
      if (how) sum[how]++
      return how === undefined
    })
    return facts.length > 0 ? [{ ...entry, facts }] : []
  })
}

/**
 * A fact that only its row is missing of: the checkpoint is past it, so the coupons have long been
 * changed by it, and by what came after. To fold it once more could bring back what was released.
 */
async function applyEntry({ database }: Ops, shard: number, entry: Entry, sum: Replayed) {
  await transaction(database, async (tx) => {
    for (const fact of entry.facts) {
      const reason = await recordAgain(tx, shard, entry, fact)
      if (reason) sum.refused++
      else sum.applied++
    }
  })
}
