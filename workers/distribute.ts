import { unsettled } from '../src/ledger/distributions.ts'
import { getJob, type Job } from '../src/ledger/jobs.ts'
import { type Distributor, distribute, settleEnded } from '../src/recovery/distribute.ts'

/** A run whose job was ended has so long to write the results of what it had asked for. */
const quietMs = 5_000

/**
 * Does a distribution's job, or what is left of it, and returns the job as it is then. Killed on any
 * line, the next call goes on from the plan and the results. What it throws is worth another try.
 */
export async function distributeOnce(
  jobId: string,
  distributor: Distributor,
): Promise<Job | undefined> {
  await distribute(distributor, jobId)
  return getJob(distributor.database, jobId)
}

/**
 * Writes what distributions have given that were cancelled, or failed, just before their worker died;
 * returns how many there were. One whose shard is shut now is left for the next time.
 */
export async function settleEndedOnce(distributor: Distributor, quiet = quietMs): Promise<number> {
  const ended = await unsettled(distributor.database, quiet)
  for (const jobId of ended) await settleEnded(distributor, jobId)
  return ended.length
}
