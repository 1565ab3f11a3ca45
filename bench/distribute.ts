import { setTimeout as sleep } from 'node:timers/promises'
import type { Bench } from './bench.ts'
import type { Book } from './client.ts'
import { reconciled } from './stampede.ts'
import { type Target, target } from './targets.ts'

export type DistributeReport = { targets: Target[]; differences: string[]; jobs: object[] }

const each = 2
/** Users that one request may add. */
const perRequest = 10_000
const lookMs = 50
const patienceMs = 180_000
const secondsMax = 20
const userOf = (u: number) => `40000000-0000-4000-8000-${String(u).padStart(12, '0')}`

/**
 * Coupons for a whole pool, once undisturbed and once with kill -9 of the worker in the middle: from the
 * request until the job is done, which is when the ledger has all of it and each user's result is written.
 */
export async function distribute(bench: Bench): Promise<DistributeReport> {
  const { options, client, say } = bench
  const pool = await makePool(bench)
  const differences: string[] = []
  const jobs: object[] = []
  const targets: Target[] = []
  for (const how of ['undisturbed', 'worker killed in the middle'] as const) {
    const total = options.pool * each
    const book = await client.makeBook(`Distributed, ${how}`, total + 1_000)
    await client.call('PATCH', `books/${book.id}`, { max_assignments_per_user: each })
    await bench.stores.untilQuiet()
    const begun = performance.now()
    const { job_id } = await client.call('POST', `pools/${pool}/distribute`, {
      ...{ book_id: book.id, mode: 'equal', coupons_per_user: each },
    })
    let killedAt: number | undefined
    const job = await finished(bench, job_id, async (done) => {
      if (how === 'undisturbed' || killedAt !== undefined || done < options.pool / 3) return
      killedAt = done
      await bench.killWorker()
    })
    const seconds = (performance.now() - begun) / 1000
    const after = killedAt === undefined ? '' : `, killed at ${killedAt} of ${options.pool} users`
    say(`${how}: ${seconds.toFixed(1)} s, ${job.result?.total_assigned} coupons${after}`)
    if (how !== 'undisturbed' && killedAt === undefined)
      differences.push('the worker was not killed: the distribution was over too soon')
    jobs.push({ how, seconds, killedAt, ...job })
    targets.push(
      target(
        `${total} coupons to ${options.pool} users, s: ${how}`,
        seconds,
        'at most',
        secondsMax,
      ),
    )
    differences.push(...(await wrongs(bench, book, job_id)).map((wrong) => `${how}: ${wrong}`))
  }
  differences.push(...(await reconciled(bench)))
  return { targets, differences, jobs }
}

async function makePool({ client, options }: Bench): Promise<string> {
  const { pool_id } = await client.call('POST', 'pools', { name: 'Everybody' })
  for (let from = 0; from < options.pool; from += perRequest) {
    const count = Math.min(perRequest, options.pool - from)
    const user_ids = Array.from({ length: count }, (_, u) => userOf(from + u))
    await client.call('POST', `pools/${pool_id}/users`, { user_ids })
  }
  return pool_id
}

/** Waits for the job, telling `look` how far it is. */
async function finished({ client }: Bench, jobId: string, look: (done: number) => Promise<void>) {
  for (const until = performance.now() + patienceMs; ; await sleep(lookMs)) {
    const job = await client.call('GET', `jobs/${jobId}`)
    if (job.state === 'done') return job
    if (job.finished_at || performance.now() > until)
      throw new Error(`the distribution is ${job.state} at ${job.done}: ${job.error}`)
    await look(job.done)
  }
}

/** What ledger, coupons and results do not agree on, or is not as it was asked for. */
async function wrongs({ stores, options }: Bench, book: Book, jobId: string): Promise<string[]> {
  const { rows } = await stores.database.query(
    `WITH held AS (
       SELECT user_id, string_agg(code, ' ' ORDER BY code) AS codes, count(*) AS coupons
       FROM ledger WHERE book_id = $1 AND kind = 'assign' GROUP BY 1),
     told AS (
       SELECT user_id, (SELECT string_agg(code, ' ' ORDER BY code COLLATE "C")
         FROM unnest(string_to_array(codes, ' ')) code) AS codes
       FROM distribution_shares JOIN distribution_results USING (job_id, position)
       WHERE job_id = $2)
     SELECT count(held.codes) AS users, sum(coupons)::bigint AS facts,
       count(*) FILTER (WHERE coupons <> $3) AS others,
       count(*) FILTER (WHERE held.codes IS DISTINCT FROM told.codes) AS untrue,
       (SELECT count(*) FROM coupons WHERE book_id = $1) AS coupons
     FROM held FULL JOIN told USING (user_id)`,
    [book.id, jobId, each],
  )
  const all = options.pool * each
  const expected = { users: options.pool, facts: all, others: 0, untrue: 0, coupons: all }
  return Object.entries(expected)
    .filter(([name, count]) => Number(rows[0][name]) !== count)
    .map(([name, count]) => `${name}: ${rows[0][name]} instead of ${count}`)
}
