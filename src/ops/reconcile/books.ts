import { type Book, getBook } from '../../ledger/books.ts'
import { policyOf } from '../../recovery/push.ts'
import { policyFields } from '../../store/books.ts'
import { keys } from '../../store/keys.ts'
import { type Differences, given, later, since, verdict } from './counters.ts'
import { gently } from './postgres.ts'
import type { Difference } from './report.ts'
import { type Look, type Run, type Seen, seeShard, slices } from './settle.ts'

export type BookItem = { shard: number; book: string; its: Book }

type Totals = {
  held: number
  redeemed: number
  void: number
  counter_held: number
  counter_redeemed: number
  counter_void: number
  later_held: number
  later_redeemed: number
  later_void: number
  total: number
  codes: number
}
/** `gently`: see there. */
const totalsSql = (
  gently: string,
) => `WITH ${later('kind, user_id, redemptions, max_redemptions AS max', 'f.book_id = $4')},
  rows AS (SELECT count(*) FILTER (WHERE user_id <> '') AS held,
      count(*) FILTER (WHERE user_id = '') AS void,
      count(*) FILTER (WHERE max_redemptions > 0 AND redemptions >= max_redemptions) AS redeemed
    FROM coupons WHERE book_id = $4 AND ${gently})
  SELECT rows.held, rows.redeemed, rows.void, coalesce(c.held, 0) AS counter_held,
    coalesce(c.redeemed, 0) AS counter_redeemed, coalesce(c.void, 0) AS counter_void,
    b.total_code_count AS total, (SELECT count(*) FROM later WHERE kind = 'void') AS later_void,
    (SELECT count(*) FROM codes WHERE book_id = $4 AND ${gently}) AS codes,
    (SELECT coalesce(${given}, 0) FROM later) AS later_held,
    (SELECT coalesce(sum(CASE WHEN kind = 'redeem' AND redemptions = max THEN 1
      WHEN kind = 'rollback' AND redemptions + 1 = max THEN -1 ELSE 0 END), 0)
      FROM later) AS later_redeemed
  FROM rows, books b LEFT JOIN book_counters c USING (book_id) WHERE b.book_id = $4`

type SeenBook = Seen & { before: Book }

/**
 * The numbers and the policy of a book: Redis' hash, book_counters, and the rows themselves. A policy is
 * pushed and stands in no journal, so PostgreSQL is asked before Redis what Redis must have.
 */
export const booksLook = (run: Run): Look<BookItem, Differences, SeenBook> => ({
  chunk: 1,
  see: async ([item]) => {
    const { shard, book, its } = item!
    const before = (await getBook(run.database, book)) ?? its
    const [hash, stock] = [keys.book(shard, book), keys.stock(shard, book)]
    return { ...(await seeShard(run, shard, (tx) => tx.hgetall(hash).scard(stock))), before }
  },
  judge: async ([item], seen, asOf) => {
    const { shard, book } = item!
    const { before } = seen
    const [hash, stock] = seen.replies as [Record<string, string>, number]
    const about = { shard, book_id: book }
    if (hash.version === undefined && before.pushed_version === 0) return [verdict()]
    if (hash.version === undefined) {
      const postgres = { version: before.pushed_version }
      const what = 'the book is not in Redis'
      return [verdict({ class: 'STATE_MISMATCH', ...about, what, redis: null, postgres })]
    }
    const { codes, records } = run.walked.get(book)!
    const { rows } = await run.database.query<Totals>(
      totalsSql(gently(run.exact, Math.max(codes, records))),
      [...since(seen, asOf), book],
    )
    const totals = rows[0]!
    return [
      verdict(
        wrongCounter(run, about, 'held', hash, totals),
        wrongCounter(run, about, 'redeemed', hash, totals),
        wrongCounter(run, about, 'void', hash, totals),
        wrongLeft(run, about, before, hash, stock),
        before.kind === 'codes' &&
          totals.codes !== totals.total && {
            ...{ class: 'COUNTER_MISMATCH', ...about, what: 'codes of the book', redis: null },
            postgres: { total_code_count: totals.total, codes: totals.codes },
          },
        await wrongPolicy(run, about, before, hash),
      ),
    ]
  },
})

type About = { shard: number; book_id: string }

function wrongCounter(
  run: Run,
  about: About,
  name: 'held' | 'redeemed' | 'void',
  hash: Record<string, string>,
  totals: Totals,
): Difference | false {
  const redis = Number(hash[name] ?? 0)
  const after = Number(totals[`later_${name}`])
  const rows = totals[name] - after
  const book_counters = totals[`counter_${name}`] - after
  const isSame =
    book_counters === redis && [0, run.ripples.ofBook(about.book_id)[name]].includes(redis - rows)
  if (isSame) return false
  const postgres = { book_counters, coupons: rows }
  return { class: 'COUNTER_MISMATCH', ...about, what: `${name} of the book`, redis, postgres }
}

function wrongLeft(
  run: Run,
  about: About,
  { kind }: Book,
  hash: Record<string, string>,
  stock: number,
): Difference | false {
  const left = Number(hash.left)
  const { units, held, void: gone = '0' } = hash
  const counted = kind === 'counter' ? Number(units) - Number(held) - Number(gone) : stock
  // Codes that are in stock and should not be, or the other way round, have been named themselves.
  const isSame = [0, run.ripples.ofBook(about.book_id).stock].includes(counted - left)
  if (isSame) return false
  const redis = kind === 'counter' ? { left, units, held, void: gone } : { left, stock }
  const what =
    kind === 'counter' ? 'left is not units less held and void' : 'left is not the size of stock'
  return { class: 'STOCK_MISMATCH', ...about, what, redis, postgres: null }
}

/** Redis has a version that was pushed, or a newer one; the same version is the same policy. */
async function wrongPolicy(
  { database }: Run,
  about: About,
  before: Book,
  hash: Record<string, string>,
): Promise<Difference | false> {
  const version = Number(hash.version)
  const now = (await getBook(database, about.book_id)) ?? before
  const its = [before, now].find((book) => book.version === version)
  if (!its && version >= before.pushed_version && version <= now.version) return false
  if (!its)
    return {
      ...{ class: 'STATE_MISMATCH', ...about, what: 'the version of the book', redis: version },
      postgres: { pushed: before.pushed_version, version: now.version },
    }
  const policy = policyOf(its)
  const flat = ['units', policy.units, ...policyFields(policy)].map(String)
  const wrong = slices(flat, 2).filter(([name, value]) => hash[name!] !== value)
  if (wrong.length === 0) return false
  return {
    ...{ class: 'STATE_MISMATCH', ...about },
    what: `the policy of the book: ${wrong.map(([name]) => name).join(', ')}`,
    redis: Object.fromEntries(wrong.map(([name]) => [name, hash[name!] ?? null])),
    postgres: Object.fromEntries(wrong),
  }
}
