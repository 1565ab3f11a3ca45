import { audit } from '../ledger/audit.ts'
import { transaction } from '../ledger/database.ts'
import type { Job } from '../ledger/jobs.ts'
import type { By } from './control.ts'
import type { Ops } from './ops.ts'

export const jobStates = ['queued', 'running', 'done', 'failed', 'cancelled'] as const
export type JobState = (typeof jobStates)[number]

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
 * Cancels a job that is not over, or has one that failed done again: the sweep of the workers finds its
 * row. What a cancelled one did stays. Undefined: there is no such job, or it is not in such a state.
 */
export async function changeJob(
  { database }: Ops,
  jobId: string,
  wanted: 'cancelled' | 'queued',
  by: By,
): Promise<Job | undefined> {
  const from = wanted === 'cancelled' ? ['queued', 'running'] : ['failed', 'cancelled']
  return transaction(database, async (tx) => {
    const { rows } = await tx.query<Job>(
      `UPDATE jobs SET state = $2, error = NULL, updated_at = to_timestamp(0),
         finished_at = CASE WHEN $2 = 'cancelled' THEN now() END
       WHERE job_id = $1 AND state = ANY ($3) RETURNING *`,
      [jobId, wanted, from],
    )
    const action = wanted === 'cancelled' ? 'jobs.cancel' : 'jobs.retry'
    if (rows[0]) await audit(tx, { ...by, action, target: `job:${jobId}` })
    return rows[0]
  })
}
