import { setTimeout as sleep } from 'node:timers/promises'
import { failpoint } from '../failpoint.ts'
import { audit } from '../ledger/audit.ts'
import { getBook } from '../ledger/books.ts'
import { installationId, shardRow, shardRows } from '../ledger/shards.ts'
import type { Problem } from '../problems.ts'
import { keys } from '../store/keys.ts'
import { type Attested, type Certificate, signCertificate } from './certificate.ts'
import { type By, setBook, setIntake } from './control.ts'
import { operatorJobs } from './jobs.ts'
import type { Ops } from './ops.ts'
import {
  type Reconciliation,
  type Options as Reconciling,
  reconcile,
} from './reconcile/reconcile.ts'

const pollMs = 100
/** Until then an older word on intake may still be on its way to Redis: lua/intake.lua refuses later ones. */
const settledMs = 1_100

/** What is not level yet, in words. What it throws ends the drain; intake stays stopped. */
export type OnWaiting = (waits: string[]) => void | Promise<void>

export type Drained =
  | { state: 'drained'; certificate: Certificate; reconciliation: Reconciliation }
  | { state: 'timed-out'; waits: string[] }

/**
 * Ends the sale and proves it: stops intake (of one book: pauses it), waits until every journal is
 * level with the ledger and no job is under way, compares both stores, and signs what it found. Stops
 * nothing but intake, deletes nothing; `resume` undoes it. Intake stays stopped after a time-out too.
 */
export async function drain(
  ops: Ops,
  options: {
    book?: string
    timeoutMs: number
    by: By
    onWaiting?: OnWaiting
    onProgress?: Reconciling['onProgress']
  },
): Promise<Drained | Problem> {
  const { book, by, timeoutMs } = options
  const until = performance.now() + timeoutMs
  const switched = book ? await setBook(ops, book, false, by) : await setIntake(ops, 'stopped', by)
  if ('problem' in switched) return switched
  await audit(ops.database, { ...by, action: 'drain', target: book ? `book:${book}` : 'intake' })
  const switchedAt = performance.now()
  let last: Last | undefined
  for (;;) {
    const settled = book || performance.now() - switchedAt > settledMs
    const waits = await notStopped(ops, book)
    // Of one book nothing comes after this; its neighbours go on, so their shard is never level.
    if (waits.length === 0 && book) last ??= await lastOf(ops, book)
    waits.push(...(last ? await notReached(ops, last) : await notLevel(ops)))
    waits.push(...(await openJobs(ops, book)))
    if (!settled && waits.length === 0)
      waits.push('an older word on intake may still be on its way to Redis')
    if (waits.length === 0) break
    await options.onWaiting?.(waits)
    if (performance.now() > until) return { state: 'timed-out', waits }
    await sleep(pollMs)
  }
  const ends = await endsOf(ops, last?.shard)
  // Other books of the shards go on where one alone is drained.
  const reconciliation = await reconcile(ops, {
    ...(book ? { book } : {}),
    exact: !book,
    ...(options.onProgress ? { onProgress: options.onProgress } : {}),
  })
  failpoint('drain.before-attest')
  const certificate = await attest(ops, book, ends, reconciliation)
  return { state: 'drained', certificate, reconciliation }
}

export async function notStopped(
  { redis, database }: Ops,
  book: string | undefined,
): Promise<string[]> {
  if (book) {
    const { rows } = await database.query(
      'SELECT FROM books WHERE book_id = $1 AND pushed_version >= version AND NOT is_active',
      [book],
    )
    return rows.length > 0 ? [] : ['Redis does not know yet that the book is paused']
  }
  const rows = await shardRows(database)
  const shown = await Promise.all(rows.map(({ shard }) => redis.hget(keys.meta(shard), 'intake')))
  return rows.flatMap(({ shard }, r) =>
    shown[r] === 'stopped' ? [] : [`shard ${shard} still takes in: no process has told Redis`],
  )
}

export async function notLevel({ redis, database }: Ops): Promise<string[]> {
  const rows = await shardRows(database)
  const waits: string[] = []
  for (const { shard, epoch, phase, checkpoint, flush } of rows) {
    const meta = await redis.hmget(keys.meta(shard), 'epoch', 'n', 'watermark', 'facts', 'flushed')
    const [its, n, watermark, facts, flushed] = meta.map(Number) as number[]
    if (phase !== 'active' || its !== epoch) waits.push(`shard ${shard} is being recovered`)
    else if (flush === 'paused') waits.push(`shard ${shard}: the flush is paused`)
    else if (n !== watermark || n !== checkpoint)
      waits.push(`shard ${shard}: ${facts! - flushed!} facts wait for the ledger`)
  }
  return waits
}

export async function openJobs({ database }: Ops, book: string | undefined): Promise<string[]> {
  const { rows } = await database.query<{ job_id: string; kind: string; state: string }>(
    `SELECT job_id, kind, state FROM jobs WHERE state IN ('queued', 'running')
       AND ($1::uuid IS NULL OR book_id = $1) AND kind <> ALL ($2)`,
    [book ?? null, operatorJobs], // a drain may be one itself
  )
  return rows.map(({ job_id, kind, state }) => `job ${job_id} (${kind}) is ${state}`)
}

/** The last entry there was when a book had been paused: all of its facts are up to here. */
type Last = { shard: number; epoch: number; n: number }

async function lastOf({ redis, database }: Ops, book: string): Promise<Last> {
  const { shard } = (await getBook(database, book))!
  const [epoch, n] = (await redis.hmget(keys.meta(shard), 'epoch', 'n')).map(Number)
  return { shard, epoch: epoch!, n: n! }
}

/** A later epoch began with all that its journal held in the ledger. */
async function notReached({ database }: Ops, { shard, epoch, n }: Last): Promise<string[]> {
  const row = await shardRow(database, shard)
  if (row.phase !== 'active') return [`shard ${shard} is being recovered`]
  if (row.epoch > epoch || row.checkpoint >= n) return []
  if (row.flush === 'paused') return [`shard ${shard}: the flush is paused`]
  return [`shard ${shard}: ${n - row.checkpoint} entries wait for the ledger`]
}

/** Where each shard ended, or the one of a book stood, by PostgreSQL's word. */
async function endsOf({ database }: Ops, shard: number | undefined): Promise<Attested['shards']> {
  const rows = (await shardRows(database)).filter(
    (row) => shard === undefined || row.shard === shard,
  )
  return rows.map(({ shard, checkpointEpoch, checkpoint, facts }) => ({
    ...{ shard, epoch: checkpointEpoch, entry: checkpoint, facts },
  }))
}

async function attest(
  { database }: Ops,
  book: string | undefined,
  shards: Attested['shards'],
  { books, verdict, at }: Reconciliation,
): Promise<Certificate> {
  const parked = await database.query<{ n: number }>('SELECT count(*)::int AS n FROM parked_facts')
  return signCertificate(database, {
    ...{ installation: await installationId(database), at, book: book ?? null, shards, verdict },
    books: books.map(({ book_id, codes, coupons, digest_postgres }) => ({
      ...{ book_id, codes, coupons, digest: digest_postgres },
    })),
    parked_facts: parked.rows[0]!.n,
  })
}
