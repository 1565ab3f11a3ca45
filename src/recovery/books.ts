import { failpoint } from '../failpoint.ts'
import type { Deed } from '../ledger/audit.ts'
import {
  addUnits,
  archiveBook,
  type Book,
  type BookChange,
  createBook,
  getBook,
  type NewBook,
  updateBook,
} from '../ledger/books.ts'
import { type Generation, generateLater, generateNow } from '../ledger/generate.ts'
import { getJob, type Job, type JobFilter, listJobs } from '../ledger/jobs.ts'
import {
  type BookFilter,
  type CouponState,
  countLocked,
  listBooks,
  listCodes,
  listRedemptions,
  type Page,
} from '../ledger/lists.ts'
import { codesOf, getLoad } from '../ledger/loads.ts'
import { createOnce, type Made, type Once } from '../ledger/once.ts'
import { isOutage } from '../ledger/outage.ts'
import { type Upload, uploadCodes } from '../ledger/upload.ts'
import { type Problem, problem } from '../problems.ts'
import type { Queues } from '../queues.ts'
import {
  maxRedemptions,
  openShards,
  type Pushed,
  type Pusher,
  pushBook,
  pushFresh,
  pushLoad,
  readyFor,
} from './push.ts'

/** More codes than this are not waited for: a job makes them. */
export const generateNowMax = 10_000

/** Codes that are in stock now, or the job that brings them there. */
type Filled = { codes: string[]; job?: never } | { codes?: never; job: Job }

/**
 * Books and codes, as routes ask for them: PostgreSQL first, then Redis, and only then the answer.
 * Where either store goes away after PostgreSQL has committed, the client hears `not-in-force` and the
 * sweep brings Redis level.
 */
export type Books = ReturnType<typeof openBooks>

export function openBooks(pusher: Pusher, { enqueue }: Pick<Queues, 'enqueue'>) {
  const { database, store } = pusher

  async function get(id: string): Promise<Book | Problem> {
    return (await getBook(database, id)) ?? problem('book-not-found')
  }

  /** The book as it is, once Redis has it. PostgreSQL has it already, so nobody may send it again. */
  async function pushed(book: Book | Problem): Promise<Book | Problem> {
    if ('problem' in book) return book
    return (await inForce(pushBook(pusher, book.book_id))) ? book : notInForce
  }

  /** Asks Redis first whether it would take a change of this book, then makes it. */
  async function change(
    id: string,
    make: (book: Book) => Promise<Book | Problem | undefined>,
  ): Promise<Book | Problem> {
    const book = await get(id)
    if ('problem' in book) return book
    const ready = await readyFor(pusher, book)
    return ready.ok ? pushed((await make(book)) ?? archived) : ready
  }

  /** A book of codes that takes new ones now. */
  async function fillable(id: string): Promise<Book | Problem> {
    const book = await get(id)
    if ('problem' in book) return book
    if (book.archived_at) return problem('book-archived')
    if (book.kind === 'counter') return problem('wrong-book-kind')
    const ready = await readyFor(pusher, book)
    return ready.ok ? book : ready
  }

  /** Fills a book with generated codes, while the client waits or as a job. */
  async function generate(wanted: Generation): Promise<Filled | Problem> {
    const book = await fillable(wanted.book_id)
    if ('problem' in book) return book
    const pattern = wanted.pattern ?? book.code_pattern
    if (wanted.count > generateNowMax) {
      const made = await generateLater(database, { ...wanted, pattern })
      failpoint('jobs.before-enqueue')
      if ('job' in made) await enqueue(made.job.job_id)
      return made
    }
    const made = await generateNow(database, { ...wanted, pattern })
    if ('problem' in made) return made
    const done = await inForce(pushFresh(pusher, book, made.load, made.codes))
    return done ? { codes: made.codes.toSorted() } : notInForce
  }

  /** Fills a book with codes that somebody else made. */
  async function upload(wanted: Upload): Promise<Filled | Problem> {
    const book = await fillable(wanted.book_id)
    if ('problem' in book) return book
    const made = await uploadCodes(database, wanted)
    if ('problem' in made) return made
    const done = await inForce(pushFresh(pusher, book, made.load, made.codes))
    return done ? { codes: made.codes } : notInForce
  }

  /** What an earlier fill made; its push may have failed then, so it is finished first. */
  async function filled({ load_id, job }: Made): Promise<Filled | Problem> {
    if (job) return { job }
    const load = await getLoad(database, load_id!)
    if (load!.state !== 'pushed') {
      const done = await pushLoad(pusher, load_id!)
      if (!done.ok) return done
    }
    return { codes: await codesOf(database, load_id!) }
  }

  return {
    get,
    fillable,
    maxRedemptions,

    /** `deedOf`, `deed`: what the audit log is to say of it. */
    create(wanted: NewBook, deedOf: (book: Book) => Deed) {
      const create = async () => {
        const open = openShards(pusher)
        if (open.length === 0) return { ...problem('not-ready'), retryAfter: 1 }
        return pushed(await createBook(database, wanted, open, deedOf))
      }
      return createOnce(database, wanted.once, create, ({ book }) => pushed(book!))
    },

    update(id: string, wanted: BookChange, deed: Deed): Promise<Book | Problem> {
      return change(id, () => updateBook(database, id, wanted, deed))
    },

    archive(id: string, deed: Deed): Promise<Book | Problem> {
      return change(id, () => archiveBook(database, id, deed))
    },

    list: (filter: BookFilter) => listBooks(database, filter),
    redemptions: (id: string, page: Page) => listRedemptions(database, id, page),

    /** The codes of a book, each with how often it may be redeemed, in stock or not. */
    async codes(book: Book, page: Page & { state?: CouponState }) {
      const { now, rows } = await listCodes(database, book, page)
      const usual = maxRedemptions(book)
      return { now, rows: rows.map((row) => ({ ...row, max: row.max_redemptions ?? usual })) }
    },

    /** The numbers of a book: Redis' counters, and what only PostgreSQL can count. */
    async counts({ shard, book_id, pushed_version }: Book) {
      if (pushed_version === 0) return { ...problem('not-ready'), retryAfter: 1 }
      const counts = await store.bookCounts(shard, book_id)
      return counts.ok ? { ...counts, locked: await countLocked(database, book_id) } : counts
    },

    /** Generates codes while the client waits, or makes a job of it. */
    generate(wanted: Generation) {
      return createOnce(database, wanted.once, () => generate(wanted), filled)
    },

    /** Adds a list of codes; returns those that were new. */
    upload(wanted: Upload) {
      return createOnce(database, wanted.once, () => upload(wanted), filled)
    },

    /** Adds units to a counter book. */
    addUnits(id: string, count: number, actor: string, once?: Once, request_id?: string) {
      const add = () =>
        change(id, async ({ kind }) =>
          kind === 'counter' ? addUnits(database, id, count, actor, once, request_id) : notCounter,
        )
      return createOnce(database, once, add, ({ book }) => pushed(book!))
    },

    jobs: (filter: JobFilter) => listJobs(database, filter),
    async job(id: string): Promise<Job | Problem> {
      return (await getJob(database, id)) ?? problem('job-not-found')
    },
  }
}
const archived = problem('book-archived')

/** What PostgreSQL has committed must not be sent again, whichever store goes away while Redis hears of it. */
async function inForce(pushing: Promise<Pushed>): Promise<boolean> {
  try {
    return (await pushing).ok
  } catch (error) {
    if (isOutage(error)) return false
    throw error
  }
}
const notInForce: Problem = { ...problem('not-in-force'), retryAfter: 1 }
const notCounter: Problem = {
  ok: false,
  problem: 'invalid-request',
  errors: [
    { path: 'book_id', message: 'must name a counter book: this one takes generated codes' },
  ],
}
