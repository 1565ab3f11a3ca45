import type { Book } from '../../ledger/books.ts'
import { keys } from '../../store/keys.ts'
import { isVoid } from '../../store/record.ts'
import type { Difference } from './report.ts'
import type { Run } from './settle.ts'

/**
 * Limits of a book that were passed. A limit may have been lowered since, and then whoever was given
 * more is no difference; which limits there were is not kept, but when one was last changed is. So
 * only what happened a minute later than that counts: the newest assignment, or redemption, of whoever
 * is over the limit was refused, or it passed the limit of today. What a coupon may be redeemed for
 * stands in its own record, so no change of the book excuses more.
 */
const graceSeconds = 60
const changedBefore = (column: string) =>
  `(b.limits_changed_at IS NULL OR ${column} > b.limits_changed_at + interval '${graceSeconds} s')`

const listedMax = 1_000

/** By PostgreSQL: users who hold more than the book allows, and codes that were redeemed more often. */
export type Over = { users: string[]; codes: string[] }

export async function compareCaps(run: Run, book: Book, over: Over): Promise<Difference[]> {
  return [
    ...(await overHeld(run, book, over.users)),
    ...(await tellRedeemed(run, book, over.codes)),
  ]
}

/**
 * Whether a coupon, by its packed record, was redeemed more often than it or its book allows today. That of a
 * void code does not say: it may be.
 */
export function isOver({ max_redemptions_per_user: perUser }: Book, record: string): boolean {
  if (isVoid(record)) return true
  const [, , , , , times = '0', most = '0'] = record.split('\t', 7)
  const [redeemed, max] = [Number(times), Number(most)]
  return (max > 0 && redeemed > max) || (perUser !== null && redeemed > perUser)
}

/** Those of `over` who may be over the limit of today for no older one. */
export async function overToday(run: Run, book: Book, over: string[]): Promise<string[]> {
  const { rows } = await run.database.query<{ user_id: string }>(
    `SELECT k.user_id FROM coupons k JOIN books b USING (book_id)
     WHERE k.book_id = $1 AND k.user_id = ANY ($2) GROUP BY k.user_id, b.limits_changed_at
     HAVING ${changedBefore('max(k.assigned_at)')}`,
    [book.book_id, over],
  )
  return rows.map(({ user_id }) => user_id)
}

async function overHeld(run: Run, book: Book, over: string[]): Promise<Difference[]> {
  const { shard, book_id, max_assignments_per_user: limit } = book
  if (over.length === 0) return []
  const { rows } = await run.database.query<{ user_id: string; held: number }>(
    `SELECT k.user_id, count(*)::int AS held FROM coupons k JOIN books b USING (book_id)
     WHERE k.book_id = $1 AND k.user_id = ANY ($2) GROUP BY k.user_id, b.limits_changed_at
     HAVING count(*) > $3 AND ${changedBefore('max(k.assigned_at)')}
     ORDER BY k.user_id LIMIT ${listedMax}`,
    [book_id, over, limit],
  )
  // Whoever is over it only by a coupon that Redis knows to be another's has been named with that.
  const really = rows.filter(
    ({ user_id, held }) => held + run.ripples.ofUser(book_id, user_id) > limit!,
  )
  return Promise.all(
    really.map(async ({ user_id, held }) => ({
      ...{ class: 'CAP_EXCEEDED' as const, shard, book_id },
      what: `user ${user_id} holds ${held} coupons, ${limit} are allowed`,
      redis: { held: Number(await run.redis.hget(keys.users(shard, book_id), user_id)) },
      postgres: { held, limit },
    })),
  )
}

/** Those of `codes` who may be over the limit of today for no older one: the first thousand. */
export async function overRedeemed({ database }: Run, book: Book, codes: string[]) {
  const { rows } = await database.query<{ code: string; redemptions: number; limit: number }>(
    `SELECT k.code, k.redemptions, CASE WHEN k.max_redemptions > 0 AND
         k.redemptions > k.max_redemptions THEN k.max_redemptions ELSE $2::int END AS limit
     FROM coupons k JOIN books b USING (book_id)
     WHERE k.book_id = $1 AND k.code = ANY ($3)
       AND (k.max_redemptions > 0 AND k.redemptions > k.max_redemptions
         OR k.redemptions > $2::int AND (SELECT ${changedBefore('max(r.redeemed_at)')}
           FROM redemptions r WHERE r.book_id = $1 AND r.code = k.code AND r.rolled_back_at IS NULL))
     ORDER BY k.code LIMIT ${listedMax}`,
    [book.book_id, book.max_redemptions_per_user, codes],
  )
  return rows
}

async function tellRedeemed(run: Run, book: Book, codes: string[]): Promise<Difference[]> {
  const { shard, book_id } = book
  if (codes.length === 0) return []
  const rows = await overRedeemed(run, book, codes)
  const open = rows.filter(({ code }) => !run.findings.codes.has(code))
  if (open.length === 0) return []
  const records = await run.redis.hmget(keys.coupons(shard), ...open.map(({ code }) => code))
  return open.map(({ code, redemptions, limit }, c) => ({
    ...{ class: 'CAP_EXCEEDED', shard, book_id, code },
    what: `${redemptions} redemptions, ${limit} are allowed`,
    redis: { redemptions: Number(records[c]?.split('\t')[5] ?? 0) },
    postgres: { redemptions, limit },
  }))
}
