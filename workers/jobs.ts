import type { Database } from '../src/ledger/database.ts'
import { failJob, getJob, silentJobs } from '../src/ledger/jobs.ts'
import { operatorJobs } from '../src/ops/jobs.ts'
import type { Ops } from '../src/ops/ops.ts'
import type { Queues } from '../src/queues.ts'
import type { Distributor } from '../src/recovery/distribute.ts'
import type { Pusher } from '../src/recovery/push.ts'
import { distributeOnce } from './distribute.ts'
import { generateOnce } from './generate.ts'
import { importOnce } from './import.ts'
import { operateOnce } from './operate.ts'

/** Lends a piece of work connections of its own: it takes several for a while, and the flush must not wait. */
export type WithOps = <T>(work: (ops: Ops) => Promise<T>) => Promise<T>

/**
 * Does the job that a row describes, and goes on from where a killed run stopped. What it throws is
 * worth another try: the sweep sees to it.
 */
export async function jobOnce(
  jobId: string,
  pusher: Pusher,
  withOps: WithOps,
  distributor: Distributor,
): Promise<void> {
  const job = await getJob(pusher.database, jobId)
  if (!job || job.finished_at) return
  if (job.kind === 'generate') await generateOnce(jobId, pusher)
  else if (job.kind === 'distribute') await distributeOnce(jobId, distributor)
  else if (job.kind === 'import') await importOnce(jobId, pusher)
  else if (operatorJobs.includes(job.kind)) await withOps((ops) => operateOnce(jobId, ops))
  else await failJob(pusher.database, jobId, `no worker knows the kind ${job.kind}`)
}

/** A job that shows no progress for this long has lost its worker, or BullMQ has lost the job. */
const silentMs = 5_000

/**
 * Enqueues every unfinished job that gave no sign of life; returns how many BullMQ took. One that
 * is waiting or being worked on is in BullMQ under the same id, and is not added twice.
 */
export async function sweepJobsOnce(
  database: Database,
  { enqueue }: Pick<Queues, 'enqueue'>,
  silent = silentMs,
): Promise<number> {
  let taken = 0
  for (const jobId of await silentJobs(database, silent)) if (await enqueue(jobId)) taken++
  return taken
}
