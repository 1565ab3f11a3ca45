import type { Book } from '../../ledger/books.ts'
import { keys } from '../../store/keys.ts'
import { given, later, since } from './counters.ts'
import { relieve } from './pages.ts'
import { gently, notInStock, notRedemptions, withoutCoupon, withoutHolding } from './postgres.ts'
import {
  type AtHome,
  type Equal,
  type Look,
  perStep,
  type Run,
  seeShard,
  settle,
  slices,
  type Walked,
} from './settle.ts'

/**
 * What Redis alone knows of. Everything that PostgreSQL has was compared before: where nothing of it was
 * different and Redis has as many, there is nothing else. Only where that is not so are Redis' keys gone
 * through, and PostgreSQL is asked for everything in them.
 */

/** Coupons of whoever has no such coupon in PostgreSQL, and codes in stock that should not be there. */
export async function compareExtraCodes(run: Run): Promise<void> {
  const { database, book } = run
  for (const [shard, books] of booksByShard(run)) {
    const scanned = await differing(run, [{ shard, book: '' }], couponsCount)
    for (const _ of scanned)
      await scanHash(
        run,
        keys.coupons(shard),
        (codes) => withoutCoupon(database, codes),
        (code, record) => {
          const its = record.slice(0, record.indexOf('\t'))
          suspect(run, { shard, book: its }, code)
        },
        (record) => book === undefined || record.startsWith(`${book}\t`),
      )
    const stocks = books.filter(({ kind }) => kind === 'codes').map(atHome)
    for (const { book: its } of await differing(run, stocks, stockCount))
      await scanStock(run, shard, its)
  }
}

/** Users who hold nothing of a book by PostgreSQL. */
export async function compareExtraUsers(run: Run): Promise<void> {
  for (const [shard, books] of booksByShard(run))
    for (const { book } of await differing(run, books.map(atHome), usersCount))
      await scanHash(
        run,
        keys.users(shard, book),
        (users) => withoutHolding(run.database, book, users),
        (user) => run.users.add(`${book} ${user}`, { shard, book, user }),
      )
}

/** Redemptions that PostgreSQL does not know. */
export async function compareExtraRedemptions(run: Run): Promise<void> {
  for (const shard of booksByShard(run).keys())
    for (const _ of await differing(run, [{ shard, book: '' }], redemptionsCount))
      await scanHash(
        run,
        keys.redemptions(shard),
        (ids) => notRedemptions(run.database, ids),
        (id) => run.redemptions.add(id, { shard, book: '', id }),
      )
}

const atHome = ({ shard, book_id }: Book): AtHome => ({ shard, book: book_id })

const booksByShard = ({ books, serving }: Run) =>
  Map.groupBy(
    books.filter(({ shard }) => serving.has(shard)),
    ({ shard }) => shard,
  )

/** How many there are: a key in Redis, and SQL for those of a book in PostgreSQL after the entry that Redis was at. */
type Count = {
  key: (home: AtHome) => string
  isSet?: boolean
  /** Drained, nothing has changed since its book was walked. */
  walked: (book: Walked) => number
  /** `gently`: see there. */
  sql: (gently: string) => string
}

/** Rows of coupons that later facts made, less those that they took away. */
const made = `coalesce(sum(CASE WHEN kind = 'assign' OR (kind = 'void' AND version = 1) THEN 1
  WHEN kind = 'release' THEN -1 ELSE 0 END), 0)`

const couponsCount: Count = {
  key: ({ shard }) => keys.coupons(shard),
  walked: ({ records }) => records,
  sql: (gently) => `WITH ${later('kind, version', 'f.book_id = $4')}
    SELECT (SELECT count(*) FROM coupons WHERE book_id = $4 AND ${gently}) - (SELECT ${made} FROM later) AS count`,
}
const redemptionsCount: Count = {
  key: ({ shard }) => keys.redemptions(shard),
  walked: ({ redemptions }) => redemptions,
  sql: (gently) => `WITH ${later('kind', 'f.book_id = $4')}
    SELECT (SELECT count(*) FROM redemptions WHERE book_id = $4 AND ${gently})
      - (SELECT count(*) FROM later WHERE kind = 'redeem') AS count`,
}
/** While codes are on their way there is no telling how many Redis should have. */
const stockCount: Count = {
  key: ({ shard, book }) => keys.stock(shard, book),
  isSet: true,
  walked: ({ codes, open, records }) => (open ? -1 : codes - records),
  sql: (gently) => `WITH ${later('kind, version', 'f.book_id = $4')}
    SELECT CASE WHEN EXISTS (SELECT FROM loads WHERE book_id = $4 AND state <> 'pushed') THEN -1
      ELSE (SELECT count(*) FROM codes WHERE book_id = $4 AND ${gently})
        - (SELECT count(*) FROM coupons WHERE book_id = $4 AND ${gently}) + (SELECT ${made} FROM later) END AS count`,
}
/** Whoever holds nothing is not in Redis' hash, whatever they held before. */
const usersCount: Count = {
  key: ({ shard, book }) => keys.users(shard, book),
  walked: ({ users }) => users,
  sql: (gently) => `WITH ${later('kind, user_id', 'f.book_id = $4')},
    changed AS (SELECT more,
        (SELECT count(*) FROM coupons k WHERE k.user_id = l.user_id AND k.book_id::text = $4::uuid::text) AS held
      FROM (SELECT user_id, ${given} AS more FROM later GROUP BY user_id) AS l WHERE user_id <> '')
    SELECT (SELECT count(*) FROM (SELECT FROM coupons
        WHERE book_id = $4 AND user_id <> '' AND ${gently} GROUP BY user_id) AS holders)
      - (SELECT count(*) FILTER (WHERE held > 0) - count(*) FILTER (WHERE held - more > 0)
         FROM changed) AS count`,
}

/**
 * Those of which Redis may know more: whatever something was found of, because what is missing there would
 * make up for what is too much. What a shard's books share cannot be counted for one of them.
 */
async function differing(run: Run, homes: AtHome[], count: Count): Promise<AtHome[]> {
  const [named, open] = [[] as AtHome[], [] as AtHome[]]
  for (const home of homes) {
    const isScanned = run.findings.at(home) || (home.book === '' && run.book !== undefined)
    ;(isScanned ? named : open).push(home)
  }
  // A few at a time: what came after Redis was looked at has to be taken off again.
  for (const some of slices(open, 20)) {
    const verdicts = await settle(run, some, countLook(run, count))
    named.push(...some.filter((home) => !verdicts.get(home)!.equal))
  }
  return named
}

const countLook = (run: Run, { key, isSet, walked, sql }: Count): Look<AtHome, Equal> => ({
  chunk: 1,
  see: ([home]) =>
    seeShard(run, home!.shard, (tx) =>
      isSet ? tx.scard(key(home!)) : tx.hlen(key(home!)).hexists(key(home!), ''),
    ),
  judge: async ([home], seen, asOf) => {
    const [all, sentinel = 0] = seen.replies as number[]
    const { shard, book } = home!
    const books = book === '' ? run.books.filter((one) => one.shard === shard).map(atHome) : [home!]
    let count = 0
    // One after the other: each statement is of the same entry, and none takes longer than a book does.
    for (const its of books) {
      if (run.exact) {
        count += walked(run.walked.get(its.book)!)
        continue
      }
      const { codes, records, redemptions } = run.walked.get(its.book)!
      const { rows } = await run.database.query<{ count: number }>(
        sql(gently(false, Math.max(codes, records, redemptions))),
        [...since(seen, asOf), its.book],
      )
      count += Number(rows[0]!.count)
    }
    return [{ equal: all! - sentinel === count }]
  },
})

/** Whatever was named already has been looked at, and is in the digests. */
function suspect(run: Run, { shard, book }: AtHome, code: string): void {
  if (!run.findings.codes.has(code)) run.suspects.add({ shard, book, code, digested: true })
}

/** Goes through a hash in Redis for fields that PostgreSQL does not know, sentinel aside. */
async function scanHash(
  run: Run,
  key: string,
  unknown: (fields: string[]) => Promise<string[]>,
  found: (field: string, value: string) => void,
  concerns: (value: string) => boolean = () => true,
): Promise<void> {
  let cursor = '0'
  do {
    const [next, flat] = await run.redis.hscan(key, cursor, 'COUNT', perStep)
    cursor = next
    const values = new Map<string, string>()
    for (const [field, value] of slices(flat, 2) as [string, string][])
      if (field !== '' && concerns(value)) values.set(field, value)
    const fields = [...values.keys()]
    if (fields.length > 0)
      for (const field of await unknown(fields)) found(field, values.get(field)!)
    await relieve(run)
  } while (cursor !== '0')
}

/** Goes through the stock of a book for codes that are not its own, or that somebody has. */
async function scanStock(run: Run, shard: number, book: string): Promise<void> {
  let cursor = '0'
  do {
    const [next, members] = await run.redis.sscan(keys.stock(shard, book), cursor, 'COUNT', perStep)
    cursor = next
    if (members.length > 0)
      for (const code of await notInStock(run.database, book, members))
        suspect(run, { shard, book }, code)
    await run.suspects.relieve(run)
  } while (cursor !== '0')
}
