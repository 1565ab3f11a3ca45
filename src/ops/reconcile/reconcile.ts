import { type Book, getBook } from '../../ledger/books.ts'
import { noteReconcile } from '../../ledger/reconciled.ts'
import { type ShardRow, shardRows } from '../../ledger/shards.ts'
import { booksOf } from '../../ledger/state.ts'
import type { Ops } from '../ops.ts'
import { booksLook } from './books.ts'
import { compareCaps } from './caps.ts'
import {
  type Differences,
  redemptionsLook,
  type ShardItem,
  shardsLook,
  usersLook,
} from './counters.ts'
import { Digests } from './digest.ts'
import { Doubts } from './doubts.ts'
import { compareExtraCodes, compareExtraRedemptions, compareExtraUsers } from './extras.ts'
import {
  beyondCheckpoint,
  compareLedger,
  explainGaps,
  type Gap,
  parkedFacts,
  readSequence,
} from './ledger.ts'
import { compareGuards } from './locks.ts'
import { openPace } from './pace.ts'
import { compareCoupons, compareRedemptions, compareStock, compareUsers } from './pages.ts'
import { type Difference, Findings, Ripples, type Totals } from './report.ts'
import { checkService } from './service.ts'
import { type Look, type Run, type Seen, settle } from './settle.ts'
import { Suspects } from './suspects.ts'

export type { Difference, DifferenceClass } from './report.ts'
export { shared } from './report.ts'
export { Unsettled } from './settle.ts'

/** One book that was compared: by how many codes and coupons, and its digest by each store. */
export type Compared = {
  book_id: string
  codes: number
  coupons: number
  /** 64 bits in hexadecimal, equal where the codes and coupons are. '': its shard does not serve. */
  digest_redis: string
  digest_postgres: string
}

/** What a comparison of both stores came to. `more`: differences beyond the thousand that are listed. */
export type Reconciliation = {
  verdict: 'equal' | 'different'
  /** When it began, ISO 8601. */
  at: string
  exact: boolean
  books: Compared[]
  differences: Difference[]
  more: number
  totals: Totals
}

export type Options = {
  /** This book alone, and the ledger of its shard; left out: everything. */
  book?: string
  /** Promises that nothing is written meanwhile, as after a drain: everything is read once. */
  exact: boolean
  /** Codes that were compared, and how many there are about. */
  onProgress?: (done: number, total: number) => void
}

/**
 * Compares Redis and PostgreSQL, code by code, with each other and with the ledger. First everything is
 * compared quickly, page by page; what seems to differ, which under load means little, is then looked at
 * carefully (`settle`), so that what is reported is so. Memory stays bounded where nothing is as it should
 * be: what waits for its careful look does not wait once there are 20,000 of it, and of what was found a
 * thousand differences are kept, the rest is counted. Parked facts are all kept, and of the ledger's gaps
 * the first thousand of each 50,000 facts. Changes nothing but the note of what the last comparison of everything came to, which /metrics tells, and keeps Redis busy
 * for less than a millisecond or two at a time.
 *
 * Works with up to four connections of the pool at once. Throws Unsettled where the ledger does not
 * follow or a shard is recovered again and again, an Error for a book that there is not, and whatever
 * the stores throw when they are away.
 */
export async function reconcile(ops: Ops, options: Options): Promise<Reconciliation> {
  const at = new Date().toISOString()
  const all = await shardRows(ops.database)
  const books = await booksToCompare(ops, all, options.book)
  const run = await openRun(ops, options, books)
  const { findings, suspects } = run
  const rows = all.filter(({ shard }) => !options.book || shard === books[0]!.shard)
  await Promise.all(rows.map(({ shard }) => checkService(run, shard)))

  // During a sale one thing after the other: the cores are the buyers'.
  const [ledger] = run.exact
    ? await Promise.all([readLedger(run, rows), compareBooks(run)])
    : [await compareBooks(run).then(() => readLedger(run, rows))]
  await compareGuards(run, [...run.serving])
  await suspects.settle(run)
  await compareExtraCodes(run)
  await suspects.settle(run)
  explainGaps(run, ledger.gaps, suspects.lacking)
  for (const { shard } of rows)
    for (const difference of await beyondCheckpoint(run, shard)) findings.add(difference)
  for (const difference of await parkedFacts(run)) findings.add(difference)
  // Counters last: what follows from a coupon that was named is not named again.
  await run.users.settle(run)
  await compareExtraUsers(run)
  await run.users.settle(run)
  await run.redemptions.settle(run)
  await compareExtraRedemptions(run)
  await run.redemptions.settle(run)
  const serving = run.books.filter(({ shard }) => run.serving.has(shard))
  const items = serving.map((its) => ({ shard: its.shard, book: its.book_id, its }))
  await note(run, items, booksLook(run))
  await note(run, ledger.shards, shardsLook(run, findings.ledgers))
  for (const book of serving) {
    const { over } = run.walked.get(book.book_id)!
    for (const difference of await compareCaps(run, book, over)) findings.add(difference)
  }
  const { differences, more, totals } = findings.list()
  if (options.book === undefined) {
    const all = differences.length + more
    await noteReconcile(ops.database, { differences: all, undersold: totals.UNDERSOLD ?? 0 })
  }
  const verdict = differences.length === 0 ? 'equal' : 'different'
  const compared = { books: comparedBooks(run), differences, more, totals }
  return { verdict, at, exact: run.exact, ...compared }
}

/** What was compared of each book; only at the end, for what was looked at carefully is in the digests. */
function comparedBooks({ books, digests, walked }: Run): Compared[] {
  return books.map(({ book_id }) => {
    const its = walked.get(book_id)
    const of = (store: 'redis' | 'postgres') => (its ? digests.get(book_id)!.of(store) : '')
    return {
      ...{ book_id, codes: its?.codes ?? 0, coupons: its?.coupons ?? 0 },
      ...{ digest_redis: of('redis'), digest_postgres: of('postgres') },
    }
  })
}

/** Codes between two reports of how far it is. */
const toldEvery = 5_000
const uuid = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/

async function booksToCompare(ops: Ops, rows: ShardRow[], id?: string): Promise<Book[]> {
  if (id === undefined)
    return (await Promise.all(rows.map(({ shard }) => booksOf(ops.database, shard)))).flat()
  const book = uuid.test(id) ? await getBook(ops.database, id) : undefined
  if (!book) throw new Error(`There is no book ${id}.`)
  return [book]
}

async function openRun(ops: Ops, options: Options, books: Book[]): Promise<Run> {
  const { rows } = await ops.database.query<{ held: number }>(
    `SELECT coalesce(sum(held), 0)::bigint AS held FROM book_counters WHERE book_id = ANY ($1)`,
    [books.filter(({ kind }) => kind === 'counter').map(({ book_id }) => book_id)],
  )
  const codes = books.filter(({ kind }) => kind === 'codes')
  const total = codes.reduce((sum, book) => sum + book.total_code_count, rows[0]!.held)
  let done = 0
  return {
    ...ops,
    ...{ exact: options.exact, book: options.book, books, serving: new Set() },
    ...{ findings: new Findings(), ripples: new Ripples(), suspects: new Suspects() },
    digests: new Map(books.map(({ book_id }) => [book_id, new Digests()])),
    walked: new Map(),
    ...{ users: new Doubts(usersLook), redemptions: new Doubts(redemptionsLook) },
    breathe: options.exact ? async () => {} : openPace(),
    progress(some) {
      const told = Math.floor(done / toldEvery)
      done += some
      if (Math.floor(done / toldEvery) > told) options.onProgress?.(done, Math.max(done, total))
    },
  }
}

async function note<Item extends { shard: number; book: string }, S extends Seen>(
  run: Run,
  items: Item[],
  look: Look<Item, Differences, S>,
): Promise<void> {
  for (const { differences } of (await settle(run, items, look)).values())
    for (const difference of differences) run.findings.add(difference)
}

/** Compares all books of shards that serve. */
async function compareBooks(run: Run): Promise<void> {
  for (const [shard, some] of Map.groupBy(run.books, (book) => book.shard)) {
    if (!run.serving.has(shard)) continue
    for (const book of some) {
      const { records, coupons, over } = await compareCoupons(run, book)
      const stock = () =>
        book.kind === 'codes' ? compareStock(run, book) : { codes: records, open: false }
      // Users after all coupons: what follows from a coupon that was named is not named again.
      const [{ codes, open }, holders] = run.exact
        ? await Promise.all([stock(), compareUsers(run, book, coupons)])
        : [await stock(), await compareUsers(run, book, coupons)]
      run.walked.set(book.book_id, {
        ...{ codes, open, records, coupons, users: holders.users },
        ...{ over: { codes: over, users: holders.over } },
        redemptions: await compareRedemptions(run, book),
      })
    }
  }
}

/** Reads the ledger of these shards: what is missing in it, and what does not fit to the coupons. */
async function readLedger(run: Run, rows: ShardRow[]) {
  const gaps: Gap[] = []
  const shards: ShardItem[] = []
  for (const row of rows) {
    const sequence = await readSequence(run, row)
    gaps.push(...sequence.gaps)
    if (run.serving.has(row.shard)) shards.push({ shard: row.shard, book: '', row, sequence })
  }
  await compareLedger(run, run.book === undefined ? undefined : run.books[0])
  return { gaps, shards }
}
