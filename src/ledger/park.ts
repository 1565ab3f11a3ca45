import { failpoint } from '../failpoint.ts'
import type { Entry, Fact } from '../journal/entry.ts'
import type { Transaction } from './database.ts'
import { foldEntries } from './fold.ts'
import { isCounted } from './minutes.ts'
import { isDataError, writeEntries, writeFold } from './write.ts'

/**
 * Applies entries some of whose facts do not fit: by halves, in their order, until those facts stand alone.
 * A fact that PostgreSQL or the fold refuses is parked with the reason, and blocks nobody. Returns how many
 * were.
 */
export async function applyCarefully(
  tx: Transaction,
  shard: number,
  entries: Entry[],
  counts: boolean,
): Promise<number> {
  let parked = 0
  for (const half of halves(entries)) {
    const refused = await attempt(tx, () => writeEntries(tx, shard, half, counts))
    if (refused === undefined) continue
    parked +=
      half.length === 1 && half[0]!.facts.length === 1
        ? await applyAlone(tx, shard, half[0]!, counts)
        : await applyCarefully(tx, shard, half, counts)
  }
  return parked
}

/** A single entry is halved by its facts. */
function halves(entries: Entry[]): Entry[][] {
  const halved = <T>(all: T[]) => {
    const middle = Math.ceil(all.length / 2)
    return [all.slice(0, middle), all.slice(middle)].filter((half) => half.length > 0)
  }
  if (entries.length > 1) return halved(entries)
  const [entry] = entries
  return halved(entry!.facts).map((facts) => [{ ...entry!, facts }])
}

/** A fact that does not fit: if the fold alone refuses it, it has its row in the ledger all the same. */
async function applyAlone(
  tx: Transaction,
  shard: number,
  entry: Entry,
  counts: boolean,
): Promise<number> {
  const [fact] = entry.facts
  const reason =
    (await attempt(tx, () => record(tx, shard, entry, fact!))) ??
    (await attempt(tx, () => writeFold(tx, shard, foldEntries([entry]), counts)))
  if (!reason) return 0
  await park(tx, shard, entry, fact!, reason)
  failpoint('flush.after-park')
  return 1
}

/** Brings one fact into the ledger if it is not there; the reason if it does not fit. */
export async function recordAgain(
  tx: Transaction,
  shard: number,
  entry: Entry,
  fact: Fact,
): Promise<string | undefined> {
  const { rowCount } = await tx.query(
    'SELECT FROM ledger WHERE shard = $1 AND epoch = $2 AND n = $3 AND i = $4',
    [shard, entry.epoch, entry.n, fact.i],
  )
  return rowCount ? undefined : attempt(tx, () => record(tx, shard, entry, fact))
}

/** The same, and into the fold: for a fact that stood aside, and so changed nothing yet. */
export async function applyAgain(
  tx: Transaction,
  shard: number,
  entry: Entry,
  fact: Fact,
): Promise<string | undefined> {
  const recorded = await recordAgain(tx, shard, entry, fact)
  if (recorded) return recorded
  const counts = await isCounted(tx, shard, entry)
  return attempt(tx, () => writeFold(tx, shard, foldEntries([{ ...entry, facts: [fact] }]), counts))
}

/** Runs `work` under a savepoint; the reason if it failed, with its effects undone. */
async function attempt(tx: Transaction, work: () => Promise<void>): Promise<string | undefined> {
  await tx.query('SAVEPOINT fact')
  try {
    await work()
    await tx.query('RELEASE SAVEPOINT fact')
    return undefined
  } catch (error) {
    // What is wrong with PostgreSQL today is not wrong with the fact.
    if (!isDataError(error)) throw error
    await tx.query('ROLLBACK TO SAVEPOINT fact; RELEASE SAVEPOINT fact')
    return (error as Error).message
  }
}

async function record(tx: Transaction, shard: number, entry: Entry, fact: Fact): Promise<void> {
  await tx.query(
    `INSERT INTO ledger (shard, epoch, n, i, op, kind, book_id, code, user_id, version, at,
       redemptions, max_redemptions, lock_token, locked_until, redemption_id, context, assigned_at)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, to_timestamp($11 / 1000.0), $12, $13, $14,
       to_timestamp($15::bigint / 1000.0), $16, $17, to_timestamp($18 / 1000.0))`,
    [
      shard,
      entry.epoch,
      entry.n,
      fact.i,
      entry.op,
      entry.kind,
      entry.book,
      fact.code,
      fact.user,
      fact.version,
      entry.at,
      fact.redemptions,
      fact.max,
      fact.lockToken,
      fact.lockedUntil,
      fact.redemption,
      fact.context,
      fact.assignedAt,
    ],
  )
}

/** jsonb cannot hold U+0000 or lone surrogates, which may be the very reason: they are shown. */
function storable(value: unknown): string {
  const shown = (text: string) => text.toWellFormed().replaceAll('\u0000', '\\u0000')
  return JSON.stringify(value, (_, part) => (typeof part === 'string' ? shown(part) : part))
}

async function park(
  tx: Transaction,
  shard: number,
  entry: Entry,
  fact: Fact,
  reason: string,
): Promise<void> {
  const { facts: _, ...head } = entry
  await tx.query(
    `INSERT INTO parked_facts (shard, epoch, n, i, reason, fact) VALUES ($1, $2, $3, $4, $5, $6)`,
    [shard, entry.epoch, entry.n, fact.i, reason, storable({ ...head, fact })],
  )
}
