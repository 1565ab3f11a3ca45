import { flushes } from '../channels.ts'
import { failpoint } from '../failpoint.ts'
import type { Entry, Fact } from '../journal/entry.ts'
import { type Database, type Transaction, transaction } from './database.ts'
import { foldEntries } from './fold.ts'
import { applyCarefully } from './park.ts'
import { moveCheckpoint, type ShardRow } from './shards.ts'
import { copy, copyText, isDataError, iso, nullable, writeFold } from './write.ts'

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
      await copyLedger(tx, row.shard, entries)
      await writeFold(tx, row.shard, foldEntries(entries), counts)
      failpoint('flush.before-commit')
    })
    return 0
  } catch (error) {
    if (!isDataError(error)) throw error
    // Something in this batch does not fit. One fact at a time, what does not fit is parked.
    return transaction(database, async (tx) => {
      const counts = await moveCheckpoint(tx, row, to)
      return applyCarefully(tx, row.shard, entries, counts)
    })
  }
}

const ledgerColumns = `ledger (shard, epoch, n, i, op, kind, book_id, code, user_id, version, at,
  redemptions, max_redemptions, lock_token, locked_until, redemption_id, context, assigned_at)`

async function copyLedger(tx: Transaction, shard: number, entries: Entry[]): Promise<void> {
  const lines: string[] = []
  for (const entry of entries) {
    const head = `${shard}\t${entry.epoch}\t${entry.n}\t`
    const what = `\t${entry.op}\t${entry.kind}\t${entry.book}\t`
    const at = iso(entry.at)
    for (const fact of entry.facts) lines.push(head + fact.i + what + ledgerTail(fact, at))
  }
  await copy(tx, ledgerColumns, lines)
}

function ledgerTail(fact: Fact, at: string): string {
  const lockedUntil = fact.lockedUntil ? iso(fact.lockedUntil) : '\\N'
  return (
    `${copyText(fact.code)}\t${copyText(fact.user)}\t${fact.version}\t${at}\t` +
    `${fact.redemptions}\t${fact.max}\t${nullable(fact.lockToken)}\t${lockedUntil}\t` +
    `${nullable(fact.redemption)}\t${copyText(fact.context)}\t${iso(fact.assignedAt)}`
  )
}
