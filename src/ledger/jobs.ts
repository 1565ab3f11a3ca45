import { randomUUID } from 'node:crypto'
import { type Problem, problem } from '../problems.ts'
import type { Database, Transaction } from './database.ts'
import type { jobs } from './schema.ts'

/**
 * Work that outlives its request. The row is the job; BullMQ only carries its id to a worker, so a
 * job lost on the way is found again by its row.
 *
 *   queued -> running -> done | failed | cancelled      failed -> cancelled: somebody has seen it
 */
export type Job = typeof jobs.$inferSelect
export const jobStates = ['queued', 'running', 'done', 'failed', 'cancelled'] as const
export type JobState = (typeof jobStates)[number]
export type NewJob = Pick<Job, 'kind' | 'book_id' | 'total' | 'input' | 'created_by'>

/** Made in the transaction of what it is about: neither ever stands there alone. */
export async function createJob(tx: Transaction, job: NewJob): Promise<Job> {
  const { rows } = await tx.query<Job>(
    `INSERT INTO jobs (job_id, kind, book_id, total, input, created_by)
     VALUES ($1, $2, $3, $4, $5, $6) RETURNING *`,
    [randomUUID(), job.kind, job.book_id, job.total, job.input, job.created_by],
  )
  return rows[0]!
}

export async function getJob(
  on: Database | Transaction,
  jobId: string,
  lock: '' | 'FOR UPDATE' = '',
): Promise<Job | undefined> {
  const { rows } = await on.query<Job>(`SELECT * FROM jobs WHERE job_id = $1 ${lock}`, [jobId])
  return rows[0]
}

export type JobFilter = {
  state?: JobState
  kind?: string
  book_id?: string
  limit: number
  after?: string
}

/** Newest first, up to limit + 1 rows: one more than asked for says that there are more. */
export async function listJobs(database: Database, filter: JobFilter): Promise<Job[] | Problem> {
  const { state, kind, book_id, limit, after } = filter
  if (after !== undefined && !(await getJob(database, after))) return problem('invalid-cursor')
  const { rows } = await database.query<Job>(
    `SELECT * FROM jobs WHERE ($1::text IS NULL OR state = $1) AND ($2::text IS NULL OR kind = $2)
       AND ($3::uuid IS NULL OR book_id = $3) AND ($4::uuid IS NULL
         OR (created_at, job_id) < (SELECT created_at, job_id FROM jobs WHERE job_id = $4))
     ORDER BY created_at DESC, job_id DESC LIMIT $5`,
    [state ?? null, kind ?? null, book_id ?? null, after ?? null, limit + 1],
  )
  return rows
}

/** `was` running: another run began it, and came to no end. `age`: ms since it was last asked for. */
export type Started = Job & { was: JobState; age: number }

/** Marks a job as running; undefined if there is nothing left to do. */
export async function startJob(database: Database, jobId: string): Promise<Started | undefined> {
  const { rows } = await database.query<Started>(
    `WITH old AS (SELECT state AS was FROM jobs WHERE job_id = $1 FOR UPDATE)
     UPDATE jobs SET state = 'running', updated_at = now() FROM old
     WHERE job_id = $1 AND was IN ('queued', 'running')
     RETURNING jobs.*, was, extract(epoch FROM now() - asked_at)::float8 * 1000 AS age`,
    [jobId],
  )
  return rows[0]
}

/**
 * Says how far it is; also the sign of life that keeps the sweep away. `total`: where that was not
 * known before. False: it is over, because somebody cancelled it.
 */
export async function progressJob(
  on: Database | Transaction,
  jobId: string,
  done: number,
  total?: number,
): Promise<boolean> {
  const { rowCount } = await on.query(
    `UPDATE jobs SET done = greatest(done, $2), total = coalesce($3, total), updated_at = now()
     WHERE job_id = $1 AND state = 'running'`,
    [jobId, done, total ?? null],
  )
  return rowCount === 1
}

export async function finishJob(
  on: Database | Transaction,
  jobId: string,
  result: Record<string, unknown>,
): Promise<void> {
  await on.query(
    `UPDATE jobs SET state = 'done', done = total, result = $2, updated_at = now(),
       finished_at = now() WHERE job_id = $1 AND state IN ('queued', 'running')`,
    [jobId, result],
  )
}

/** For what another attempt would not change. `error` is shown to whoever asks for the job. */
export async function failJob(on: Database | Transaction, jobId: string, error: string) {
  await on.query(
    `UPDATE jobs SET state = 'failed', error = $2, updated_at = now(), finished_at = now()
     WHERE job_id = $1 AND state IN ('queued', 'running')`,
    [jobId, error],
  )
}

/** Unfinished jobs that gave no sign of life for `silentMs`, oldest first. */
export async function silentJobs(database: Database, silentMs: number): Promise<string[]> {
  const { rows } = await database.query<{ job_id: string }>(
    `SELECT job_id FROM jobs
     WHERE state IN ('queued', 'running') AND updated_at < now() - $1 * interval '1 ms'
     ORDER BY created_at LIMIT 1000`,
    [silentMs],
  )
  return rows.map((row) => row.job_id)
}
