import { failpoint } from '../failpoint.ts'
import { type Book, getBook, markBookPushed, unpushedBooks } from '../ledger/books.ts'
import type { Database } from '../ledger/database.ts'
import {
  type CodeGroup,
  countPushed,
  getLoad,
  type Load,
  loadPage,
  markPushed,
  unpushedLoads,
} from '../ledger/loads.ts'
import { type Problem, problem } from '../problems.ts'
import type { BookPolicy } from '../store/books.ts'
import { keys } from '../store/keys.ts'
import type { Place } from '../store/place.ts'
import type { Store } from '../store/store.ts'

/**
 * What is not a coupon verb stands in PostgreSQL first; from there it is pushed into Redis. Every
 * push may be repeated without harm, so what a crash left half done, the sweep does again.
 */
export type Pusher = {
  database: Database
  store: Pick<Store, 'place' | 'pushBook' | 'load' | 'bookCounts'>
}
export type Pushed = { ok: true } | Problem

const done: Pushed = { ok: true }
/** lua/load.lua takes no more. A thousand hold up Redis for about a millisecond. */
const codesPerCall = 1_000
/** Enough to keep Redis busy; more would only stand before other people's coupons. */
const callsInFlight = 4
const pageSize = 20_000

export function policyOf(book: Book): BookPolicy {
  const time = (at: Date | null) => at?.getTime() ?? null
  return {
    shard: book.shard,
    book: book.book_id,
    version: book.version,
    pushedVersion: book.pushed_version,
    kind: book.kind,
    active: book.intake === 'stopped' ? 'stopped' : book.is_active,
    archived: book.archived_at !== null,
    opensAt: time(book.opens_at),
    closesAt: time(book.closes_at),
    expiresAt: time(book.expiration_date),
    maxRedemptions: maxRedemptions(book),
    maxRedemptionsPerUser: book.max_redemptions_per_user,
    maxAssignmentsPerUser: book.max_assignments_per_user,
    lockPolicy: book.lock_policy,
    lockSeconds: book.lock_seconds,
    durability: book.durability,
    units: book.kind === 'counter' ? book.total_code_count : 0,
  }
}

/** How often a code of this book may be redeemed unless it has a limit of its own; 0: no limit. */
export const maxRedemptions = (
  book: Pick<Book, 'allow_multi_redemption' | 'max_redemptions'>,
): number => (book.allow_multi_redemption ? (book.max_redemptions ?? 0) : 1)

/** Brings a book's policy into Redis and remembers that it is there. */
export async function pushBook(pusher: Pusher, bookId: string): Promise<Pushed> {
  const book = await getBook(pusher.database, bookId)
  if (!book) return problem('book-not-found')
  failpoint('push.after-postgres')
  const pushed = await pusher.store.pushBook(policyOf(book))
  failpoint('push.after-redis')
  if (pushed.ok) await markBookPushed(pusher.database, book)
  return pushed
}

/** Stock needs its book: makes sure that Redis has had it. */
async function ensureBook(pusher: Pusher, book: Book): Promise<Pushed> {
  return book.pushed_version > 0 ? done : pushBook(pusher, book.book_id)
}

/** Brings codes into stock, several calls at a time; stops at the first that Redis refuses. */
export async function pushCodes(
  { store }: Pusher,
  { shard, book_id }: Pick<Book, 'shard' | 'book_id'>,
  codes: string[],
  max: number | null,
): Promise<Pushed> {
  failpoint('push.after-postgres')
  let refusal: Problem | undefined
  let next = 0
  async function lane(): Promise<void> {
    while (next < codes.length && !refusal) {
      const some = codes.slice(next, next + codesPerCall)
      next += codesPerCall
      const loaded = await store.load(shard, book_id, some, max)
      if (!loaded.ok) refusal ??= loaded
    }
  }
  await Promise.all(Array.from({ length: callsInFlight }, lane))
  failpoint('push.after-redis')
  return refusal ?? done
}

/** The same for codes with limits of their own. */
export async function pushGroups(
  pusher: Pusher,
  book: Pick<Book, 'shard' | 'book_id'>,
  groups: CodeGroup[],
): Promise<Pushed> {
  for (const { max, codes } of groups) {
    const pushed = await pushCodes(pusher, book, codes, max)
    if (!pushed.ok) return pushed
  }
  return done
}

/** Brings all that was written of a load into Redis, from PostgreSQL, and says so in its row. */
export async function pushLoad(pusher: Pusher, loadId: number): Promise<Pushed> {
  const load = await getLoad(pusher.database, loadId)
  const book = load && (await getBook(pusher.database, load.book_id))
  if (!load || !book) return problem('book-not-found')
  const ready = await ensureBook(pusher, book)
  if (!ready.ok) return ready
  for (let after: string | null = ''; after !== null; ) {
    const page: Awaited<ReturnType<typeof loadPage>> = await loadPage(
      pusher.database,
      load,
      after,
      pageSize,
    )
    const pushed = await pushGroups(pusher, book, page.groups)
    if (!pushed.ok) return pushed
    after = page.next
  }
  return settle(pusher, book, load.load_id)
}

/**
 * Ends a load whose codes were all pushed, if Redis still has as many as it must. A Redis that was
 * killed meanwhile may have forgotten its last second, and no journal entry would tell of it.
 */
export async function settle(pusher: Pusher, book: Book, loadId: number): Promise<Pushed> {
  // In this order: a load beside it that comes to its end between the two would be missing in Redis.
  const expected = await countPushed(pusher.database, book.book_id, loadId)
  const counts = await pusher.store.bookCounts(book.shard, book.book_id)
  if (!counts.ok) return counts
  if (counts.left + counts.held + counts.void < expected)
    return { ...problem('not-ready'), retryAfter: 1 }
  failpoint('push.before-settled')
  await markPushed(pusher.database, loadId)
  return done
}

/** The same for codes that were written just now and are still at hand. */
export async function pushFresh(
  pusher: Pusher,
  book: Book,
  load: Load,
  codes: string[],
): Promise<Pushed> {
  const ready = await ensureBook(pusher, book)
  if (!ready.ok) return ready
  const pushed = await pushCodes(pusher, book, codes, load.max_redemptions)
  return pushed.ok ? settle(pusher, book, load.load_id) : pushed
}

/**
 * Asks whether Redis would take a push now, so that a client hears `not-ready` before anything is
 * written. What fails after that is written, refused, and healed by the sweep.
 */
export async function readyFor(pusher: Pusher, book: Book): Promise<Pushed> {
  if (book.pushed_version === 0) return pushBook(pusher, book.book_id)
  const counts = await pusher.store.bookCounts(book.shard, book.book_id)
  return counts.ok ? done : counts
}

/** Shards that take pushes now. */
export const openShards = ({ store }: Pick<Pusher, 'store'>): number[] =>
  store.place.gates.filter((gate) => gate.open).map((gate) => gate.shard)

/**
 * Pushes every book and load whose push did not come to its end; returns how many. What Redis
 * refuses now is left for the next time, and what lies on shut shards holds nobody up.
 */
export async function pushOnce(pusher: Pusher): Promise<number> {
  const shards = openShards(pusher)
  let healed = 0
  for (const bookId of await unpushedBooks(pusher.database, shards))
    if ((await pushBook(pusher, bookId)).ok) healed++
  for (const loadId of await unpushedLoads(pusher.database, shards))
    if ((await pushLoad(pusher, loadId)).ok) healed++
  return healed
}

/** Pushes every policy of a shard that Redis may not have; false if Redis refused one. */
export async function pushPolicies(pusher: Pusher, shard: number): Promise<boolean> {
  for (;;) {
    const books = await unpushedBooks(pusher.database, [shard])
    for (const book of books) if (!(await pushBook(pusher, book)).ok) return false
    if (books.length === 0) return true
  }
}

/** `left`, `held`, `void` and `version` of books, by Redis; a shard may have thousands of them. */
async function numbersOf(place: Place, shard: number, books: { book_id: string }[]) {
  const asked = place.redis.pipeline()
  for (const { book_id } of books)
    asked.hmget(keys.book(shard, book_id), 'left', 'held', 'void', 'version')
  const replies = (await asked.exec()) ?? []
  return replies.map(([error, reply]) => {
    if (error) throw error
    return reply as (string | null)[]
  })
}

type BookNumbers = { book_id: string; kind: string; pushed: number; newest: number; total: number }
const bookNumbers =
  'book_id, kind, pushed_version AS pushed, version AS newest, total_code_count AS total'

/**
 * Policies and loads are not in the journal, so a Redis that lost the last moments before it stopped
 * may lack some although every entry is there. Books that are behind what PostgreSQL believes, or
 * whose numbers do not add up, are marked to be pushed again, which does no harm to what is there.
 * A book that is gone is damage; one of which Redis knows more than PostgreSQL, which has everything
 * first, means that PostgreSQL is an old one. `late`: Redis lacks the newest policy of a book that it had
 * before, which may be an acknowledged pause.
 */
export async function healPushes(
  place: Place,
  database: Database,
  shard: number,
): Promise<{ damaged?: string; behind?: string; late?: boolean }> {
  const { rows } = await database.query<BookNumbers>(
    `SELECT ${bookNumbers} FROM books WHERE shard = $1 AND pushed_version > 0`,
    [shard],
  )
  const numbers = await numbersOf(place, shard, rows)
  let late = false
  for (const [r, { book_id, kind, pushed, total, newest }] of rows.entries()) {
    const [left, held, gone, version] = numbers[r]!
    if (left == null) return { damaged: `damaged: the book ${book_id} is gone` }
    const codes = Number(left) + Number(held) + Number(gone)
    if (Number(version) > newest || (kind === 'codes' && codes > total)) {
      // Unless it has come into being between the two looks.
      const [now] = (
        await database.query<BookNumbers>(`SELECT ${bookNumbers} FROM books WHERE book_id = $1`, [
          book_id,
        ])
      ).rows
      if (!now || Number(version) > now.newest || (kind === 'codes' && codes > now.total))
        return { behind: `book ${book_id}, version ${version} with ${codes} codes` }
    }
    late ||= Number(version) < newest
    if (Number(version) < pushed)
      await database.query(
        'UPDATE books SET pushed_version = $2 WHERE book_id = $1 AND pushed_version = $3',
        [book_id, Number(version), pushed],
      )
    // Those of a generation that goes on are counted already, and are brought by its job.
    if (kind === 'codes' && codes < total && codes < (await countPushed(database, book_id)))
      await database.query(
        `UPDATE loads SET state = 'written' WHERE book_id = $1 AND state = 'pushed'`,
        [book_id],
      )
  }
  return { late }
}
