import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { doneOf, type Step, stepImport } from '../src/ledger/import-steps.ts'
import { importOfJob, sweepImportsOnce } from '../src/ledger/imports.ts'
import { stockOf } from '../src/ledger/state.ts'
import { changeJob } from '../src/ops/jobs.ts'
import { problem } from '../src/problems.ts'
import { type Pusher, pushOnce } from '../src/recovery/push.ts'
import { importOnce } from '../workers/import.ts'
import { openFiles } from './files.ts'
import { openWorld, type World } from './world.ts'

/** An import's job, page by page: nobody takes it up but the test. */
let world: World
let files: ReturnType<typeof openFiles>
let pusher: Pusher
beforeAll(async () => {
  world = await openWorld()
  files = openFiles(world)
  pusher = { database: world.database, store: world.house.deps.store }
  await world.stopWorker()
})
afterAll(() => world?.close())

const count = 25
const page = 10
const codes = (name: string) => Array.from({ length: count }, (_, i) => `${name}-${10 + i}`)

async function staged(name: string, query = ''): Promise<{ book: string; jobId: string }> {
  const book = await world.makeBook()
  const sent = await files.send(
    book,
    `code,max_redemptions\n${codes(name).join(',3\n')},3\n`,
    query,
  )
  expect(sent.status).toBe(202)
  return { book, jobId: sent.body.job_id }
}
async function jobOf(jobId: string) {
  return (await world.database.query('SELECT * FROM jobs WHERE job_id = $1', [jobId])).rows[0]
}
const start = (jobId: string) =>
  world.database.query("UPDATE jobs SET state = 'running' WHERE job_id = $1", [jobId])
const change = (jobId: string, to: 'cancelled' | 'queued') =>
  changeJob({ database: world.database, redis: world.redis }, jobId, to, {
    ...{ actor: 'user:x', reason: 'a test' },
  })
const writtenOf = async (book: string) =>
  (await world.database.query('SELECT count(*)::int FROM codes WHERE book_id = $1', [book])).rows[0]
    .count

async function steps(jobId: string, n: number) {
  await start(jobId)
  for (let s = 0; s < n; s++) await stepImport(world.database, jobId, page)
}

test('what somebody else brought in after the check takes all of it back', async () => {
  const { book, jobId } = await staged('LATE')
  await steps(jobId, 3 + 1)
  expect(await writtenOf(book)).toBe(page)
  // Whoever asks for one now must not be told for ever that it is of this book.
  expect((await world.call('GET', 'coupons/LATE-11', { as: world.admin })).status).toBe(404)
  const other = await world.makeBook({}, ['LATE-29'])
  await importOnce(jobId, pusher)
  expect(await jobOf(jobId)).toMatchObject({
    // Checked, and the first page written: there it stays while all is taken back.
    ...{ state: 'failed', done: 11, error: expect.stringContaining('nothing was imported') },
    result: {
      ...{ codes_created: 0, rows_read: count, good_rows: count - 1, bad_rows: 1 },
      bad_rows_by: { reading: 0, job: 1 },
    },
  })
  await files.expectCodes(book, 0)
  await files.expectCodes(other, 1)
  expect(await files.report(jobId)).toEqual(['21,LATE-29,bad,the code exists already'])
  const home = await world.makeBook({}, ['LATE-11'])
  const shown = await world.call('GET', 'coupons/LATE-11', { as: world.admin })
  expect(shown.body.book_id).toBe(home)
})

test('done by two at once, each row is taken once', async () => {
  const { book, jobId } = await staged('TWO', 'on_error=keep')
  await start(jobId)
  const two = () => Promise.all([1, 2].map(() => stepImport(world.database, jobId, 3)))
  for (let turn = 0; turn < 5; turn++) await two()
  await Promise.all([importOnce(jobId, pusher), importOnce(jobId, pusher)])
  expect(await jobOf(jobId)).toMatchObject({ state: 'done', result: { codes_created: count } })
  await files.expectCodes(book, count)
})

test('cancelled in the middle, what was written stays; one that keeps goes on from there', async () => {
  const { book, jobId } = await staged('STOP', 'on_error=keep')
  await steps(jobId, 2)
  expect((await change(jobId, 'cancelled')) as object).toMatchObject({ state: 'cancelled' })
  expect(await stepImport(world.database, jobId, page)).toBe('over')
  await pushOnce(pusher)
  await files.expectCodes(book, 2 * page)
  await change(jobId, 'queued')
  await importOnce(jobId, pusher)
  expect(await jobOf(jobId)).toMatchObject({ state: 'done', result: { codes_created: count } })
  await files.expectCodes(book, count)
})

test('cancelled in the middle, one that is whole or nothing does not go on', async () => {
  const { book, jobId } = await staged('WHOLE')
  await steps(jobId, 3 + 1)
  await change(jobId, 'cancelled')
  await change(jobId, 'queued')
  await importOnce(jobId, pusher)
  const said = expect.stringContaining(`${page} codes went into stock`)
  expect(await jobOf(jobId)).toMatchObject({ state: 'failed', error: said })
  await pushOnce(pusher)
  await files.expectCodes(book, page)
  // Before anything was written it may.
  const early = await staged('EARLY')
  await steps(early.jobId, 1)
  await change(early.jobId, 'cancelled')
  await change(early.jobId, 'queued')
  await importOnce(early.jobId, pusher)
  await files.expectCodes(early.book, count)
})

test('cancelled while it is taken back, it is taken back to its end', async () => {
  const { book, jobId } = await staged('UNDO')
  await steps(jobId, 3 + 1)
  await world.makeBook({}, ['UNDO-29'])
  await stepImport(world.database, jobId, page)
  expect(await importOfJob(world.database, jobId)).toMatchObject({ step: 'undo' })
  expect(await writtenOf(book)).toBeGreaterThan(0)
  expect((await change(jobId, 'cancelled')) as object).toMatchObject({ state: 'queued' })
  expect(await stepImport(world.database, jobId, page)).toBe('over')
  await pushOnce(pusher)
  await importOnce(jobId, pusher)
  const error = expect.stringContaining('nothing was imported')
  const finished_at = expect.any(Date)
  expect(await jobOf(jobId)).toMatchObject({ state: 'cancelled', error, finished_at })
  await pushOnce(pusher)
  await files.expectCodes(book, 0)
})

test('its progress moves in every step and never back', async () => {
  const { jobId } = await staged('MOVE')
  await start(jobId)
  const seen: number[] = []
  for (let step: Step = 'on'; step === 'on'; ) {
    step = await stepImport(world.database, jobId, page)
    seen.push((await jobOf(jobId)).done)
  }
  // Three pages are looked through and three are written, a third of the way each; then they are pushed.
  expect(seen).toEqual([0, 3, 6, 8, 11, 15, 16])
  const pushing = (await importOfJob(world.database, jobId))!
  expect([doneOf(pushing, 0), doneOf(pushing, 10), doneOf(pushing, count)]).toEqual([16, 20, count])
  await importOnce(jobId, pusher)
  expect(await jobOf(jobId)).toMatchObject({ state: 'done', done: count, total: count })
})

test('done again, it forgets the faults of the last time a bite at a time', async () => {
  await world.makeBook({}, codes('BITE'))
  const { jobId } = await staged('BITE')
  await steps(jobId, 3)
  const failed = await jobOf(jobId)
  expect(failed).toMatchObject({
    state: 'failed',
    error: expect.stringMatching(/^25 rows are bad/),
  })
  expect(failed.result).toMatchObject({ rows_read: count, good_rows: 0, bad_rows: count })
  await change(jobId, 'queued')
  await start(jobId)
  const faults: number[] = []
  for (let step: Step = 'on'; step === 'on'; ) {
    step = await stepImport(world.database, jobId, page)
    const { rows } = await world.database.query(
      'SELECT count(*)::int FROM import_faults JOIN imports USING (import_id) WHERE job_id = $1',
      [jobId],
    )
    faults.push(rows[0].count)
  }
  // Then each page notes its own again.
  expect(faults).toEqual([15, 5, 10, 20, count])
  const { error, result } = await jobOf(jobId)
  expect({ error, result }).toEqual({ error: failed.error, result: failed.result })
})

test('goes on where Redis refused, and pushes limits of their own once more', async () => {
  const { book, jobId } = await staged('AGAIN')
  const spy = vi.spyOn(pusher.store, 'load').mockResolvedValue(problem('not-ready'))
  await expect(importOnce(jobId, pusher)).rejects.toThrow('not-ready')
  expect((await jobOf(jobId)).state).toBe('running')
  spy.mockRestore()
  await importOnce(jobId, pusher)
  await files.expectCodes(book, count)
  // What a Redis forgot is found by the load, limits and all.
  const { rows } = await world.database.query(
    "UPDATE loads SET state = 'written' WHERE book_id = $1 RETURNING load_id",
    [book],
  )
  expect(rows).toHaveLength(1)
  const shard = (await world.database.query('SELECT shard FROM books WHERE book_id = $1', [book]))
    .rows[0].shard
  await world.redis.del(`{s${shard}}:uses:${book}`)
  await world.redis.hset(`{s${shard}}:uses:${book}`, 'AGAIN-10', '3')
  expect(await pushOnce(pusher)).toBe(1)
  expect(await world.redis.hlen(`{s${shard}}:uses:${book}`)).toBe(count)
})

test('one whose rows are gone says so', async () => {
  const { jobId } = await staged('GONE')
  await world.database.query('UPDATE imports SET cleared = true WHERE job_id = $1', [jobId])
  await importOnce(jobId, pusher)
  const error = 'its file is gone: send it again'
  expect(await jobOf(jobId)).toMatchObject({ state: 'failed', error })
})

test('a rebuild in the middle leaves out what may still be taken back', async () => {
  const { book, jobId } = await staged('HALF')
  const stock = async () => {
    const all: string[] = []
    for await (const { codes } of stockOf(world.database, book)) all.push(...codes)
    return all
  }
  await steps(jobId, 3 + 1)
  expect(await writtenOf(book)).toBe(page)
  expect(await stock()).toEqual([])
  await importOnce(jobId, pusher)
  expect(await stock()).toHaveLength(count)
})

test('done with other sweeps: rows go with the job, reports after a week', async () => {
  const { book, jobId } = await staged('SWEEP')
  await importOnce(jobId, pusher)
  await sweepImportsOnce(world.database)
  expect(await files.leftovers(book)).toBe(1)
  expect((await files.download(`imports/${jobId}/report`)).status).toBe(200)
  await world.database.query(
    "UPDATE jobs SET finished_at = now() - interval '8 days' WHERE job_id = $1",
    [jobId],
  )
  await sweepImportsOnce(world.database)
  expect(await files.leftovers(book)).toBe(0)
  const gone = await files.download(`imports/${jobId}/report`)
  expect([gone.status, JSON.parse(gone.text).code]).toEqual([410, 'report-gone'])
})
