import type { EntryId } from '../journal/entry.ts'
import { audit } from '../ledger/audit.ts'
import { getBook } from '../ledger/books.ts'
import { transaction } from '../ledger/database.ts'
import { createJob, getJob, type Job, type JobState } from '../ledger/jobs.ts'
import { shardRows } from '../ledger/shards.ts'
import { type Problem, problem } from '../problems.ts'
import type { By } from './control.ts'
import type { Ops } from './ops.ts'

/** Verbs that outlive a request, as they are asked for: what workers/operate.ts does. */
export type Asked =
  | { kind: 'drain'; book?: string; timeoutMs: number; by: By }
  | { kind: 'reconcile'; book?: string; exact: boolean; by: By }
  | { kind: 'replay'; shard?: number; from?: EntryId; by: By }
  | { kind: 'warm'; book: string; by: By }
  | {
      kind: 'rebuild'
      /** Neither: every shard. */
      book?: string
      shard?: number
      flushFirst: boolean
      timeoutMs: number
      by: By
    }
export const operatorJobs: readonly string[] = [
  'drain',
  'reconcile',
  'replay',
  'warm',
  'rebuild',
] satisfies Asked['kind'][]

/** Whether it is a job of those, which take an operator to end. */
export const isOperators = ({ kind }: Pick<Job, 'kind'>) => operatorJobs.includes(kind)

/** Has a worker do a long verb. */
export async function requestJob({ database }: Ops, asked: Asked): Promise<Job | Problem> {
  const book = 'book' in asked ? asked.book : undefined
  if (book && !(await getBook(database, book))) return problem('book-not-found')
  const shard = 'shard' in asked ? asked.shard : undefined
  const isThere = async () => (await shardRows(database)).some((row) => row.shard === shard)
  if (shard !== undefined && !(await isThere())) return problem('shard-not-found')
  return transaction(database, async (tx) => {
    const { kind, by } = asked
    const row = { kind, book_id: book ?? null, total: 0, input: asked, created_by: by.actor }
    const job = await createJob(tx, row)
    const { by: _, ...after } = asked
    const deed = { action: `${kind}.request`, target: `job:${job.job_id}`, before: null, after }
    await audit(tx, { ...by, ...deed })
    return job
  })
}

/** The newest jobs first. */
export async function listJobs(
  { database }: Ops,
  { state, limit }: { state?: JobState; limit: number },
): Promise<Job[]> {
  const { rows } = await database.query<Job>(
    `SELECT * FROM jobs WHERE $1::text IS NULL OR state = $1 ORDER BY created_at DESC LIMIT $2`,
    [state ?? null, limit],
  )
  return rows
}

/**
 * Cancels a job that is not over, or ends the matter of one that failed; or has one that failed or was
 * cancelled done again, as the deed of whoever wants it now. Cancelling cuts its load: whoever is writing it finds it moved and stops, and
 * the sweep brings what was written into stock.
 */
export async function changeJob(
  { database }: Ops,
  jobId: string,
  wanted: 'cancelled' | 'queued',
  by: Pick<By, 'actor'> & Partial<By>,
): Promise<Job | Problem> {
  const from = wanted === 'cancelled' ? ['queued', 'running', 'failed'] : ['failed', 'cancelled']
  return transaction(database, async (tx) => {
    // The load first, as whoever writes it does: the other way round the two could wait for each other.
    await tx.query('SELECT FROM loads WHERE job_id = $1 FOR UPDATE', [jobId])
    const old = await getJob(tx, jobId, 'FOR UPDATE')
    if (!old) return problem('job-not-found')
    if (!from.includes(old.state)) return problem('wrong-job-state', { state: old.state })
    // A file that is being taken back is taken back to its end: nothing of it may come into stock.
    const undo = `SELECT FROM imports WHERE job_id = $1 AND step = 'undo'`
    const isUndone = wanted === 'cancelled' && (await tx.query(undo, [jobId])).rowCount === 1
    const next = isUndone ? 'queued' : wanted
    const { rows } = await tx.query<Job>(
      `UPDATE jobs SET state = $2, updated_at = to_timestamp(0),
         error = CASE WHEN $2 = 'cancelled' THEN error END,
         asked_at = CASE WHEN $2 = 'cancelled' THEN asked_at ELSE now() END,
         finished_at = CASE WHEN $2 = 'cancelled' THEN now() END,
         input = CASE WHEN $2 = 'queued' AND input ? 'by' THEN input || $3 ELSE input END
       WHERE job_id = $1 RETURNING *`,
      [jobId, next, { by }],
    )
    const job = rows[0]!
    // What an import has written goes into stock now: it can be refused as a whole no more.
    if (wanted === 'cancelled')
      await tx.query('UPDATE imports SET cut = true WHERE job_id = $1', [jobId])
    if (next === 'cancelled')
      await tx.query(
        `UPDATE loads SET total = written,
           state = CASE state WHEN 'writing' THEN 'written' ELSE state END WHERE job_id = $1`,
        [jobId],
      )
    else
      await tx.query(
        `UPDATE loads SET total = $2, state = 'writing' WHERE job_id = $1 AND written < $2`,
        [jobId, job.total],
      )
    const action = wanted === 'cancelled' ? 'jobs.cancel' : 'jobs.retry'
    const told = ({ kind, state, total, done }: Job) => ({ kind, state, total, done })
    const deed = { action, target: `job:${jobId}`, before: told(old), after: told(job) }
    await audit(tx, { ...by, ...deed })
    return job
  })
}
