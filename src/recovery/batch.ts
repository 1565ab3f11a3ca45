import { decodeEntry, type Entry, entryHash } from '../journal/entry.ts'
import { entriesAfter, readJournal } from '../journal/journal.ts'
import type { ShardRow } from '../ledger/shards.ts'
import { keys } from '../store/keys.ts'
import type { Place } from '../store/place.ts'

/** Entries on their way from the journal to the ledger; `hash` is the last one's fingerprint. */
export type JournalBatch = { entries: Entry[]; facts: number; n: number; hash: string }

/**
 * Reads at most `count` entries that follow the checkpoint of `row`; undefined: there are none.
 * Throws JournalForked if this is not the journal that the checkpoint was taken of.
 */
export async function readBatch(
  place: Place,
  row: ShardRow,
  count: number,
): Promise<JournalBatch | undefined> {
  const from = { epoch: row.checkpointEpoch, n: row.checkpoint, hash: row.checkpointHash }
  const raw = await readJournal(place.redis, keys.journal(row.shard), from, count + 1)
  const fresh = entriesAfter(raw, from, ({ id, fields }) => entryHash(id, fields))
  const last = fresh.at(-1)
  if (!last) return undefined
  const entries = fresh.map(({ id, fields }) => decodeEntry(id, fields))
  const facts = entries.reduce((sum, entry) => sum + entry.facts.length, 0)
  return { entries, facts, n: entries.at(-1)!.n, hash: entryHash(last.id, last.fields) }
}
