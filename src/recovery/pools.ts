import { failpoint } from '../failpoint.ts'
import { type Book, getBook } from '../ledger/books.ts'
import { distributionResults, type Result } from '../ledger/distribution-results.ts'
import { createDistribution, type Input } from '../ledger/distributions.ts'
import { getJob, type Job } from '../ledger/jobs.ts'
import { createOnce, type Once } from '../ledger/once.ts'
import {
  changeUsers,
  createPool,
  deletePool,
  getPool,
  listPools,
  type NewPool,
  type Pool,
  poolMembers,
  updatePool,
} from '../ledger/pools.ts'
import { shardRow } from '../ledger/shards.ts'
import { type Problem, problem } from '../problems.ts'
import type { Queues } from '../queues.ts'
import { shareMax } from '../shares.ts'
import type { Store } from '../store/store.ts'
import { type Distributor, distribute } from './distribute.ts'

/** Pools of more users than this are served by a job. */
export const distributeNowMax = 1_000
/** A client waits no longer than this; what is not done by then goes on as a job. */
const nowMs = 8_000
/** A repeat waits so long for the first request, or for the worker that took its place. */
const repeatMs = 2_000
const lookMs = 50

/** `amount` left out, in random mode: whatever is in stock. */
export type Wanted = Pick<Input, 'pool_id' | 'mode' | 'request_id'> & {
  book_id: string
  amount?: number | undefined
  created_by: string
  once?: Once | undefined
}
/** What everybody got, or the job that will tell. */
export type Distributed = { job: Job; results?: Result[] }

export type Pools = ReturnType<typeof openPools>

/** Pools as routes ask for them, and what is distributed to them. */
export function openPools(
  distributor: Distributor & { store: Pick<Store, 'bookCounts'> },
  { enqueue }: Pick<Queues, 'enqueue'>,
) {
  const { database } = distributor

  async function get(id: string): Promise<Pool | Problem> {
    return (await getPool(database, id)) ?? problem('pool-not-found')
  }

  /** Why nothing can be distributed now, or how many coupons at most. */
  async function checked(wanted: Wanted): Promise<{ users: number; amount: number } | Problem> {
    const pool = await get(wanted.pool_id)
    if ('problem' in pool) return pool
    if (!pool.is_active) return problem('pool-inactive')
    if (pool.user_count === 0) return problem('pool-empty')
    const book = await getBook(database, wanted.book_id)
    if (!book) return problem('book-not-found')
    const { intake } = await shardRow(database, book.shard)
    const closed = closedNow(book, intake === 'stopped')
    if (closed) return closed
    const counts = await distributor.store.bookCounts(book.shard, book.book_id)
    if (!counts.ok) return counts
    const users = pool.user_count
    const amount = wanted.amount ?? Math.min(counts.left, users * shareMax)
    if (wanted.mode === 'random' && amount > users * shareMax) return tooMany(users * shareMax)
    if (amount === 0 || amount > counts.left) return problem('sold-out', { left: counts.left })
    return { users, amount }
  }

  async function begin(wanted: Wanted): Promise<Distributed | Problem> {
    const found = await checked(wanted)
    if ('problem' in found) return found
    const all = wanted.amount === undefined
    const job = await createDistribution(database, { ...wanted, ...found, all })
    failpoint('jobs.before-enqueue')
    if (found.users > distributeNowMax) {
      await enqueue(job.job_id)
      return { job }
    }
    // Whatever goes wrong from here on, the job's row is there: a worker goes on with it, and says what
    // it meets. To tell the client that nothing was done would be wrong.
    const run = distribute(distributor, job.job_id).catch(() => {})
    await Promise.race([run, after(nowMs)])
    return answered(job.job_id).catch(() => ({ job }))
  }

  /** What everybody got, once it is over. */
  async function answered(jobId: string): Promise<Distributed> {
    const job = (await getJob(database, jobId))!
    if (!job.finished_at || job.total > distributeNowMax) return { job }
    const results = await distributionResults(database, jobId, { limit: distributeNowMax })
    return { job, results }
  }

  async function again(job: Job): Promise<Distributed> {
    const until = performance.now() + repeatMs
    for (;;) {
      const now = await answered(job.job_id)
      if (now.results || now.job.total > distributeNowMax || performance.now() > until) return now
      await after(lookMs)
    }
  }

  return {
    get,
    create(wanted: NewPool, by: Parameters<typeof createPool>[2]) {
      const make = () => createPool(database, wanted, by)
      return createOnce(database, wanted.once, make, ({ pool_id }) => get(pool_id!))
    },
    list: bound(listPools),
    update: bound(updatePool),
    remove: bound(deletePool),
    changeUsers: bound(changeUsers),
    members: bound(poolMembers),

    /** Gives a pool's users coupons: at once where they are few, else as a job. */
    distribute: (wanted: Wanted) =>
      createOnce(
        database,
        wanted.once,
        () => begin(wanted),
        ({ job }) => again(job!),
      ),

    /** Results of a distribution, one more than `limit` where there are more. */
    async results(jobId: string, page: Parameters<typeof distributionResults>[2]) {
      const job = await getJob(database, jobId)
      if (job?.kind !== 'distribute') return problem('job-not-found')
      return distributionResults(database, jobId, page)
    },

    async job(jobId: string): Promise<Job | Problem> {
      const job = await getJob(database, jobId)
      return job?.kind === 'distribute' ? job : problem('job-not-found')
    },
  }

  function bound<A extends unknown[], R>(verb: (on: typeof database, ...args: A) => R) {
    return (...args: A) => verb(database, ...args)
  }
}

function after(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms).unref())
}

const tooMany = (most: number): Problem => ({
  ...problem('invalid-request'),
  errors: [{ path: 'count', message: `must not be over ${shareMax} for each user: ${most} here` }],
})

/** Why the book assigns nothing now, in the script's order: then there is no plan to be made. */
function closedNow(book: Book, stopped: boolean): Problem | undefined {
  const now = new Date()
  const { expiration_date, opens_at, closes_at } = book
  const at = (time: Date) => time.toISOString()
  if (stopped || book.intake === 'stopped') return { ...problem('intake-stopped'), retryAfter: 5 }
  if (book.pushed_version === 0) return { ...problem('not-ready'), retryAfter: 1 }
  if (book.archived_at) return problem('book-archived')
  if (expiration_date && expiration_date <= now)
    return problem('book-expired', { expiration_date: at(expiration_date) })
  if (!book.is_active) return problem('book-inactive')
  if (opens_at && opens_at > now) return problem('book-not-open', { opens_at: at(opens_at) })
  if (closes_at && closes_at <= now) return problem('book-closed', { closes_at: at(closes_at) })
  return undefined
}
