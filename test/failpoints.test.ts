import { afterAll, beforeAll, expect, test } from 'vitest'
import { operationUrl } from '../src/http/operations.ts'
import { createTokens } from '../src/http/tokens.ts'
import { keys } from '../src/store/keys.ts'
import { frozen, killed, openTown, type Process, type Town } from './processes.ts'
import { until } from './world.ts'

/** Processes that are killed at a failpoint where no row of `npm run chaos` kills one. */
let town: Town
let worker: Process
let api: Process & { base: string }
beforeAll(async () => {
  town = await openTown()
  worker = town.startWorker()
  api = await town.startApi()
})
afterAll(() => town.close())

/** What the ledger has of a book: facts, and the codes they are of. */
async function factsOf(book: string): Promise<{ facts: number; codes: number }> {
  const { rows } = await town.database.query(
    'SELECT count(*)::int AS facts, count(DISTINCT code)::int AS codes FROM ledger WHERE book_id = $1',
    [book],
  )
  return rows[0]
}

test('killed while it parks a fact: nothing of that flush stands, and the next one parks it once', async () => {
  const book = await town.makeBook(api.base, 5)
  await town.level()
  await worker.kill()
  const codes: string[] = []
  for (const user of ['ann', 'ben', 'cyd'])
    codes.push(
      (await town.post(api.base, 'coupons/assign', { book_id: book, user_id: user })).body
        .coupons[0].code,
    )
  await town.database.query(
    `INSERT INTO coupons (code, book_id, user_id, version, redemptions, max_redemptions,
       assigned_at, updated_at) VALUES ($1, $2, 'by hand', 1, 0, 1, now(), now())`,
    [codes[1], book],
  )
  const counts = async () => {
    const { rows } = await town.database.query(
      `SELECT (SELECT count(*)::int FROM ledger WHERE book_id = $1) AS facts,
         (SELECT count(*)::int FROM parked_facts) AS parked`,
      [book],
    )
    return rows[0]
  }
  await killed(town.startWorker({ FAILPOINT: 'flush.after-park:kill' }))
  expect(await counts()).toEqual({ facts: 0, parked: 0 })
  worker = town.startWorker()
  await town.level()
  expect(await counts()).toEqual({ facts: 3, parked: 1 })
  await town.database.query('DELETE FROM parked_facts')
})

test('killed while it saves the rest of a journal: the next recovery saves the rest of the rest, once', async () => {
  const book = await town.makeBook(api.base, 600)
  await town.level()
  await worker.kill()
  // One entry each, and more than a recovery flushes at once.
  await town.assignMany(book, 260)
  const { rows } = await town.database.query(
    'SELECT shard, epoch FROM shards JOIN books USING (shard) WHERE book_id = $1',
    [book],
  )
  const { shard, epoch } = rows[0]
  await town.redis.del(keys.stock(shard, book))
  await town.post(api.base, 'coupons/assign', { book_id: book, user_id: 'who notices' })
  await killed(town.startWorker({ FAILPOINT: 'recover.mid-flush-rest:kill' }))
  const { facts: saved } = await factsOf(book)
  expect(saved).toBeGreaterThan(0)
  expect(saved).toBeLessThan(260)
  worker = town.startWorker()
  await until(
    async () =>
      (await town.post(api.base, 'coupons/assign', { book_id: book, user_id: 'next' })).status ===
      200,
    'it serves again',
    20_000,
  )
  await town.level()
  expect(await factsOf(book)).toEqual({ facts: 261, codes: 261 })
  const now = await town.database.query('SELECT epoch FROM shards WHERE shard = $1', [shard])
  expect(now.rows[0].epoch).toBeGreaterThanOrEqual(epoch + 2)
})

test('killed after a call was forbidden: whoever asks next hears that it never happened', async () => {
  const doomed = await town.startApi({ FAILPOINT: 'operation.after-forbid:kill' })
  const book = await town.makeBook(api.base, 3)
  await town.level()
  const { rows } = await town.database.query(
    `SELECT s.shard, epoch, checkpoint AS n, user_id FROM users, shards s JOIN books USING (shard)
     WHERE book_id = $1`,
    [book],
  )
  const { shard, epoch, n, user_id } = rows[0]
  const op = crypto.randomUUID()
  const call = { shard, epoch, n, i: undefined, op, at: Date.now(), request: 'a-request' }
  const path = operationUrl(createTokens(town.secret), call, `user:${user_id}`)
  const headers = { authorization: `Bearer ${town.token}` }
  await expect(fetch(doomed.base + path, { headers })).rejects.toThrow()
  await killed(doomed)
  const told = await fetch(api.base + path, { headers })
  expect(await told.json()).toMatchObject({ state: 'absent', facts: [] })
  expect(await town.redis.get(keys.op(shard, op))).toBe('never')
})

test('frozen and killed while it makes room in Redis: nothing goes that is not in the ledger, and the next one goes on', async () => {
  const book = await town.makeBook(api.base, 1_200)
  const shard = await town.shardOf(book)
  await town.assignMany(book, 1_100)
  await town.level()
  await worker.kill()
  await fillUp()
  worker = town.startWorker({ FAILPOINT: 'squeeze.after-read:freeze' })
  await frozen(worker)
  await killed(town.startWorker({ FAILPOINT: 'squeeze.after-trim:kill' }))
  // Redis trims by the hundred.
  expect(await town.redis.xlen(keys.journal(shard))).toBeLessThan(200)
  await town.assignMany(book, 50)
  // What it read is long past: 50 entries follow that no ledger has.
  worker.child.kill('SIGCONT')
  await town.level()
  const [n, kept] = await town.redis.hmget(keys.meta(shard), 'n', 'kept')
  expect(Number(n)).toBeGreaterThanOrEqual(1_150)
  expect(Number(kept)).toBe(await town.redis.xlen(keys.journal(shard)))
  expect(await factsOf(book)).toEqual({ facts: 1_150, codes: 1_150 })
  expect(
    (await town.post(api.base, 'coupons/assign', { book_id: book, user_id: 'u' })).status,
  ).toBe(200)
  await town.redis.config('SET', 'maxmemory', '0')
  await town.redis.del('filler')
})

/** Leaves some 5 % of Redis' memory free, with room for what a test writes. */
async function fillUp(): Promise<void> {
  await town.redis.setrange('filler', 60_000_000, 'x')
  const used = /^used_memory:(\d+)/m.exec(await town.redis.info('memory'))![1]
  await town.redis.config('SET', 'maxmemory', Math.round(Number(used) / 0.95))
}

test('killed before and after it told PostgreSQL of damage: whoever finds it next has the shard recovered', async () => {
  const [mute, last] = await Promise.all([
    town.startApi({ FAILPOINT: 'suspect.before-postgres:kill' }),
    town.startApi({ FAILPOINT: 'suspect.after-postgres:kill' }),
  ])
  const book = await town.makeBook(api.base, 5)
  const shard = await town.shardOf(book)
  const assign = (base: string, user: string) =>
    town.post(base, 'coupons/assign', { book_id: book, user_id: user })
  const codes = [await assign(api.base, 'ann'), await assign(api.base, 'ben')].map(
    ({ body }) => body.coupons[0].code,
  )
  await town.level()
  const row = async () =>
    (await town.database.query('SELECT epoch, suspect FROM shards WHERE shard = $1', [shard]))
      .rows[0]
  const { epoch } = await row()
  await town.redis.del(keys.stock(shard, book))
  await assign(mute.base, 'who notices').catch(() => {})
  await killed(mute)
  expect(await row()).toEqual({ epoch, suspect: null })
  await assign(last.base, 'who tells').catch(() => {})
  await killed(last)
  await until(async () => (await row()).epoch > epoch, 'a worker recovers it')
  for (const user of ['cyd', 'dan', 'eve'])
    await until(async () => {
      const { status, body } = await assign(api.base, user)
      if (status === 200) codes.push(body.coupons[0].code)
      return status === 200
    }, 'it serves again')
  expect(new Set(codes).size).toBe(5)
  expect((await assign(api.base, 'fay')).body.code).toBe('sold-out')
  await town.level()
  expect(await factsOf(book)).toEqual({ facts: 5, codes: 5 })
})

test('killed before a generation is enqueued, and between its chunks: it is made once, and all of it', async () => {
  const mute = await town.startApi({ FAILPOINT: 'jobs.before-enqueue:kill' })
  await worker.kill()
  const doomed = town.startWorker({ FAILPOINT: 'generate.after-chunk:kill:2' })
  const { body } = await town.post(api.base, 'books', { name: 'Sale', owner_id: 'o' })
  const book: string = body.book_id
  const generate = (base: string) =>
    town.post(base, `books/${book}/codes/generate`, { count: 55_000 }, { 'idempotency-key': 'g' })
  await expect(generate(mute.base)).rejects.toThrow()
  await killed(mute)
  const { status, body: again } = await generate(api.base)
  expect(status).toBe(202)
  const work = async () =>
    (
      await town.database.query(
        `SELECT job_id, jobs.state AS job, loads.state AS load, written,
           (SELECT count(*)::int FROM codes c WHERE c.book_id = jobs.book_id) AS codes
         FROM jobs JOIN loads USING (job_id) WHERE jobs.book_id = $1`,
        [book],
      )
    ).rows
  const { job_id } = again
  expect(await work()).toEqual([{ job_id, job: 'queued', load: 'writing', written: 0, codes: 0 }])
  // As if it had been silent for long.
  await town.database.query('UPDATE jobs SET updated_at = to_timestamp(0)')
  await killed(doomed)
  expect(await work()).toEqual([
    { job_id, job: 'running', load: 'writing', written: 50_000, codes: 50_000 },
  ])
  const stock = async () => town.redis.scard(keys.stock(await town.shardOf(book), book))
  expect(await stock()).toBeLessThanOrEqual(25_000)
  // As if the time were over for which BullMQ takes the job's worker to be alive.
  await town.redis.del(await town.redis.keys(`*${job_id}:lock`))
  worker = town.startWorker()
  await until(async () => (await work())[0].job === 'done', 'the generation is done')
  expect(await work()).toEqual([
    { job_id, job: 'done', load: 'pushed', written: 55_000, codes: 55_000 },
  ])
  expect(await stock()).toBe(55_000)
})

test.each([['nothing is made anew'], ['Redis is made anew']])(
  'coupons deleted just before a recovery publishes, where %s: it finds out',
  async (how) => {
    const book = await town.makeBook(api.base, 5)
    const shard = await town.shardOf(book)
    const held = await town.post(api.base, 'coupons/assign', { book_id: book, user_id: 'ann' })
    await town.level()
    await worker.stop()
    const why = how === 'Redis is made anew' ? 'damaged: a test' : 'a test'
    await town.database.query('UPDATE shards SET suspect = $2 WHERE shard = $1', [shard, why])
    const sleeper = town.startWorker({ FAILPOINT: 'recover.before-publish:freeze' })
    await frozen(sleeper)
    await town.redis.del(keys.coupons(shard))
    sleeper.child.kill('SIGCONT')
    worker = sleeper
    const assign = (user_id: string) =>
      town.post(api.base, 'coupons/assign', { book_id: book, user_id })
    await until(async () => (await assign('ben')).status === 200, 'it serves again', 30_000)
    const { code } = held.body.coupons[0]
    const record = await town.redis.hget(keys.coupons(shard), code)
    expect(record).toMatch(/ann/)
  },
  60_000,
)
