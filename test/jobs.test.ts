import { Worker } from 'bullmq'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { transaction } from '../src/ledger/database.ts'
import { generateLater } from '../src/ledger/generate.ts'
import { createJob } from '../src/ledger/jobs.ts'
import { openQueueDesk, openQueues, queueNames, workerOptions } from '../src/queues.ts'
import { jobOnce, sweepJobsOnce } from '../workers/jobs.ts'
import { openWorld, until, type World } from './world.ts'

let world: World

beforeAll(async () => {
  world = await openWorld()
})
afterAll(() => world?.close())

async function makeJob(count = 20_000): Promise<string> {
  const book_id = await world.makeBook()
  const wanted = { book_id, count, max_redemptions: null, created_by: 'test' }
  const made = await generateLater(world.database, wanted)
  if ('problem' in made) throw new Error(made.problem)
  return made.job.job_id
}
const show = (id: string, as = world.admin) => world.call('GET', `jobs/${id}`, { as })
const age = (id: string) =>
  world.database.query(
    "UPDATE jobs SET updated_at = now() - interval '1 minute' WHERE job_id = $1",
    [id],
  )

describe('a job', () => {
  test('is shown from its row, to administrators and services', async () => {
    const id = await makeJob()
    const { status, body } = await show(id)
    expect(status).toBe(200)
    expect(Object.keys(body)).toEqual([
      'job_id',
      'kind',
      'book_id',
      'state',
      'total',
      'done',
      'progress',
      'result',
      'error',
      'created_by',
      'created_at',
      'updated_at',
      'finished_at',
    ])
    expect(body).toMatchObject({ job_id: id, kind: 'generate', state: 'queued', total: 20_000 })
    expect((await show(id, world.service)).status).toBe(200)
    expect((await show(id, (await world.signUp()).token)).status).toBe(403)
    expect((await show(id, 'nonsense')).status).toBe(401)
  })

  test('that nobody made is not found', async () => {
    expect((await show('00000000-0000-4000-8000-000000000000')).body.code).toBe('job-not-found')
    expect((await show('42')).status).toBe(422)
  })

  test('of a kind that no worker knows fails, and says so', async () => {
    const job = { kind: 'knit', book_id: null, total: 1, input: {}, created_by: 'test' }
    const { job_id } = await transaction(world.database, (tx) => createJob(tx, job))
    const noOps = () => Promise.reject(new Error('nobody asked for an operator'))
    const pusher = { database: world.database, store: world.house.deps.store }
    await jobOnce(job_id, pusher, noOps, pusher)
    expect((await show(job_id)).body).toMatchObject({
      state: 'failed',
      error: 'no worker knows the kind knit',
      finished_at: expect.any(String),
    })
    await jobOnce(job_id, pusher, noOps, pusher)
    await jobOnce('00000000-0000-4000-8000-000000000000', pusher, noOps, pusher)
  })
})

describe('the sweep', () => {
  test('enqueues what is silent and unfinished, and nothing else', async () => {
    await world.stopWorker()
    const [silent, fresh, done] = [await makeJob(), await makeJob(), await makeJob()]
    await age(silent)
    await age(done)
    await world.database.query("UPDATE jobs SET state = 'done' WHERE job_id = $1", [done])
    const enqueue = vi.fn(async (_: string) => true)
    expect(await sweepJobsOnce(world.database, { enqueue })).toBeGreaterThanOrEqual(1)
    const ids = enqueue.mock.calls.map(([id]) => id)
    expect(ids).toContain(silent)
    expect(ids).not.toContain(fresh)
    expect(ids).not.toContain(done)
    expect(await sweepJobsOnce(world.database, { enqueue: async () => false })).toBe(0)
    await world.startWorker()
  })

  test('of a worker does the job that BullMQ lost', async () => {
    const id = await makeJob()
    await age(id)
    await until(async () => (await show(id)).body.state === 'done', 'the sweep found it')
    expect((await show(id)).body).toMatchObject({ done: 20_000, error: null })
  })
})

describe('the queues', () => {
  test('hold a job once, however often it is enqueued', async () => {
    await world.stopWorker()
    const queues = openQueues(world.redisServer.url)
    const id = await makeJob()
    for (let i = 0; i < 5; i++) expect(await queues.enqueue(id)).toBe(true)
    const waiting = await world.redis.lrange('{stampede}:jobs:wait', 0, -1)
    expect(waiting.filter((one) => one === id)).toHaveLength(1)
    await queues.close()
    await world.startWorker()
    await until(async () => (await show(id)).body.state === 'done', 'the job is done')
    await until(
      async () => (await world.redis.exists(`{stampede}:jobs:${id}`)) === 0,
      'BullMQ has forgotten the job',
    )
  })

  test('take any number of nudges for what is one flush', async () => {
    await world.stopWorker()
    const queues = openQueues(world.redisServer.url)
    for (let i = 0; i < 1_000; i++) queues.nudge(1)
    await until(async () => (await world.redis.llen('{stampede}:flush:wait')) > 0, 'it is there')
    await queues.close()
    expect(await world.redis.llen('{stampede}:flush:wait')).toBe(1)
    await world.startWorker()
  })

  test('take a nudge although the flush of the last one failed, and keep why', async () => {
    await world.stopWorker()
    const { url } = world.redisServer
    const fails = new Worker(
      queueNames.flush,
      () => Promise.reject(Error('no')),
      workerOptions(url),
    )
    const queues = openQueues(url)
    const desk = openQueueDesk(url)
    for (const n of [1, 2]) {
      queues.nudge(0)
      await until(async () => (await desk.failed(10)).length === n, `${n} flushes have failed`)
    }
    expect(await desk.failed(1)).toMatchObject([{ queue: 'flush', reason: 'no' }])
    await fails.close()
    expect(await desk.clean()).toBe(2)
    await Promise.all([queues.close(), desk.close()])
    await world.startWorker()
  })

  test('neither throw nor block without their Redis', async () => {
    const queues = openQueues('redis://127.0.0.1:1')
    queues.nudge(0)
    queues.nudge(0)
    const started = performance.now()
    expect(await queues.enqueue(await makeJob())).toBe(false)
    expect(performance.now() - started).toBeLessThan(2_000)
    await queues.close()
  })
})
