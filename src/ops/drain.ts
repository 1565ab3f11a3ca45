import { setTimeout as sleep } from 'node:timers/promises'
import { failpoint } from '../failpoint.ts'
import { audit } from '../ledger/audit.ts'
import { getBook } from '../ledger/books.ts'
import { installationId, shardRow, shardRows } from '../ledger/shards.ts'
import type { Problem } from '../problems.ts'
import { keys } from '../store/keys.ts'
import { type Attested, type Certificate, signCertificate } from './certificate.ts'
import { type By, setBook, setIntake } from './control.ts'
import type { Asked } from './jobs.ts'
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

/** `undone`: somebody opened or changed meanwhile what was to be attested, so nothing is. */
export type Drained =
  | { state: 'drained'; certificate: Certificate; reconciliation: Reconciliation }
  | { state: 'timed-out'; waits: string[] }
  | { state: 'undone'; why: string[] }

type Options = {
  book?: string
  timeoutMs: number
  by: By
  /** A run that was killed has stopped it: what somebody opened since then is not stopped once more. */
  isStopped?: boolean
  onWaiting?: OnWaiting
  onProgress?: Reconciling['onProgress']
}

/**
 * Ends the sale and proves it: stops intake, of everything or of one book, waits until the ledger has all
 * of it, Redis has all books and loads, and no job is under way, compares both stores, and signs what it
 * found. Distributions wait for intake themselves: those the certificate names. Stops nothing but intake, deletes nothing; `resume` undoes it. Intake stays stopped after a
 * time-out too.
 */
export async function drain(ops: Ops, options: Options): Promise<Drained | Problem> {
  const { book } = options
  const refusal = options.isStopped ? undefined : await stop(ops, options)
  if (refusal) return refusal
  const waited = await untilLevel(ops, options)
  if ('state' in waited) return waited
  const ends = await endsOf(ops, waited.last?.shard)
  // Other books of the shard go on where one alone is drained, and with them all that the shard counts.
  const reconciliation = await reconcile(ops, {
    ...(book ? { book } : {}),
    exact: !book,
    ...(options.onProgress ? { onProgress: options.onProgress } : {}),
  })
  failpoint('drain.before-attest')
  const why = await moved(ops, book, waited, ends)
  if (why.length > 0) return { state: 'undone', why }
  const certificate = await attest(ops, book, ends, reconciliation)
  return { state: 'drained', certificate, reconciliation }
}

async function stop(ops: Ops, { book, by }: Options): Promise<Problem | undefined> {
  const switched = book
    ? await setBook(ops, book, 'stopped', by)
    : await setIntake(ops, 'stopped', by)
  if ('problem' in switched) return switched
  await audit(ops.database, { ...by, action: 'drain', target: book ? `book:${book}` : 'intake' })
}

/** `last`: of one book. `loads`: how many there were before it was asked whether Redis has all of them. */
type Level = { last: Last | undefined; loads: number }

async function untilLevel(
  ops: Ops,
  { book, timeoutMs, onWaiting }: Options,
): Promise<Level | Exclude<Drained, { state: 'drained' }>> {
  const begun = performance.now()
  let last: Last | undefined
  for (;;) {
    const why = await opened(ops, book)
    if (why.length > 0) return { state: 'undone', why }
    const loads = await countLoads(ops, book)
    const waits: string[] = []
    if (book) {
      const now = await lastOf(ops, book)
      if (now && now.version !== last?.version) last = now
      waits.push(...(now ? await notReached(ops, last!) : [unknownYet]))
    } else waits.push(...(await notStopped(ops)), ...(await notLevel(ops)))
    waits.push(...(await openJobs(ops, book)), ...(await notPushed(ops, book)))
    if (!book && waits.length === 0 && performance.now() - begun < settledMs)
      waits.push('an older word on intake may still be on its way to Redis')
    if (waits.length === 0) return { last, loads }
    await onWaiting?.(waits)
    if (performance.now() > begun + timeoutMs) return { state: 'timed-out', waits }
    await sleep(pollMs)
  }
}

/** Whether PostgreSQL says that intake is open, which drains have stopped there before anything else. */
async function opened({ database }: Ops, book: string | undefined): Promise<string[]> {
  const isOpen = book
    ? (await getBook(database, book))?.intake !== 'stopped'
    : (await shardRows(database)).some(({ intake }) => intake !== 'stopped')
  const what = book ? 'the book' : 'intake'
  return isOpen ? [`${what} is open: somebody resumed it, or it was never stopped`] : []
}

async function countLoads({ database }: Ops, book: string | undefined): Promise<number> {
  const { rows } = await database.query<{ n: number }>(
    'SELECT count(*) AS n FROM loads WHERE $1::uuid IS NULL OR book_id = $1',
    [book ?? null],
  )
  return rows[0]!.n
}

/** Why the comparison attests nothing: it took a while, and whoever resumes does not ask us. */
async function moved(
  ops: Ops,
  book: string | undefined,
  { last, loads }: Level,
  ends: Attested['shards'],
): Promise<string[]> {
  const why = await opened(ops, book)
  if ((await countLoads(ops, book)) !== loads)
    why.push('codes or units were added while both stores were compared')
  if (book && (await lastOf(ops, book))?.version !== last!.version)
    why.push('the book was changed while both stores were compared')
  why.push(...(await openJobs(ops, book)))
  if (book) return why
  why.push(...(await notStopped(ops)), ...(await notLevel(ops)))
  const text = (all: Attested['shards']) =>
    all.map(({ shard, epoch, entry }) => `${shard}/${epoch}-${entry}`).join(' ')
  const now = await endsOf(ops, undefined)
  if (text(now) !== text(ends)) why.push(`shards moved from ${text(ends)} to ${text(now)}`)
  return why
}

export async function notStopped({ redis, database }: Ops): Promise<string[]> {
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

/** Operators' jobs that change neither store: a drain, or an exact comparison, may be one itself. */
const lookers = ['drain', 'reconcile', 'warm'] satisfies Asked['kind'][]

/**
 * Jobs that change what is compared: also replays and rebuilds, which name no book. A distribution that is
 * queued while intake is stopped waits for it, and what Redis does not take in cannot follow.
 */
export async function openJobs({ database }: Ops, book: string | undefined): Promise<string[]> {
  const { rows } = await database.query<{ job_id: string; kind: string; state: string }>(
    `SELECT job_id, kind, state FROM jobs WHERE state IN ('queued', 'running')
       AND ($1::uuid IS NULL OR book_id IS NULL OR book_id = $1)
       AND kind <> ALL ($2) AND (kind, state) <> ('distribute', 'queued')`,
    [book ?? null, lookers],
  )
  return rows.map(({ job_id, kind, state }) => `job ${job_id} (${kind}) is ${state}`)
}

async function waitingJobs({ database }: Ops, book: string | undefined): Promise<string[]> {
  const { rows } = await database.query<{ job_id: string }>(
    `SELECT job_id FROM jobs WHERE kind = 'distribute' AND state IN ('queued', 'running')
       AND ($1::uuid IS NULL OR book_id = $1) ORDER BY created_at, job_id`,
    [book ?? null],
  )
  return rows.map(({ job_id }) => job_id)
}

/** Policies and loads on their way to Redis stand in no journal: a comparison would call them lost. */
async function notPushed({ database }: Ops, book: string | undefined): Promise<string[]> {
  const { rows } = await database.query<{ what: string }>(
    `SELECT 'book ' || book_id || ': Redis has an older policy' AS what FROM books
     WHERE pushed_version < version AND ($1::uuid IS NULL OR book_id = $1)
     UNION ALL
     SELECT 'book ' || book_id || ': load ' || load_id || ' is not in Redis yet' FROM loads
     WHERE state <> 'pushed' AND ($1::uuid IS NULL OR book_id = $1) LIMIT 100`,
    [book ?? null],
  )
  return rows.map(({ what }) => what)
}

/**
 * The last entry there was when a book had been stopped: all of its facts are up to here, as long as its
 * version stays the same. Its neighbours go on, so its shard is never level.
 */
type Last = { shard: number; epoch: number; n: number; version: number }

const unknownYet = 'Redis does not know yet that the book is stopped'

async function lastOf({ redis, database }: Ops, book: string): Promise<Last | undefined> {
  const { shard, version } = (await getBook(database, book))!
  const asked = redis.multi().hmget(keys.book(shard, book), 'active', 'version')
  const results = await asked.hmget(keys.meta(shard), 'epoch', 'n').exec()
  const [[active, its], [epoch, n]] = results!.map(([error, reply]) => {
    if (error) throw error
    return reply
  }) as [(string | null)[], (string | null)[]]
  // A former drain's word may still stand there, with the resumption on its way.
  if (active !== 'stopped' || Number(its) < version) return undefined
  return { shard, epoch: Number(epoch), n: Number(n), version: Number(its) }
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
  ops: Ops,
  book: string | undefined,
  shards: Attested['shards'],
  { books, verdict, at, exact }: Reconciliation,
): Promise<Certificate> {
  const { database } = ops
  const parked = await database.query<{ n: number }>('SELECT count(*)::int AS n FROM parked_facts')
  return signCertificate(database, {
    ...{ installation: await installationId(database), at, book: book ?? null, shards, verdict },
    books: books.map(({ book_id, codes, coupons, digest_postgres }) => ({
      ...{ book_id, codes, coupons, digest: digest_postgres },
    })),
    parked_facts: parked.rows[0]!.n,
    compared: exact ? 'exact' : 'live',
    waiting_jobs: await waitingJobs(ops, book),
  })
}
