import type { Problem, ProblemCode, ProblemValues } from '../problems.ts'
import type { Database } from './database.ts'
import type { Distribution, Settled } from './distributions.ts'

/** One user's part as it is told. */
export type Result = {
  position: number
  user_id: string
  share: number
  settled: boolean
  codes: string[]
  why: Problem | null
}
type ResultRow = Omit<Result, 'codes' | 'why' | 'settled'> & {
  codes: string | null
  problem: ProblemCode | null
  detail: ProblemValues | null
}

/** Results in the order that was drawn, one more than `limit` where there are more. */
export async function distributionResults(
  database: Database,
  jobId: string,
  { after = -1, limit, short }: { after?: number; limit: number; short?: boolean },
): Promise<Result[]> {
  const { rows } = await database.query<ResultRow>(
    `SELECT position, user_id, share, codes, problem, detail
     FROM distribution_shares LEFT JOIN distribution_results USING (job_id, position)
     WHERE job_id = $1 AND position > $2
       AND (NOT $4 OR problem IS NOT NULL
         OR cardinality(string_to_array(codes, ' ')) < share)
     ORDER BY position LIMIT $3`,
    [jobId, after, limit + 1, short === true],
  )
  return rows.map(({ codes, problem, detail, ...row }) => ({
    ...row,
    settled: codes !== null,
    codes: codes ? codes.split(' ') : [],
    why: problem && { ok: false, problem, ...(detail ? { values: detail } : {}) },
  }))
}

/** Entries of the ledger that are looked through at a time. */
const pageSize = 20_000
/** Clocks may differ by an hour, and a call on its way lives no longer. */
const lateHours = 2

/**
 * What runs that died have given: read off the ledger behind the entry at which they began to ask. It
 * must be level with Redis; whoever asks again for what is not found is told twice by the key alone.
 */
export async function givenUnseen(
  database: Database,
  run: Distribution,
  shard: number,
  keyPrefix: string,
): Promise<Settled[]> {
  const found = new Map<number, string[]>()
  let from = { epoch: run.asked_epoch!, n: run.asked_n! }
  for (let more = true; more; ) {
    const { rows: ends } = await database.query<{ epoch: number; n: number; late: boolean }>(
      `SELECT epoch, n, at > $4::timestamptz + interval '${lateHours} h' AS late FROM ledger
       WHERE shard = $1 AND (epoch, n) > ($2::bigint, $3::bigint)
       ORDER BY epoch, n OFFSET ${pageSize} LIMIT 1`,
      [shard, from.epoch, from.n, run.asked_at],
    )
    const end = ends[0] ?? { epoch: Number.MAX_SAFE_INTEGER, n: 0 }
    // A share's codes are all of one entry, and a page ends with a whole one.
    const { rows } = await database.query<{ position: number; codes: string }>(
      `SELECT split_part(context->>'key', '.', 2)::int AS position,
         string_agg(code, ' ' ORDER BY i) AS codes
       FROM ledger
       WHERE shard = $1 AND (epoch, n) > ($2::bigint, $3::bigint) AND (epoch, n) <= ($4, $5)
         AND kind = 'assign' AND book_id = $6 AND starts_with(context->>'key', $7)
       GROUP BY 1`,
      [shard, from.epoch, from.n, end.epoch, end.n, run.book_id, keyPrefix],
    )
    for (const { position, codes } of rows) found.set(position, codes.split(' '))
    from = end
    more = ends[0]?.late === false
  }
  return unwritten(database, run.job_id, found)
}

/** Those of the shares that have no result yet. */
async function unwritten(
  database: Database,
  jobId: string,
  found: Map<number, string[]>,
): Promise<Settled[]> {
  const { rows } = await database.query<{ position: number; share: number }>(
    `SELECT position, share FROM distribution_shares s
     WHERE job_id = $1 AND position = ANY($2) AND NOT EXISTS (
       SELECT FROM distribution_results r
       WHERE r.job_id = s.job_id AND r.position = s.position)`,
    [jobId, [...found.keys()]],
  )
  return rows.map(({ position, share }) => {
    const codes = found.get(position)!
    return { position, codes, short: codes.length < share }
  })
}
