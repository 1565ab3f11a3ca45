import { randomUUID } from 'node:crypto'
import type { Problem } from '../problems.ts'
import { audit } from './audit.ts'
import { type Database, type Transaction, transaction } from './database.ts'
import { createJob, failJob, finishJob, type Job, progressJob } from './jobs.ts'
import { type Once, remember } from './once.ts'
import type { distributions } from './schema.ts'
import { Overtaken } from './shards.ts'
import { copy, copyText } from './write.ts'

/**
 * A distribution is a job, a plan, and the results:
 *
 *   job -> plan (shares, drawn once) -> results, a row a user, each written once the ledger has its facts
 *
 * Several processes may come to work on one, where the first was taken for dead: only the latest,
 * its `runner`, may write.
 */
export type Input = {
  pool_id: string
  mode: 'equal' | 'random'
  /** equal: coupons for each user; random: coupons in all. */
  amount: number
  /** random: whatever is in stock, so what is left over is nobody's loss. */
  all: boolean
  request_id: string
}
export type Distribution = Input &
  Omit<typeof distributions.$inferSelect, 'runner'> & {
    runner: string
    book_id: string
    actor: string
  }
export type NewDistribution = Input & {
  book_id: string
  users: number
  created_by: string
  once?: Once | undefined
}

/** So many coupons for the user at this position. */
export type Share = { position: number; user: string; share: number }
/** What came of a share. `short`: it was not given in full, and why if that is known. */
export type Settled = {
  position: number
  codes: string[]
  short: boolean
  why?: Problem | undefined
}

export async function createDistribution(
  database: Database,
  { book_id, users, created_by, once, ...input }: NewDistribution,
): Promise<Job> {
  return transaction(database, async (tx) => {
    const job = await createJob(tx, {
      ...{ kind: 'distribute', book_id, total: users, input, created_by },
    })
    await tx.query('INSERT INTO distributions (job_id) VALUES ($1)', [job.job_id])
    await remember(tx, once, { job })
    const { pool_id, mode, amount, request_id } = input
    await audit(tx, {
      ...{ actor: created_by, action: 'pools.distribute', target: `pool:${pool_id}`, request_id },
      ...{ before: null, after: { job_id: job.job_id, book_id, mode, amount, users } },
    })
    return job
  })
}

/** Makes the caller the one who may write to it; undefined: the job is no distribution. */
export async function takeDistribution(
  database: Database,
  jobId: string,
): Promise<Distribution | undefined> {
  const { rows } = await database.query(
    `UPDATE distributions d SET runner = $2 FROM jobs j
     WHERE d.job_id = $1 AND j.job_id = d.job_id
     RETURNING d.*, j.book_id, j.created_by AS actor, j.input`,
    [jobId, randomUUID()],
  )
  if (!rows[0]) return undefined
  const { input, ...row } = rows[0]
  return { ...input, ...row }
}

/** First in each writing transaction: whoever was overtaken writes nothing at all. */
async function stillOurs(
  tx: Transaction,
  { job_id, runner }: Distribution,
  changes: string,
  values: unknown[],
) {
  const { rows } = await tx.query(
    `UPDATE distributions SET ${changes} WHERE job_id = $1 AND runner = $2 RETURNING *`,
    [job_id, runner, ...values],
  )
  if (!rows[0]) throw new Overtaken(`distribution ${job_id} is another run's`)
  return rows[0] as typeof distributions.$inferSelect
}

const linesPerCopy = 50_000

/** Writes the plan, and what of it is settled already: nobody has to be asked for nothing. */
export async function savePlan(
  database: Database,
  run: Distribution,
  shares: Share[],
  settled: Settled[],
): Promise<void> {
  let largest = 0
  for (const { share } of shares) largest = Math.max(largest, share)
  await transaction(database, async (tx) => {
    await stillOurs(tx, run, 'planned_at = now(), largest = $3', [largest])
    for (let s = 0; s < shares.length; s += linesPerCopy)
      await copy(
        tx,
        'distribution_shares (job_id, position, user_id, share)',
        shares
          .slice(s, s + linesPerCopy)
          .map(({ position, user, share }) =>
            [run.job_id, position, copyText(user), share].join('\t'),
          ),
      )
    await tx.query('UPDATE jobs SET total = $2, updated_at = now() WHERE job_id = $1', [
      run.job_id,
      shares.length,
    ])
    for (let s = 0; s < settled.length; s += linesPerCopy)
      await writeSettled(tx, run, settled.slice(s, s + linesPerCopy))
  })
  run.planned_at = new Date()
  run.largest = largest
}

async function writeSettled(tx: Transaction, run: Distribution, settled: Settled[]) {
  const given = settled.reduce((sum, { codes }) => sum + codes.length, 0)
  const short = settled.filter((one) => one.short).length
  const now = await stillOurs(
    tx,
    run,
    'settled = settled + $3::int, given = given + $4::int, short = short + $5::int',
    [settled.length, given, short],
  )
  await tx.query(
    `INSERT INTO distribution_results (job_id, position, codes, problem, detail)
     SELECT $1, * FROM unnest($2::int[], $3::text[], $4::text[], $5::jsonb[])`,
    [
      run.job_id,
      settled.map(({ position }) => position),
      settled.map(({ codes }) => codes.join(' ')),
      settled.map(({ why }) => why?.problem ?? null),
      settled.map(({ why }) => (why?.values ? JSON.stringify(why.values) : null)),
    ],
  )
  await progressJob(tx, run.job_id, now.settled)
}

/** Results, counters and progress of some shares, all of them or none. Throws Overtaken. */
export async function settle(
  database: Database,
  run: Distribution,
  settled: Settled[],
): Promise<void> {
  if (settled.length > 0) await transaction(database, (tx) => writeSettled(tx, run, settled))
}

/**
 * Says that shares are about to be asked for, by entries that come after `n` in `epoch` unless some
 * came before. False: the job is cancelled, stepped aside, or another run's.
 */
export async function claim(
  database: Database,
  { job_id, runner }: Distribution,
  { epoch, n }: { epoch: number; n: number },
): Promise<boolean> {
  const { rowCount } = await database.query(
    `UPDATE distributions d SET asked_at = now(), asked_epoch = coalesce(asked_epoch, $3),
       asked_n = CASE WHEN asked_epoch IS NULL THEN $4 ELSE asked_n END
     FROM jobs j
     WHERE d.job_id = $1 AND runner = $2 AND j.job_id = d.job_id AND j.state = 'running'`,
    [job_id, runner, epoch, n],
  )
  return rowCount === 1
}

/** The shares behind position `after` that have no result yet, and where to go on; null at the end. */
export async function openShares(
  database: Database,
  jobId: string,
  after: number,
  size: number,
): Promise<{ shares: Share[]; next: number | null }> {
  const { rows } = await database.query<Share>(
    `SELECT position, user_id AS "user", share FROM distribution_shares
     WHERE job_id = $1 AND position > $2 ORDER BY position LIMIT $3`,
    [jobId, after, size],
  )
  const last = rows.at(-1)?.position
  if (last === undefined) return { shares: [], next: null }
  // Two plain ranges: the anti-join of both may well be planned as one of the whole tables.
  const { rows: known } = await database.query<{ position: number }>(
    `SELECT position FROM distribution_results
     WHERE job_id = $1 AND position > $2 AND position <= $3`,
    [jobId, after, last],
  )
  const over = new Set(known.map(({ position }) => position))
  return {
    shares: rows.filter(({ position }) => !over.has(position)),
    next: rows.length < size ? null : last,
  }
}

/** How a run ended: with everything settled, or why it cannot go on. `over`: the job is not its any more. */
export type Ended = 'done' | 'over' | { failed: string }

export async function endDistribution(
  database: Database,
  run: Distribution,
  how: Ended,
): Promise<void> {
  await transaction(database, async (tx) => {
    const now = await stillOurs(
      tx,
      run,
      'runner = NULL, asked_epoch = NULL, asked_n = NULL, asked_at = NULL',
      [],
    )
    const { settled: users, given, short } = now
    const result = {
      ...{ pool_id: run.pool_id, book_id: run.book_id, mode: run.mode },
      ...{ users, total_assigned: Number(given), users_short: short },
    }
    if (how === 'done') await finishJob(tx, run.job_id, result)
    else if (how !== 'over') await failJob(tx, run.job_id, how.failed)
    // Of one that failed or was cancelled, too: what was given stays.
    await tx.query('UPDATE jobs SET result = $2, done = greatest(done, $3) WHERE job_id = $1', [
      run.job_id,
      result,
      users,
    ])
  })
}

/** Of a book and its shard, by PostgreSQL's word: Redis hears of it within a second. */
const stopped = `(b.intake = 'stopped' OR s.intake = 'stopped')`

/** Whether it has to wait for intake, and nobody is at work on it. */
export async function waitsForIntake(database: Database, jobId: string): Promise<boolean> {
  const { rowCount } = await database.query(
    `SELECT FROM jobs JOIN books b USING (book_id) JOIN shards s USING (shard)
     WHERE job_id = $1 AND state = 'queued' AND ${stopped}`,
    [jobId],
  )
  return rowCount === 1
}

/**
 * Lets go of a job that meets stopped intake, so that a drain finds nothing under way: it is queued again
 * until somebody resumes. False: intake is open, or another run has the job.
 */
export async function stepAside(
  database: Database,
  { job_id, runner }: Distribution,
): Promise<boolean> {
  const { rowCount } = await database.query(
    `UPDATE jobs j SET state = 'queued', updated_at = now()
     FROM distributions d, books b JOIN shards s USING (shard)
     WHERE j.job_id = $1 AND j.state = 'running' AND d.job_id = j.job_id AND d.runner = $2
       AND b.book_id = j.book_id AND ${stopped}`,
    [job_id, runner],
  )
  return rowCount === 1
}

/** After this nothing is on its way any more: what a later run has to look through begins with itself. */
export async function forgetAsked(database: Database, run: Distribution): Promise<void> {
  await database.query(
    `UPDATE distributions SET asked_epoch = NULL, asked_n = NULL
     WHERE job_id = $1 AND runner = $2 AND asked_at < now() - interval '1 hour'`,
    [run.job_id, run.runner],
  )
}

/** Distributions that ended while shares were being asked for whose results nobody wrote. */
export async function unsettled(database: Database, quietMs: number): Promise<string[]> {
  const { rows } = await database.query<{ job_id: string }>(
    `SELECT job_id FROM distributions JOIN jobs USING (job_id)
     WHERE asked_epoch IS NOT NULL AND finished_at < now() - $1 * interval '1 ms' LIMIT 100`,
    [quietMs],
  )
  return rows.map((row) => row.job_id)
}
