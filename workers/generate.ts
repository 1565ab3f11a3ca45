import { failpoint } from '../src/failpoint.ts'
import { type Book, getBook } from '../src/ledger/books.ts'
import { writeChunk } from '../src/ledger/generate.ts'
import { failJob, finishJob, type Job, startJob } from '../src/ledger/jobs.ts'
import { cutLoad, type Load, loadOfJob } from '../src/ledger/loads.ts'
import {
  type Pushed,
  type Pusher,
  pushCodes,
  pushLoad,
  readyFor,
  settle,
} from '../src/recovery/push.ts'

/** What is thrown when Redis does not take the codes now; the job's row brings the job back. */
export class PushRefused extends Error {}

/** Chunks in a row that may find nothing free. Others may have taken what was there at the start. */
const emptyChunksMax = 20

/**
 * Does a generation's job, or what is left of it, and returns how many codes it wrote. Each chunk
 * is one transaction in PostgreSQL and then a push into Redis, while the next one is written.
 * Killed on any line, the next call goes on from the load's row. What of an earlier run Redis has
 * cannot be known, so such a load is pushed once more as a whole; that adds nothing twice.
 */
export async function generateOnce(jobId: string, pusher: Pusher): Promise<number> {
  const { database } = pusher
  const job = await startJob(database, jobId)
  if (!job) return 0
  const load = (await loadOfJob(database, jobId))!
  const book = (await getBook(database, load.book_id))!
  const before = load.written
  const { load: written, pushed } = await writeAll(pusher, job, book, load)
  if (written.state !== 'pushed') {
    const settled = pushed.ok ? await settle(pusher, book, load.load_id) : pushed
    const again = settled.ok ? settled : await pushLoad(pusher, load.load_id)
    if (!again.ok) throw new PushRefused(`load ${load.load_id}: ${again.problem}`)
  }
  const codes_created = written.written
  if (codes_created < job.total)
    await failJob(database, jobId, `pattern-too-small: made ${codes_created} of ${job.total} codes`)
  else await finishJob(database, jobId, { book_id: load.book_id, codes_created })
  return codes_created - before
}

/** Writes chunk after chunk. `pushed` is ok if all codes of the load went straight into Redis. */
async function writeAll(
  pusher: Pusher,
  job: Job,
  book: Book,
  start: Load,
): Promise<{ load: Load; pushed: Pushed }> {
  let load = start
  let pushing = start.written === 0 ? readyFor(pusher, book) : Promise.resolve(unknown)
  for (let empty = 0; load.state === 'writing'; ) {
    const [chunk, pushed] = await Promise.all([writeChunk(pusher.database, job, load), pushing])
    failpoint('generate.after-chunk')
    pushing = pushed.ok
      ? pushCodes(pusher, book, chunk.codes, load.max_redemptions)
      : Promise.resolve(pushed)
    load = chunk.load
    empty = chunk.codes.length === 0 ? empty + 1 : 0
    if (empty > emptyChunksMax) load = await cutLoad(pusher.database, load.load_id)
  }
  return { load, pushed: await pushing }
}

/** Whether Redis has the codes of an earlier run. */
const unknown: Pushed = { ok: false, problem: 'not-ready' }
