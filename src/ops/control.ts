import { setTimeout as sleep } from 'node:timers/promises'
import { failpoint } from '../failpoint.ts'
import { audit } from '../ledger/audit.ts'
import { type Book, getBook, updateBook } from '../ledger/books.ts'
import { transaction } from '../ledger/database.ts'
import { type Problem, problem } from '../problems.ts'
import { keys } from '../store/keys.ts'
import type { Ops } from './ops.ts'

/** Who asks for it, and why: both stand in the audit log. */
export type By = { actor: string; reason: string; request_id?: string }

/** How long Redis may take to show what PostgreSQL was told; the processes look once a second. */
const inForceMs = 5_000
const pollMs = 50

export type Switched = { before: string; now: string; in_force: boolean }

/**
 * Stops or opens intake, of all shards: coupon verbs answer 503 `intake-stopped`, reads go on. It
 * stands in PostgreSQL and processes mirror it into Redis; `in_force` says whether they have.
 */
export async function setIntake(ops: Ops, wanted: 'open' | 'stopped', by: By): Promise<Switched> {
  const action = wanted === 'stopped' ? 'pause' : 'resume'
  const before = await setShards(ops, 'intake', wanted, { ...by, action, target: 'intake' })
  failpoint('intake.after-postgres')
  return { before, now: wanted, in_force: await untilMirrored(ops, wanted) }
}

/**
 * Holds the flush or lets it run: with it held the journal grows up to BACKLOG_FACTS a shard, and
 * nothing reaches `postgres` durability.
 */
export async function setFlush(ops: Ops, wanted: 'running' | 'paused', by: By): Promise<Switched> {
  const action = wanted === 'paused' ? 'pause' : 'resume'
  const before = await setShards(ops, 'flush', wanted, { ...by, action, target: 'flush' })
  return { before, now: wanted, in_force: true }
}

/** The former value: `mixed` where shards differed. */
async function setShards(
  { database }: Ops,
  column: 'intake' | 'flush',
  wanted: string,
  deed: By & { action: string; target: string },
): Promise<string> {
  return transaction(database, async (tx) => {
    const { rows } = await tx.query<{ value: string }>(
      `SELECT ${column} AS value FROM shards ORDER BY shard FOR UPDATE`,
    )
    await tx.query(`UPDATE shards SET ${column} = $1`, [wanted])
    const values = new Set(rows.map(({ value }) => value))
    const before = values.size === 1 ? [...values][0]! : 'mixed'
    await audit(tx, { ...deed, detail: { before, now: wanted } })
    return before
  })
}

async function untilMirrored({ redis, database }: Ops, wanted: string): Promise<boolean> {
  const { rows } = await database.query<{ shard: number }>('SELECT shard FROM shards')
  for (
    const until = performance.now() + inForceMs;
    performance.now() < until;
    await sleep(pollMs)
  ) {
    const shown = await Promise.all(
      rows.map(({ shard }) => redis.hget(keys.meta(shard), 'intake').catch(() => null)),
    )
    if (shown.every((intake) => intake === wanted)) return true
  }
  return false
}

/** Of one book. Paused: it assigns nothing, holders go on. Stopped: none of its verbs is taken in. */
export type BookState = 'active' | 'paused' | 'stopped'
export const bookState = ({ intake, is_active }: Pick<Book, 'intake' | 'is_active'>): BookState =>
  intake === 'stopped' ? 'stopped' : is_active ? 'active' : 'paused'

/** Opens, pauses or stops one book; processes push it into Redis within a second or so. */
export async function setBook(
  ops: Ops,
  bookId: string,
  wanted: BookState,
  by: By,
): Promise<Switched | Problem> {
  const { database } = ops
  const old = await getBook(database, bookId)
  if (!old) return problem('book-not-found')
  const told = { before: bookState(old), now: wanted }
  const action = wanted === 'active' ? 'resume' : 'pause'
  const changed = await updateBook(
    database,
    bookId,
    { is_active: wanted === 'active', intake: wanted === 'stopped' ? 'stopped' : 'open' },
    { ...by, action, target: `book:${bookId}`, detail: told },
  )
  if ('problem' in changed) return changed
  failpoint('book.after-postgres')
  return { ...told, in_force: await untilPushed(ops, bookId, changed.version) }
}

async function untilPushed({ database }: Ops, bookId: string, version: number): Promise<boolean> {
  for (
    const until = performance.now() + inForceMs;
    performance.now() < until;
    await sleep(pollMs)
  ) {
    const book = await getBook(database, bookId)
    if (book && book.pushed_version >= version) return true
  }
  return false
}
