import type { Redis } from 'ioredis'
import type { EntryId } from './entry.ts'

/** One entry as it stands in the stream, not decoded yet. */
export type RawEntry = { id: string; fields: string[] }

/** Redis' highest sequence number: the end of an epoch in a range. */
const endOfEpoch = '18446744073709551615'

/**
 * Entries of `from.epoch` from `from.n` on, that one included, at most `count`. Inclusive, so that
 * the reader can see whether the journal still is the one it has read before.
 */
export async function readJournal(
  redis: Redis,
  key: string,
  from: EntryId,
  count: number,
): Promise<RawEntry[]> {
  const rows = await redis.xrange(
    key,
    `${from.epoch}-${from.n}`,
    `${from.epoch}-${endOfEpoch}`,
    'COUNT',
    count,
  )
  return rows.map(([id, fields]) => ({ id, fields }))
}

/** The journal is not the one that the checkpoint was taken of: nothing may be flushed from it. */
export class JournalForked extends Error {}

/**
 * What follows the checkpoint without a gap. Throws JournalForked unless the checkpoint's own entry
 * comes first with the fingerprint PostgreSQL remembers, and where a gap follows at once: what stands
 * before a gap is as good as ever.
 */
export function entriesAfter(
  raw: RawEntry[],
  checkpoint: EntryId & { hash: string },
  hashOf: (entry: RawEntry) => string,
): RawEntry[] {
  let rest = raw
  if (checkpoint.n > 0) {
    const [first, ...others] = raw
    const id = `${checkpoint.epoch}-${checkpoint.n}`
    if (first?.id !== id) throw new JournalForked(`the journal has no entry ${id} any more`)
    if (hashOf(first) !== checkpoint.hash)
      throw new JournalForked(`entry ${id} is not the one that the ledger holds`)
    rest = others
  }
  const idAt = (i: number) => `${checkpoint.epoch}-${checkpoint.n + 1 + i}`
  const gap = rest.findIndex(({ id }, i) => id !== idAt(i))
  if (gap === 0) throw new JournalForked(`entry ${idAt(0)} is missing: ${rest[0]!.id} comes next`)
  return gap < 0 ? rest : rest.slice(0, gap)
}
