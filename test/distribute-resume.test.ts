import { afterAll, beforeAll, expect, test } from 'vitest'
import { createDistribution } from '../src/ledger/distributions.ts'
import { getJob, type JobState } from '../src/ledger/jobs.ts'
import { changeJob } from '../src/ops/jobs.ts'
import { reconcile } from '../src/ops/reconcile/reconcile.ts'
import type { Distributor } from '../src/recovery/distribute.ts'
import { keyPrefix } from '../src/recovery/hand-out.ts'
import { keys } from '../src/store/keys.ts'
import { distributeOnce, settleEndedOnce } from '../workers/distribute.ts'
import { openWorld, until, type World } from './world.ts'

/** One process' view: what happens in the middle of a distribution, and how the next run goes on. */
let world: World
let pool: string
const users = 1_200
const each = 8
/** Users of a chunk: the first two of three are full. */
const chunk = 500
const by = { actor: 'test', reason: 'a test' }

beforeAll(async () => {
  world = await openWorld()
  const user_ids = Array.from({ length: users }, (_, u) => `user-${u}`)
  const body = { name: 'Everybody', user_ids }
  pool = (await world.call('POST', 'pools', { as: world.admin, body })).body.pool_id
})
afterAll(() => world?.close())

/** A distribution that no worker takes up unless it is told to. */
async function makeJob(codes = users * each + 100, policy = {}) {
  const book = await world.makeBook(policy, codes)
  const job = await createDistribution(world.database, {
    ...{ pool_id: pool, book_id: book, users, mode: 'equal', amount: each, all: false },
    ...{ request_id: 'a-request', created_by: 'key:test' },
  })
  return { book, jobId: job.job_id }
}
const distributor = (): Distributor => ({
  database: world.database,
  store: world.house.deps.store,
})
/** Calls `meanwhile` when this many shares have been asked for, and waits for it. */
function interruptedAt(nth: number, meanwhile: () => Promise<unknown>): Distributor {
  const { store, database } = distributor()
  let asked = 0
  const assign: typeof store.assign = async (...args) => {
    if (++asked === nth) await meanwhile()
    return store.assign(...args)
  }
  return { database, store: { ...store, assign } }
}
const job = async (id: string) => (await getJob(world.database, id))!
const ops = () => ({ redis: world.house.place.redis, database: world.database })
const change = (id: string, state: Extract<JobState, 'cancelled' | 'queued'>) =>
  changeJob(ops(), id, state, by)
/** Has it done again. This world's worker may take it up as well, and whoever comes later does the rest. */
async function doneAgain(jobId: string): Promise<void> {
  await change(jobId, 'queued')
  await distributeOnce(jobId, distributor())
  await until(async () => (await job(jobId)).finished_at !== null, 'it is over')
  expect(await job(jobId)).toMatchObject({ state: 'done', done: users, error: null })
}

/** Ledger and results say the same; these many users have their share, and nobody has another. */
async function expectServed(book: string, jobId: string, served: number) {
  await world.level()
  const { rows } = await world.database.query(
    `SELECT user_id, count(*)::int AS coupons, string_agg(code, ' ' ORDER BY code) AS codes
     FROM ledger WHERE book_id = $1 AND kind = 'assign' GROUP BY 1 ORDER BY 1`,
    [book],
  )
  expect(rows).toHaveLength(served)
  expect([...new Set(rows.map(({ coupons }) => coupons))]).toEqual(served > 0 ? [each] : [])
  const { rows: told } = await world.database.query(
    `SELECT user_id, codes FROM distribution_shares
     JOIN distribution_results USING (job_id, position)
     WHERE job_id = $1 AND codes <> '' ORDER BY user_id`,
    [jobId],
  )
  const sorted = told.map(({ user_id, codes }) => [user_id, codes.split(' ').sort().join(' ')])
  expect(sorted).toEqual(rows.map(({ user_id, codes }) => [user_id, codes]))
  expect((await job(jobId)).result).toMatchObject({ total_assigned: served * each })
}

test('cancelled in the middle it ends at the next chunk; done again it gives the rest', async () => {
  const { book, jobId } = await makeJob()
  const cancel = () =>
    world.call('POST', `distributions/${jobId}/cancel`, { as: world.service, headers: {} })
  const ended = await distributeOnce(
    jobId,
    interruptedAt(chunk + 1, async () => {
      expect((await cancel()).body).toMatchObject({ state: 'cancelled' })
    }),
  )
  expect(ended).toMatchObject({ state: 'cancelled', done: 2 * chunk })
  await expectServed(book, jobId, 2 * chunk)
  const open = async () => {
    const all = await world.call('GET', `distributions/${jobId}/results?limit=1000&short=true`, {
      as: world.service,
    })
    expect(all.body.data).toEqual([])
    const { body } = await world.call(
      'GET',
      `distributions/${jobId}/results?limit=1000&starting_after=999`,
      { as: world.service },
    )
    return body.data.filter(({ settled }: { settled: boolean }) => !settled).length
  }
  expect(await open()).toBe(users - 2 * chunk)
  expect((await cancel()).body.code).toBe('wrong-job-state')
  await doneAgain(jobId)
  expect(await open()).toBe(0)
  await expectServed(book, jobId, users)
})

test('a book that is paused in the middle ends it, and says why; opened again it gives the rest', async () => {
  const { book, jobId } = await makeJob()
  const set = (is_active: boolean) =>
    world.call('PATCH', `books/${book}`, { as: world.admin, body: { is_active } })
  const ended = await distributeOnce(
    jobId,
    interruptedAt(chunk + 1, () => set(false)),
  )
  expect(ended).toMatchObject({ state: 'failed', error: 'book-inactive: Book inactive' })
  const { rows } = await world.database.query(
    'SELECT count(DISTINCT user_id)::int AS served FROM ledger WHERE book_id = $1',
    [book],
  )
  // Others of the second chunk may have been asked for before it was paused.
  expect(rows[0].served).toBeGreaterThanOrEqual(chunk)
  expect(rows[0].served).toBeLessThan(2 * chunk)
  await expectServed(book, jobId, rows[0].served)
  await set(true)
  await doneAgain(jobId)
  await expectServed(book, jobId, users)
})

test('two runs at once give each share once, and the later one writes it down', async () => {
  const { book, jobId } = await makeJob()
  const later: Promise<unknown>[] = []
  const earlier = distributeOnce(
    jobId,
    interruptedAt(chunk + 1, async () => {
      later.push(distributeOnce(jobId, distributor()))
      await until(async () => (await job(jobId)).done > chunk, 'the other run is ahead')
    }),
  )
  await earlier
  await Promise.all(later)
  expect(await job(jobId)).toMatchObject({ state: 'done', done: users })
  await expectServed(book, jobId, users)
})

/** Has a run end in the second chunk, most of which was given, with nothing of it written down. */
async function dying(jobId: string): Promise<void> {
  const died = () => Promise.reject(new Error('died'))
  await expect(distributeOnce(jobId, interruptedAt(chunk + 300, died))).rejects.toThrow('died')
  await world.level()
  const { rows } = await world.database.query(
    `SELECT (SELECT count(*)::int FROM distribution_results WHERE job_id = $1) AS written,
       (SELECT count(DISTINCT user_id)::int FROM ledger JOIN jobs USING (book_id)
        WHERE job_id = $1) AS given`,
    [jobId],
  )
  expect(rows[0]).toEqual({ written: chunk, given: 2 * chunk - 1 })
}

test('nobody gets a second share where the script has forgotten the first', async () => {
  const { book, jobId } = await makeJob()
  await dying(jobId)
  // As if two days had passed: keys are kept no longer.
  for (const { shard } of world.house.place.gates) {
    const days = [-1, 0, 1].map((day) => Math.floor(Date.now() / 86_400_000) + day)
    for (const day of days) {
      const known = await world.redis.hkeys(keys.answers(shard, day))
      const shares = known.filter((key) => key.startsWith(keyPrefix(jobId)))
      if (shares.length > 0) await world.redis.hdel(keys.answers(shard, day), ...shares)
    }
  }
  await world.database.query(
    `UPDATE distributions SET asked_at = asked_at - interval '50 minutes' WHERE job_id = $1`,
    [jobId],
  )
  expect(await distributeOnce(jobId, distributor())).toMatchObject({ state: 'done' })
  await expectServed(book, jobId, users)
})

test('nobody gets a second share where the ledger is asked too early', async () => {
  const { book, jobId } = await makeJob()
  await dying(jobId)
  await world.database.query(
    'UPDATE distributions SET asked_epoch = NULL, asked_n = NULL WHERE job_id = $1',
    [jobId],
  )
  expect(await distributeOnce(jobId, distributor())).toMatchObject({ state: 'done' })
  await expectServed(book, jobId, users)
})

test('cancelled after its run died it is told what was given all the same', async () => {
  const { book, jobId } = await makeJob()
  await dying(jobId)
  await change(jobId, 'cancelled')
  expect(await settleEndedOnce(distributor(), 0)).toBe(1)
  expect(await settleEndedOnce(distributor(), 0)).toBe(0)
  expect(await job(jobId)).toMatchObject({ state: 'cancelled' })
  await expectServed(book, jobId, 2 * chunk - 1)
})

test('a Redis that forgot what it had given gives it once more, and once in all', async () => {
  const { book, jobId } = await makeJob()
  await world.level()
  await world.stopWorker()
  // Nobody flushes: the results are not written, and the run gives up.
  const run = distributeOnce(jobId, distributor()).catch((error: Error) => error.message)
  const shard = (await world.database.query('SELECT shard FROM books WHERE book_id = $1', [book]))
    .rows[0].shard
  const held = async () => Number(await world.redis.hget(keys.book(shard, book), 'held'))
  await until(async () => (await held()) === users * each, 'everything is given')
  await world.redis.flushall()
  await world.startWorker()
  expect(await run).toMatch(/lost|follow|shut|not-ready|connection/i)
  await until(async () => (await world.call('GET', '/readyz')).status === 200, 'it serves again')
  const { rows } = await world.database.query('SELECT FROM ledger WHERE book_id = $1', [book])
  expect(rows).toEqual([])
  const again = () =>
    distributeOnce(jobId, distributor()).then(
      (one) => one?.state === 'done',
      () => false,
    )
  await until(again, 'the distribution is done')
  await expectServed(book, jobId, users)
  expect((await reconcile(ops(), { exact: false })).verdict).toBe('equal')
})
