import { LRUCache } from 'lru-cache'
import { prefixOf } from '../codes.ts'
import { inTime } from '../deadline.ts'
import type { Database } from '../ledger/database.ts'
import { PostgresAway } from '../ledger/presence.ts'
import { type Problem, problem } from '../problems.ts'
import type { BookPlace, Store } from '../store/store.ts'

/** What never changes of a book. `prefix` begins the codes of a counter book. */
export type BookFacts = BookPlace & { kind: 'codes' | 'counter'; prefix: string | null }

/** Tells which book and shard a code, a book id or a redemption belongs to. */
export type Directory = ReturnType<typeof openDirectory>

const codesKept = 200_000
const booksKept = 50_000
/**
 * This stands before every verb of a code in stock, so nobody waits longer for it than for a connection. A
 * single connection may have gone silent while PostgreSQL is there, and its own time-outs take seconds.
 */
const patienceMs = 1_500

type Row = BookFacts & { pushed: boolean }
const bookFacts = `SELECT shard, book_id AS book, kind, code_prefix AS prefix,
  pushed_version > 0 AS pushed FROM books`

/** In which epoch it was found. */
type Since = { epoch: number }

/**
 * Both mappings never change, so what was found once is kept; that something is missing is never
 * kept, because it may come into being any moment. A recovery may have gone by a PostgreSQL that does
 * not know a book any more: what was found in an earlier epoch is looked up again.
 */
export function openDirectory(store: Store, database: Database) {
  const books = new LRUCache<string, BookFacts & Since>({ max: booksKept })
  const codes = new LRUCache<string, BookPlace & Since>({ max: codesKept })
  const epochOf = (shard: number) => store.place.gates[shard]!.epoch
  const since = <P extends BookPlace>(found: P) => ({ ...found, epoch: epochOf(found.shard) })
  const isValid = ({ shard, epoch }: BookPlace & Since) => epoch === epochOf(shard)
  const ask = async <R extends object>(sql: string, values: unknown[]): Promise<R[]> => {
    const silent = () => new PostgresAway('PostgreSQL does not say which book it is')
    return (await inTime(database.query<R>(sql, values), patienceMs, silent)).rows
  }

  async function book(id: string): Promise<BookFacts | Problem> {
    const known = books.get(id)
    if (known && isValid(known)) return known
    const [row] = await ask<Row>(`${bookFacts} WHERE book_id = $1`, [id])
    return row ? remember(row) : problem('book-not-found')
  }

  function remember({ pushed, ...found }: Row): BookFacts | Problem {
    // Redis has never had it: asking there would look like a loss. Its push is on the way.
    if (!pushed) return { ...problem('not-ready'), retryAfter: 1 }
    books.set(found.book, since(found))
    return found
  }

  /** The same of several at once: PostgreSQL is asked for all unknown ones in one statement. */
  async function booksOf(ids: Iterable<string>): Promise<Map<string, BookFacts | Problem>> {
    const found = new Map<string, BookFacts | Problem>()
    const unknown: string[] = []
    for (const id of ids) {
      const known = books.get(id)
      if (known && isValid(known)) found.set(id, known)
      else unknown.push(id)
    }
    if (unknown.length === 0) return found
    for (const id of unknown) found.set(id, problem('book-not-found'))
    const rows = await ask<Row>(`${bookFacts} WHERE book_id = ANY ($1)`, [unknown])
    for (const row of rows) found.set(row.book, remember(row))
    return found
  }

  /**
   * Coupons are found in Redis, codes in stock in PostgreSQL. A counter book's code that Redis does
   * not know is still traced to its book, by prefix: only that book's shard may say it is unknown.
   */
  async function bookOfCode(code: string): Promise<BookPlace | Problem> {
    const known = codes.get(code)
    if (known && isValid(known)) return known
    const found =
      (await store.findCode(code).catch(() => undefined)) ??
      (
        await ask<BookPlace & { writing?: boolean }>(
          `SELECT b.shard, b.book_id AS book, l.state = 'writing' AS writing
           FROM books b JOIN codes c USING (book_id) LEFT JOIN loads l USING (load_id)
           WHERE c.code = $1
           UNION ALL
           SELECT shard, book_id, false FROM books
           WHERE code_prefix = $2`,
          [code, prefixOf(code)],
        )
      )[0]
    if (!found) return problem('coupon-not-found')
    const { shard, book } = found
    // An import that is still being written may be taken back as a whole.
    if (!('writing' in found && found.writing)) codes.set(code, since({ shard, book }))
    return { shard, book }
  }

  return {
    book,
    booksOf,
    bookOfCode,
    /**
     * Spares the look-up of codes that were just handed out. All of a book share one object: one of its
     * own for each of 200,000 codes made the collector of garbage work twice as long.
     */
    learn(code: string, place: BookPlace): void {
      const known = books.peek(place.book)
      codes.set(code, known && isValid(known) ? known : since(place))
    },
    /** PostgreSQL may not have it yet: where Redis cannot be asked, nobody can say that there is none. */
    async codeOfRedemption(id: string): Promise<string | Problem> {
      const shut = store.place.gates.some((gate) => !gate.open)
      const code = await store.findRedemption(id).catch(() => null)
      if (code) return code
      const sql = 'SELECT code FROM redemptions WHERE redemption_id = $1'
      const [found] = await ask<{ code: string }>(sql, [id])
      if (found) return found.code
      if (shut || code === null) return { ...problem('not-ready'), retryAfter: 1 }
      return problem('redemption-not-found')
    },
  }
}
