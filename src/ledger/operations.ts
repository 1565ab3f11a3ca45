import type { FactKind } from '../journal/entry.ts'
import { counts } from './aside.ts'
import type { Database } from './database.ts'

/**
 * One request's part in one script call. Known is either the fact it began with (`i`, in entry `n`),
 * or only that the call came after entry `n`, at about `at`, and under which request id.
 */
export type Operation = {
  shard: number
  epoch: number
  n: number
  i: number | undefined
  op: string
  /** ms since 1970. */
  at: number
  request: string
}

/** A fact as the ledger holds it, with who asked for it. */
export type OperationFact = {
  kind: FactKind
  epoch: number
  n: number
  i: number
  code: string
  book_id: string
  user_id: string
  at: Date
  redemptions: number
  max_redemptions: number
  lock_token: string | null
  locked_until: Date | null
  redemption_id: string | null
  actor: string
  request: string
}

/**
 * A call that is further off was never carried out: no connection lives that long in silence, and
 * clocks that differ by more than an hour are refused by the checklist.
 */
const windowMs = 2 * 3_600_000
const columns = `kind, epoch, n, i, code, book_id, user_id, at, redemptions, max_redemptions,
  lock_token, locked_until, redemption_id, context->>'actor' AS actor,
  context->>'request_id' AS request`

/**
 * What the ledger holds of this request: all of it or nothing, because a call is one entry. But for what
 * somebody gave up: that may have its row, and is in no coupon.
 */
export async function operationFacts(
  database: Database,
  { shard, epoch, n, i, op, at, request }: Operation,
): Promise<OperationFact[]> {
  if (i !== undefined) {
    const { rows } = await database.query<OperationFact & { counts: boolean }>(
      `SELECT ${columns}, ${counts('ledger')} AS counts FROM ledger
       WHERE shard = $1 AND epoch = $2 AND n = $3 AND op = $4 ORDER BY i`,
      [shard, epoch, n, op],
    )
    const first = rows.find((fact) => fact.i === i)
    return first ? rows.filter((fact) => fact.counts && fact.request === first.request) : []
  }
  const { rows } = await database.query<OperationFact>(
    `SELECT ${columns} FROM ledger
     WHERE shard = $1 AND (epoch, n) > ($2, $3) AND op = $4 AND at BETWEEN $5 AND $6
       AND context->>'request_id' = $7 AND ${counts('ledger')} ORDER BY n, i`,
    [shard, epoch, n, op, new Date(at - windowMs), new Date(at + windowMs), request],
  )
  return rows
}

/** Whether facts of the call did not fit into the ledger and wait for somebody to look at them. */
export async function isParked(
  database: Database,
  { shard, epoch, op }: Operation,
): Promise<boolean> {
  const { rowCount } = await database.query(
    `SELECT FROM parked_facts WHERE shard = $1 AND epoch >= $2 AND fact->>'op' = $3 LIMIT 1`,
    [shard, epoch, op],
  )
  return rowCount !== 0
}
