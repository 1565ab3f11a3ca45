import type { Database } from '../src/ledger/database.ts'
import { failJob, finishJob, progressJob, type Started, startJob } from '../src/ledger/jobs.ts'
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
/** After so long a job that threw, or whose workers were killed, fails instead of being done again. */
const patienceMs = 300_000
/** A drain that another run began looks at least for so long, however late it is. */
const lookMs = 5_000

class Cancelled extends Error {}

/**
 * Does what an operator asked for over HTTP: the same functions as `npm run stampede`. Each may be done
 * twice: a worker that was killed in the middle has changed nothing that the next run minds. What it
 * throws is tried again for a while; then the job fails, and says why.
 */
export async function operateOnce(jobId: string, ops: Ops): Promise<void> {
  const job = await startJob(ops.database, jobId)
  if (!job) return
  const told = sayProgress(ops.database, jobId)
  const begun = performance.now()
  try {
    const result = isOver(job, job.age) ? abandoned(job) : await verbs(ops, job, told.tell)
    if (typeof result === 'string') await failJob(ops.database, jobId, result)
    else await finishJob(ops.database, jobId, result)
  } catch (error) {
    if (error instanceof Cancelled) return
    // Somebody has to do something first: the same again would come to the same.
    const isFinal = error instanceof Busy || error instanceof Unsettled
    const age = job.age + performance.now() - begun
    if (!isFinal && !isOver({ ...job, was: 'running' }, age)) throw error
    await failJob(ops.database, jobId, `${job.kind} failed: ${(error as Error).message}`)
  } finally {
    told.end()
  }
}

/** Whether a job that was begun before has had all the time that it gets. */
function isOver({ was, input }: Started, age: number): boolean {
  const asked = input as Asked
  return was === 'running' && age > patienceMs + (asked.kind === 'drain' ? asked.timeoutMs : 0)
}

const abandoned = ({ asked_at }: Started) =>
  `it was asked for at ${asked_at.toISOString()} and never came to its end: were its workers killed?`

type Tell = (done: number, total?: number) => void

/** What came of it; a string says why it failed. */
async function verbs(
  ops: Ops,
  job: Started,
  tell: Tell,
): Promise<Record<string, unknown> | string> {
  const asked = job.input as Asked
  switch (asked.kind) {
    case 'drain':
      return drainAsked(ops, asked, job, tell)
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
 * Stops intake once for each time that it is asked for: whoever resumes while a worker is away does not find
 * the sale stopped by the next one.
 */
async function drainAsked(
  ops: Ops,
  asked: Asked & { kind: 'drain' },
  { was, age }: Started,
  tell: Tell,
): Promise<Record<string, unknown> | string> {
  const left = asked.timeoutMs - age
  const isStopped = was === 'running'
  if (!isStopped && left < 0)
    return `no worker took it up within ${asked.timeoutMs / 1000} s, so intake was not stopped: ask again`
  const drained = await drain(ops, {
    ...{ ...asked, isStopped, timeoutMs: isStopped ? Math.max(left, lookMs) : left },
    ...{ onWaiting: () => tell(0), onProgress: tell },
  })
  if ('problem' in drained) return drained.problem
  if (drained.state === 'undone') return `no certificate: ${drained.why.join('; ')}`
  if (drained.state === 'timed-out')
    return `not drained in time, intake stays stopped: ${drained.waits.slice(0, 20).join('; ')}`
  const { differences, more } = drained.reconciliation
  return { certificate: drained.certificate, differences, more }
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
