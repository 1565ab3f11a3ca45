import { failpoint } from '../failpoint.ts'
import type { Database } from '../ledger/database.ts'
import {
  closeImport,
  dropImport,
  type Import,
  ImportDropped,
  importOfJob,
  type NewImport,
  openImport,
  type StagedFault,
  type StagedRow,
  silentSeconds,
  stageRows,
} from '../ledger/imports.ts'
import { getJob, type Job } from '../ledger/jobs.ts'
import { createOnce, type Made, type Once } from '../ledger/once.ts'
import { type Problem, problem } from '../problems.ts'
import type { Queues } from '../queues.ts'
import type { Books } from './books.ts'

/** So many files are taken in at once: each costs a core while it is read, and buyers are waiting. */
const uploadsMax = 2
/** A batch is one COPY: large enough that a commit costs little, small enough to be kept in memory twice. */
const batchRows = 8_000
const batchBytes = 1_000_000
/** What came in so long is stored however little it is: a file that takes hours is not taken for dead. */
export const signOfLife = { ms: 10_000 }

/** Where whoever reads a file puts what it finds. */
export type Stage = {
  add(row: StagedRow | StagedFault): void
  /** Waits while more has been read than PostgreSQL has taken. */
  settle(): Promise<void>
}
/** Reads a file to its end; a problem is why it cannot be used. */
export type ReadFile = (stage: Stage) => Promise<Problem | undefined>

export type Imports = ReturnType<typeof openImports>
/** `request_id`: of the request that brings it, for the audit log. */
type Asked = NewImport & { created_by: string; request_id: string; once: Once | undefined }

/** Files of codes, as routes bring them: into PostgreSQL while they arrive, and then a job's business. */
export function openImports(
  database: Database,
  { enqueue }: Pick<Queues, 'enqueue'>,
  { fillable }: Pick<Books, 'fillable'>,
) {
  let underway = 0

  async function take(wanted: Asked, read: ReadFile): Promise<{ job: Job } | Problem> {
    const book = await fillable(wanted.book_id)
    if ('problem' in book) return book
    if (underway >= uploadsMax) return { ...problem('transfers-busy'), retryAfter: 5 }
    underway += 1
    const { created_by, request_id, once } = wanted
    try {
      const importId = await openImport(database, wanted)
      const { stage, finish } = openStage(database, importId)
      try {
        const refusal = await read(stage)
        await finish()
        if (refusal) {
          await dropImport(database, importId)
          return refusal
        }
        failpoint('import.before-close')
        const job = await closeImport(database, importId, created_by, request_id, once)
        failpoint('jobs.before-enqueue')
        await enqueue(job.job_id)
        return { job }
      } catch (error) {
        // Nobody will send the rest of it. If this fails as well, the sweep finds it silent.
        await dropImport(database, importId).catch(() => {})
        if (error instanceof ImportDropped)
          return problem('upload-dropped', { seconds: silentSeconds })
        throw error
      }
    } finally {
      underway -= 1
    }
  }

  return {
    /** Takes a file in; a repeat under its Idempotency-Key is answered with the first job, unread. */
    take(wanted: Asked, read: ReadFile) {
      const again = async ({ job }: Made) => ({ job: job! })
      return createOnce(database, wanted.once, () => take(wanted, read), again)
    },

    /** What became of a file, for whoever wants its report. */
    async ofJob(jobId: string): Promise<Import | Problem> {
      const found = await importOfJob(database, jobId)
      if (found) return found
      const job = await getJob(database, jobId)
      return problem(job?.kind === 'import' ? 'report-gone' : 'job-not-found')
    },
  }
}

/** Gathers a batch while PostgreSQL takes the one before: two are in memory, never three. */
function openStage(database: Database, importId: number) {
  let rows: StagedRow[] = []
  let faults: StagedFault[] = []
  let bytes = 0
  let seenAt = performance.now()
  let storing: Promise<void> = Promise.resolve()

  async function store(): Promise<void> {
    await storing
    seenAt = performance.now()
    storing = stageRows(database, importId, rows, faults)
    storing.catch(() => {}) // whoever stores next, or finishes, hears of it
    rows = []
    faults = []
    bytes = 0
  }

  const stage: Stage = {
    add(row) {
      if ('reason' in row) {
        faults.push(row)
        bytes += 100 + row.reason.length
      } else {
        rows.push(row)
        bytes += 100 + (row.metadata?.length ?? 0)
      }
    },
    async settle() {
      const isFull = rows.length + faults.length >= batchRows || bytes >= batchBytes
      if (isFull || performance.now() - seenAt >= signOfLife.ms) await store()
    },
  }
  const finish = async () => {
    await store()
    await storing
  }
  return { stage, finish }
}
