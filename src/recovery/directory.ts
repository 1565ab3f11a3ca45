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
/** A map of 200,000 that old ones leave as new ones come is made anew every so often, and all wait for that: 50 ms. */
const drawers = 64
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

/** Codes and where they belong, the oldest forgotten first: of each drawer, which is chosen by the code. */
function openDrawers() {
  const all = Array.from(
    { length: drawers },
    () => new LRUCache<string, BookPlace & Since>({ max: Math.ceil(codesKept / drawers) }),
  )
  const of = (code: string) => {
    let hash = 0
    for (let c = 0; c < code.length; c++) hash = (Math.imul(hash, 31) + code.charCodeAt(c)) | 0
    return all[(hash ^ (hash >>> 16)) & (drawers - 1)]!
  }
  return {
    get: (code: string) => of(code).get(code),
    set(code: string, place: BookPlace & Since): void {
      // A piece of a reply would keep the whole reply in memory.
      of(code).set(Buffer.from(code).toString(), place)
    },
  }
}

/**
 * Both mappings never change, so what was found once is kept; that something is missing is never
 * kept, because it may come into being any moment. A recovery may have gone by a PostgreSQL that does
 * not know a book any more: what was found in an earlier epoch is looked up again.
 */
export function openDirectory(store: Store, database: Database) {
  const books = new LRUCache<string, BookFacts & Since>({ max: booksKept })
  const codes = openDrawers()
  const epochOf = (shard: number) => store.place.gates[shard]!.epoch
  const epochs = () => store.place.gates.map(({ epoch }) => epoch)
  const isValid = ({ shard, epoch }: BookPlace & Since) => epoch === epochOf(shard)
  /** Whoever is told nothing in time may ask again: what comes late is remembered all the same. */
  const soon = <T>(answer: Promise<T>) =>
    inTime(answer, patienceMs, () => new PostgresAway('PostgreSQL does not answer'))

  async function book(id: string): Promise<BookFacts | Problem> {
    const known = books.get(id)
    return known && isValid(known) ? known : soon(findBook(id))
  }

  async function findBook(id: string): Promise<BookFacts | Problem> {
    const asOf = epochs()
    const { rows } = await database.query<Row>(`${bookFacts} WHERE book_id = $1`, [id])
    return rows[0] ? remember(rows[0], asOf) : problem('book-not-found')
  }

  /** `asOf`: epochs from before PostgreSQL was asked. The answer may come when there are others. */
  function remember({ pushed, ...found }: Row, asOf: number[]): BookFacts | Problem {
    // Redis has never had it: asking there would look like a loss. Its push is on the way.
    if (!pushed) return { ...problem('not-ready'), retryAfter: 1 }
    books.set(found.book, { ...found, epoch: asOf[found.shard]! })
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
    for (const one of await soon(findBooks(unknown))) found.set(one.id, one.book)
    return found
  }

  async function findBooks(ids: string[]) {
    const asOf = epochs()
    const { rows } = await database.query<Row>(`${bookFacts} WHERE book_id = ANY ($1)`, [ids])
    return rows.map((row) => ({ id: row.book, book: remember(row, asOf) }))
  }

  /**
   * Coupons are found in Redis, codes in stock in PostgreSQL. A counter book's code that Redis does
   * not know is still traced to its book, by prefix: only that book's shard may say it is unknown.
   */
  async function bookOfCode(code: string): Promise<BookPlace | Problem> {
    const known = codes.get(code)
    if (known && isValid(known)) return known
    const held = await store.findCode(code).catch(() => undefined)
    return held ? rememberCode(code, held, epochOf(held.shard)) : soon(findFree(code))
  }

  async function findFree(code: string): Promise<BookPlace | Problem> {
    const asOf = epochs()
    const { rows } = await database.query<BookPlace & { writing: boolean }>(
      `SELECT b.shard, b.book_id AS book, coalesce(l.state = 'writing', false) AS writing
       FROM books b JOIN codes c USING (book_id) LEFT JOIN loads l USING (load_id)
       WHERE c.code = $1
       UNION ALL
       SELECT shard, book_id, false FROM books
       WHERE code_prefix = $2`,
      [code, prefixOf(code)],
    )
    if (!rows[0]) return problem('coupon-not-found')
    const { writing, shard, book } = rows[0]
    // An import that is still being written may be taken back as a whole.
    return writing ? { shard, book } : rememberCode(code, { shard, book }, asOf[shard]!)
  }

  function rememberCode(code: string, { shard, book }: BookPlace, asOf: number): BookPlace {
    codes.set(code, { shard, book, epoch: asOf })
    return { shard, book }
  }

  async function findRedeemed(id: string): Promise<string | undefined> {
    const sql = 'SELECT code FROM redemptions WHERE redemption_id = $1'
    return (await database.query<{ code: string }>(sql, [id])).rows[0]?.code
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
      codes.set(code, known && isValid(known) ? known : { ...place, epoch: epochOf(place.shard) })
    },
    /** PostgreSQL may not have it yet: where Redis cannot be asked, nobody can say that there is none. */
    async codeOfRedemption(id: string): Promise<string | Problem> {
      const shut = store.place.gates.some((gate) => !gate.open)
      const code = await store.findRedemption(id).catch(() => null)
      if (code) return code
      const found = await soon(findRedeemed(id))
      if (found) return found
      if (shut || code === null) return { ...problem('not-ready'), retryAfter: 1 }
      return problem('redemption-not-found')
    },
  }
}
