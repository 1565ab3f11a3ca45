import { failpoint } from '../src/failpoint.ts'
import { getBook } from '../src/ledger/books.ts'
import { doneOf, pushPage, type Step, stepImport } from '../src/ledger/import-steps.ts'
import { type Import, importOfJob, resultOf } from '../src/ledger/imports.ts'
import { finishJob, progressJob, startJob } from '../src/ledger/jobs.ts'
import { type Load, loadOfJob } from '../src/ledger/loads.ts'
import {
  type Pushed,
  type Pusher,
  pushGroups,
  pushLoad,
  readyFor,
  settle,
} from '../src/recovery/push.ts'
import { PushRefused } from './generate.ts'

/**
 * Does an import's job, or what is left of it: a page a transaction in PostgreSQL, then all of it into
 * Redis, then it says so. Killed on any line, the next call goes on from the import's row; what an
 * earlier run brought into Redis is brought there again, which adds nothing twice.
 */
export async function importOnce(jobId: string, pusher: Pusher): Promise<void> {
  const { database } = pusher
  if (!(await startJob(database, jobId))) return
  for (let step: Step = 'on'; step !== 'push'; ) {
    step = await stepImport(database, jobId)
    if (step === 'over') return
    failpoint('import.after-page')
  }
  const load = (await loadOfJob(database, jobId))!
  const of = (await importOfJob(database, jobId))!
  if (load.state !== 'pushed') {
    const pushed = await pushImport(pusher, of, load)
    const again = pushed.ok ? pushed : await pushLoad(pusher, load.load_id)
    if (!again.ok) throw new PushRefused(`load ${load.load_id}: ${again.problem}`)
  }
  failpoint('import.before-finish')
  await finishJob(database, jobId, await resultOf(database, jobId))
}

/** Brings what an import wrote into Redis, page by page of its file; the next one is read meanwhile. */
async function pushImport(pusher: Pusher, of: Import, load: Load): Promise<Pushed> {
  const { database } = pusher
  const book = (await getBook(database, load.book_id))!
  let pushing = readyFor(pusher, book)
  let rows = 0
  for (let after: { code: string; line: number } | null = { code: '', line: 0 }; after; ) {
    const reading: ReturnType<typeof pushPage> = pushPage(database, load, of, after)
    const [page, pushed] = await Promise.all([reading, pushing])
    if (!pushed.ok) return pushed
    pushing = pushGroups(pusher, book, page.groups)
    rows += page.rows
    await progressJob(database, of.job_id!, doneOf(of, rows))
    failpoint('import.mid-push')
    after = page.after
  }
  const pushed = await pushing
  return pushed.ok ? settle(pusher, book, load.load_id) : pushed
}
