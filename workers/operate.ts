import type { Database } from '../src/ledger/database.ts'
import { failJob, finishJob, progressJob, startJob } from '../src/ledger/jobs.ts'
import { warmBook } from '../src/ops/books.ts'
import { drain } from '../src/ops/drain.ts'
import type { Asked } from '../src/ops/jobs.ts'
import type { Ops } from '../src/ops/ops.ts'
import { rebuild } from '../src/ops/rebuild.ts'
import { Busy, reconcileAsked } from '../src/ops/reconcile/exact.ts'
import { Unsettled } from '../src/ops/reconcile/reconcile.ts'
import { replay } from '../src/ops/replay.ts'

/** How often a job's row is told how far it is. */
const tellMs = 500

class Cancelled extends Error {}

/**
 * Does what an operator asked for over HTTP: the same functions as `npm run stampede`. Each may be done
 * twice: a worker that was killed in the middle has changed nothing that the next run minds.
 */
export async function operateOnce(jobId: string, ops: Ops): Promise<void> {
  const job = await startJob(ops.database, jobId)
  if (!job) return
  const told = sayProgress(ops.database, jobId)
  try {
    const result = await verbs(ops, job.input as Asked, told.tell)
    if (typeof result === 'string') await failJob(ops.database, jobId, result)
    else await finishJob(ops.database, jobId, result)
  } catch (error) {
    // Somebody has to do something first: the same again would come to the same.
    if (error instanceof Busy || error instanceof Unsettled)
      await failJob(ops.database, jobId, error.message)
    else if (!(error instanceof Cancelled)) throw error
  } finally {
    told.end()
  }
}

type Tell = (done: number, total?: number) => void

/** What came of it; a string says why it failed. */
async function verbs(
  ops: Ops,
  asked: Asked,
  tell: Tell,
): Promise<Record<string, unknown> | string> {
  switch (asked.kind) {
    case 'drain': {
      const drained = await drain(ops, { ...asked, onWaiting: () => tell(0), onProgress: tell })
      if ('problem' in drained) return drained.problem
      if (drained.state === 'timed-out')
        return `not drained in time, intake stays stopped: ${drained.waits.slice(0, 20).join('; ')}`
      const { certificate, reconciliation } = drained
      return { certificate, differences: reconciliation.differences }
    }
    case 'reconcile':
      return reconcileAsked(ops, { ...asked, onProgress: tell })
    case 'warm': {
      const found = await warmBook(ops, asked.book, tell)
      return 'problem' in found ? found.problem : found
    }
    case 'rebuild': {
      const found = await rebuild(ops, { ...asked, onProgress: tell })
      if (typeof found === 'string') return found
      return found.late.length > 0 ? `not rebuilt in time: shards ${found.late.join(', ')}` : found
    }
    case 'replay':
      return { shards: await replay(ops, { ...asked, onProgress: (entries) => tell(entries) }) }
  }
}

/**
 * Keeps a job's row alive and up to date. `tell` throws once somebody has cancelled the job, which ends
 * the verb where it stands.
 */
function sayProgress(database: Database, jobId: string) {
  let now: [done: number, total?: number] = [0]
  let isCancelled = false
  const timer = setInterval(async () => {
    // An outage: the verb itself notices, or the next beat gets through.
    const runs = await progressJob(database, jobId, ...now).catch(() => true)
    if (!runs) isCancelled = true
  }, tellMs)
  return {
    tell(done: number, total?: number): void {
      if (isCancelled) throw new Cancelled()
      now = [done, total]
    },
    end: () => clearInterval(timer),
  }
}
