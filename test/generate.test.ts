import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import pg from 'pg'
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest'
import { environmentOf } from '../src/config.ts'
import { generateLater } from '../src/ledger/generate.ts'
import { problem } from '../src/problems.ts'
import { type Pusher, pushOnce } from '../src/recovery/push.ts'
import { generateOnce } from '../workers/generate.ts'
import { openWorld, until, type World } from './world.ts'

let world: World
let as: string
let pusher: Pusher

beforeAll(async () => {
  world = await openWorld()
  as = world.admin
  pusher = { database: world.database, store: world.house.deps.store }
})
afterAll(() => world?.close())
afterEach(() => {
  vi.restoreAllMocks()
})

const total = 110_000
const refused = { ...problem('not-ready'), retryAfter: 1 }

async function jobRow(jobId: string) {
  const { rows } = await world.database.query('SELECT * FROM jobs WHERE job_id = $1', [jobId])
  return rows[0]
}
const finished = (jobId: string) =>
  until(async () => (await jobRow(jobId)).state === 'done', 'the job is done', 25_000)

/** A job that no worker takes up unless it is told to. */
async function makeJob(pattern?: string): Promise<{ book: string; jobId: string }> {
  const book = await world.makeBook()
  const wanted = { book_id: book, count: total, pattern, max_redemptions: null, created_by: 'test' }
  const made = await generateLater(world.database, wanted)
  if ('problem' in made) throw new Error(made.problem)
  return { book, jobId: made.job.job_id }
}

/** PostgreSQL, its counters and Redis all have exactly `count` codes of the book. */
async function expectExactly(book: string, count: number, jobId: string) {
  const { rows } = await world.database.query(
    `SELECT (SELECT count(*) FROM codes c WHERE c.book_id = b.book_id) AS rows,
       total_code_count, written, loads.total, state, shard
     FROM books b JOIN loads USING (book_id) WHERE book_id = $1`,
    [book],
  )
  const { shard, ...found } = rows[0]
  const state = 'pushed'
  expect(found).toEqual({
    rows: count,
    total_code_count: count,
    written: count,
    total: count,
    state,
  })
  expect(await world.redis.scard(`{s${shard}}:stock:${book}`)).toBe(count)
  expect(await world.redis.hget(`{s${shard}}:book:${book}`, 'left')).toBe(String(count))
  const result = { book_id: book, codes_created: count }
  expect(await jobRow(jobId)).toMatchObject({ state: 'done', done: count, total: count, result })
}

describe('a large generation', () => {
  test('is answered with a job, which makes all codes and says how far it is', async () => {
    const book = await world.makeBook()
    const body = { count: total, pattern: 'BIG-{}' }
    const {
      status,
      body: job,
      headers,
    } = await world.call('POST', `books/${book}/codes/generate`, { as, body })
    expect(status).toBe(202)
    expect(job).toMatchObject({ kind: 'generate', book_id: book, state: 'queued', total, done: 0 })
    const location = headers.get('location')!
    expect(location).toBe(`/api/v1/jobs/${job.job_id}`)
    const seen = new Set<number>()
    await until(async () => {
      const shown = (await world.call('GET', location, { as })).body
      seen.add(shown.done)
      return shown.state === 'done'
    }, 'the job is done')
    expect([...seen].some((done) => done > 0 && done < total)).toBe(true)
    await expectExactly(book, total, job.job_id)
  })

  test('killed in the middle with its process is finished by the next one', async () => {
    await world.stopWorker()
    const book = await world.makeBook()
    const body = { count: 150_000 }
    const made = await world.call('POST', `books/${book}/codes/generate`, { as, body })
    const { job_id } = made.body
    const { REDIS_URL, DATABASE_URL } = world.settings
    const main = fileURLToPath(new URL('../workers/main.ts', import.meta.url))
    const worker = spawn(process.execPath, [main], {
      env: environmentOf({ REDIS_URL, DATABASE_URL, LOG_LEVEL: 'silent' }) as NodeJS.ProcessEnv,
      stdio: 'ignore',
    })
    await until(async () => (await jobRow(job_id)).done > 0, 'the first chunk is there')
    worker.kill('SIGKILL')
    await once(worker, 'exit')
    const { done, state } = await jobRow(job_id)
    expect(state).toBe('running')
    expect(done).toBeLessThan(150_000)
    await world.startWorker()
    await finished(job_id)
    await expectExactly(book, 150_000, job_id)
  })
})

describe('generateOnce', () => {
  test.each([1, 40, 100])('goes on where Redis refused call %i', async (nth) => {
    const { book, jobId } = await makeJob()
    const { load } = pusher.store
    let calls = 0
    const spy = vi.spyOn(pusher.store, 'load').mockImplementation(async (...args) => {
      calls += 1
      return calls >= nth ? refused : load(...args)
    })
    await expect(generateOnce(jobId, pusher)).rejects.toThrow('not-ready')
    expect((await jobRow(jobId)).state).toBe('running')
    spy.mockRestore()
    await generateOnce(jobId, pusher)
    await expectExactly(book, total, jobId)
    expect(await generateOnce(jobId, pusher)).toBe(0)
  })

  test('goes on where PostgreSQL closed its connections', async () => {
    const { book, jobId } = await makeJob()
    const run = generateOnce(jobId, pusher).then(
      () => 'done',
      (error: Error) => error.message,
    )
    await until(async () => (await jobRow(jobId)).done > 0, 'the first chunk is there')
    const client = new pg.Client({ connectionString: world.settings.DATABASE_URL })
    await client.connect()
    await client.query(
      `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
       WHERE application_name = 'stampede-api' AND datname = current_database()`,
    )
    await client.end()
    expect(await run).toMatch(/terminat/i)
    // The pool may hold one more connection that it has yet to find dead: the sweep tries again.
    const again = () =>
      generateOnce(jobId, pusher).then(
        () => true,
        () => false,
      )
    await until(again, 'the job is done')
    await expectExactly(book, total, jobId)
  })

  test('run twice at once makes each code once', async () => {
    const { book, jobId } = await makeJob('TWICE{}')
    const runs = await Promise.allSettled([
      generateOnce(jobId, pusher),
      generateOnce(jobId, pusher),
    ])
    expect(runs.some((run) => run.status === 'rejected')).toBe(true)
    await generateOnce(jobId, pusher)
    await expectExactly(book, total, jobId)
  })

  test('pushes once more what a Redis forgot while it ran', async () => {
    const { book, jobId } = await makeJob()
    const { load } = pusher.store
    let calls = 0
    vi.spyOn(pusher.store, 'load').mockImplementation(async (...args) =>
      calls++ === 5 ? { ok: true, added: 0 } : load(...args),
    )
    await generateOnce(jobId, pusher)
    await expectExactly(book, total, jobId)
  })

  test('ends a job for which others left no codes, and keeps what it made', async () => {
    const shape = { pattern: 'LEFT{}', length: 5, charset: '0123456789' }
    const book = await world.makeBook()
    const wanted = { book_id: book, count: 30_000, max_redemptions: null, created_by: 'test' }
    const made = await generateLater(world.database, { ...wanted, ...shape })
    if ('problem' in made) throw new Error(made.problem)
    // All but 100 of the 100,000 there are go to someone else.
    await world.database.query(
      `INSERT INTO codes (code, book_id, load_id)
       SELECT 'LEFT' || lpad(i::text, 5, '0'), $1, 0 FROM generate_series(100, 99999) i`,
      [await world.makeBook()],
    )
    await generateOnce(made.job.job_id, pusher)
    const job = await jobRow(made.job.job_id)
    expect(job).toMatchObject({ state: 'failed', error: expect.stringContaining('of 30000 codes') })
    const stats = (await world.call('GET', `books/${book}/stats`, { as })).body
    const listed = (await world.call('GET', `books/${book}`, { as })).body
    expect(stats.total).toBe(listed.total_code_count)
    expect(stats.total).toBeGreaterThan(50)
  })
})

describe('pushOnce', () => {
  beforeAll(() => world.stopWorker())
  afterAll(() => world.startWorker())

  /** How many codes of the book are in Redis' stock, and how many are held. */
  async function counts(book: string) {
    const { rows } = await world.database.query('SELECT shard FROM books WHERE book_id = $1', [
      book,
    ])
    const found = await pusher.store.bookCounts(rows[0].shard, book)
    return found.ok ? [found.left, found.held] : found
  }

  test('brings a change into Redis that was refused there', async () => {
    const book = await world.makeBook()
    const spy = vi.spyOn(pusher.store, 'pushBook').mockResolvedValue(refused)
    const body = { lock_seconds: 7 }
    const changed = await world.call('PATCH', `books/${book}`, { as, body })
    expect(changed.body.code).toBe('not-in-force')
    expect(changed.headers.get('retry-after')).toBe('1')
    expect((await world.call('GET', `books/${book}`, { as })).body.version).toBe(2)
    expect(await pushOnce(pusher)).toBe(0)
    spy.mockRestore()
    expect(await pushOnce(pusher)).toBe(1)
    expect(await pushOnce(pusher)).toBe(0)
    const { rows } = await world.database.query('SELECT * FROM books WHERE book_id = $1', [book])
    expect(rows[0].pushed_version).toBe(2)
    const kept = await world.redis.hget(`{s${rows[0].shard}}:book:${book}`, 'lock_seconds')
    expect(kept).toBe('7')
  })

  test('brings codes into stock that were refused there, and a client asks anew', async () => {
    const book = await world.makeBook()
    const spy = vi.spyOn(pusher.store, 'load').mockResolvedValue(refused)
    const body = { codes: ['HEAL-1', 'HEAL-2'] }
    const path = `books/${book}/codes/upload`
    expect((await world.call('POST', path, { as, body })).body.code).toBe('not-in-force')
    spy.mockRestore()
    expect(await pushOnce(pusher)).toBe(1)
    expect(await counts(book)).toEqual([2, 0])
    const again = await world.call('POST', `${path}?on_duplicate=skip`, { as, body })
    expect(again.body).toMatchObject({ codes_created: 0, codes_skipped: 2 })
  })

  test('does not miss the codes of an upload that comes to its end beside it', async () => {
    const book = await world.makeBook()
    const fill = (code: string) =>
      world.call('POST', `books/${book}/codes/upload`, { as, body: { codes: [code] } })
    const ask = pusher.store.bookCounts.bind(pusher.store)
    let asked = 0
    vi.spyOn(pusher.store, 'bookCounts').mockImplementation(async (...of) => {
      const counts = await ask(...of)
      // The first asks whether the book takes codes, the second whether they have come.
      if (++asked === 2) expect((await fill('BESIDE-2')).status).toBe(200)
      return counts
    })
    expect((await fill('BESIDE-1')).body).toMatchObject({ codes_created: 1 })
    expect(await counts(book)).toEqual([2, 0])
  })

  test('writes nothing where Redis is known to refuse', async () => {
    const book = await world.makeBook()
    vi.spyOn(pusher.store, 'bookCounts').mockResolvedValue(refused)
    const body = { codes: ['NEVER-1'] }
    const answer = await world.call('POST', `books/${book}/codes/upload`, { as, body })
    expect(answer.body.code).toBe('not-ready')
    const { rows } = await world.database.query('SELECT 1 FROM codes WHERE code = $1', ['NEVER-1'])
    expect(rows).toEqual([])
  })

  test('adds no code that someone holds', async () => {
    const book = await world.makeBook({}, 20)
    const body = { book_id: book, user_id: 'holder', count: 5 }
    await world.call('POST', 'coupons/assign', { as: world.service, body })
    await world.database.query("UPDATE loads SET state = 'written' WHERE book_id = $1", [book])
    expect(await pushOnce(pusher)).toBe(1)
    expect(await counts(book)).toEqual([15, 5])
  })

  test('brings codes into stock whose client lost PostgreSQL behind its commit', async () => {
    const book = await world.makeBook()
    const load = pusher.store.load.bind(pusher.store)
    const spy = vi.spyOn(pusher.store, 'load').mockImplementation(async (...of) => {
      const loaded = await load(...of)
      world.wire.set('cut')
      return loaded
    })
    const path = `books/${book}/codes/generate`
    const made = await world.call('POST', path, { as, body: { count: 3 } })
    world.wire.set('up')
    spy.mockRestore()
    // Whoever heard `not-ready` would ask again, and have six.
    expect([made.status, made.body.code]).toEqual([503, 'not-in-force'])
    await until(async () => (await pushOnce(pusher).catch(() => 0)) === 1, 'it is pushed')
    expect(await counts(book)).toEqual([3, 0])
  })
})
