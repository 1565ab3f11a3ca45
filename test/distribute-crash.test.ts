import { afterAll, beforeAll, expect, test } from 'vitest'
import { reconcile } from '../src/ops/reconcile/reconcile.ts'
import { killed, openTown, type Process, type Town } from './processes.ts'
import { until } from './world.ts'

/** Processes that are killed in the middle of a distribution: kill -9, as real as it gets. */
let town: Town
let api: Process & { base: string }
let worker: Process | undefined
beforeAll(async () => {
  town = await openTown()
  worker = town.startWorker()
  api = await town.startApi()
})
afterAll(() => town?.close())

async function makePool(name: string, count: number): Promise<string> {
  const user_ids = Array.from({ length: count }, (_, u) => `user-${u}`)
  const { status, body } = await town.post(api.base, 'pools', { name, user_ids })
  expect(status).toBe(201)
  return body.pool_id
}

/** What the ledger and the results have: users, coupons, the most that somebody has; and both stores agree. */
async function outcome(book: string) {
  await town.level()
  const { rows } = await town.database.query(
    `WITH held AS (
       SELECT user_id, string_agg(code, ' ' ORDER BY code) AS codes, count(*)::int AS coupons
       FROM ledger WHERE book_id = $1 AND kind = 'assign' GROUP BY 1),
     told AS (
       SELECT user_id, (SELECT string_agg(code, ' ' ORDER BY code COLLATE "C")
         FROM unnest(string_to_array(r.codes, ' ')) code) AS codes
       FROM jobs JOIN distribution_shares s USING (job_id)
       JOIN distribution_results r USING (job_id, position) WHERE book_id = $1)
     SELECT count(*)::int AS users, sum(coupons)::int AS coupons, max(coupons) AS most,
       count(*) FILTER (WHERE held.codes IS DISTINCT FROM told.codes)::int AS untrue
     FROM held FULL JOIN told USING (user_id)`,
    [book],
  )
  const { verdict } = await reconcile(town, { exact: false })
  return { ...rows[0], verdict }
}

test('a worker killed on three lines of a distribution: each user has their share, once', async () => {
  const book = await town.makeBook(api.base, 9_700)
  const pool = await makePool('Large', 1_200)
  await town.level()
  await worker!.kill()
  const wanted = { book_id: book, mode: 'equal', coupons_per_user: 8 }
  const asked = await town.post(api.base, `pools/${pool}/distribute`, wanted)
  expect(asked.status).toBe(202)
  const { job_id } = asked.body
  const job = async () =>
    (await town.database.query('SELECT * FROM jobs WHERE job_id = $1', [job_id])).rows[0]
  for (const point of ['after-ask', 'after-unseen', 'before-results']) {
    // As if the seconds were over for which a job's worker is taken to be alive.
    await town.redis.del(...(await town.redis.keys(`*${job_id}:lock`)), 'none')
    await town.database.query('UPDATE jobs SET updated_at = to_timestamp(0) WHERE job_id = $1', [
      job_id,
    ])
    await killed(town.startWorker({ FAILPOINT: `distribute.${point}:kill` }))
    expect((await job()).state).toBe('running')
  }
  expect((await job()).done).toBeLessThan(1_200)
  await town.redis.del(...(await town.redis.keys(`*${job_id}:lock`)), 'none')
  worker = town.startWorker()
  await until(async () => (await job()).state === 'done', 'the distribution is done', 20_000)
  expect((await job()).result).toMatchObject({ users: 1_200, total_assigned: 9_600 })
  expect(await outcome(book)).toEqual({
    ...{ users: 1_200, coupons: 9_600, most: 8, untrue: 0, verdict: 'equal' },
  })
}, 60_000)

test('an API killed in the middle of a small one: the same Idempotency-Key gets all of it, once', async () => {
  const doomed = await town.startApi({ FAILPOINT: 'distribute.after-ask:kill' })
  const book = await town.makeBook(api.base, 100)
  const pool = await makePool('Small', 30)
  const ask = (base: string) =>
    town.post(
      base,
      `pools/${pool}/distribute`,
      { book_id: book, count: 70 },
      { 'idempotency-key': 'small' },
    )
  await expect(ask(doomed.base)).rejects.toThrow()
  await killed(doomed)
  await town.database.query(
    `UPDATE jobs SET updated_at = to_timestamp(0) WHERE kind = 'distribute' AND state = 'running'`,
  )
  let reply = await ask(api.base)
  await until(async () => {
    if (reply.status === 202) reply = await ask(api.base)
    return reply.status === 200
  }, 'it is done')
  expect(reply.body).toMatchObject({ success: true, total_assigned: 70, errors: [] })
  expect(Object.keys(reply.body.assignments)).toHaveLength(30)
  expect(await outcome(book)).toEqual({
    ...{ users: 30, coupons: 70, most: 3, untrue: 0, verdict: 'equal' },
  })
})
