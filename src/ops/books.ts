import type { ChainableCommander } from 'ioredis'
import {
  archiveBook,
  type Book,
  createBook,
  getBook,
  type NewBook,
  updateBook,
} from '../ledger/books.ts'
import { processRows } from '../ledger/processes.ts'
import { type Problem, problem } from '../problems.ts'
import { keys } from '../store/keys.ts'
import { scriptNames, scriptSha } from '../store/lua.ts'
import type { By } from './control.ts'
import type { Ops } from './ops.ts'
import { type Options as Reconciling, reconcile, Unsettled } from './reconcile/reconcile.ts'

/** Makes a book in PostgreSQL; the worker that sweeps brings it into Redis within a second or so. */
export async function makeBook(
  { database }: Ops,
  wanted: NewBook,
  reason?: string,
): Promise<Book | Problem> {
  const { rows } = await database.query<{ shard: number }>(
    "SELECT shard FROM shards WHERE phase = 'active'",
  )
  if (rows.length === 0) return problem('not-ready')
  const onto = rows.map(({ shard }) => shard)
  return createBook(database, wanted, onto, ({ book_id }) => {
    return { actor: wanted.created_by, reason, action: 'books.create', target: `book:${book_id}` }
  })
}

/** Ends the sale of a book now, or archives it for ever. */
export async function endBook(
  { database }: Ops,
  bookId: string,
  how: 'close' | 'archive',
  by: By,
): Promise<Book | Problem> {
  const deed = { ...by, action: `books.${how}`, target: `book:${bookId}` }
  return how === 'archive'
    ? archiveBook(database, bookId, deed)
    : updateBook(database, bookId, { closes_at: new Date() }, deed)
}

/** Whether a book could be sold from this moment on, and if not, why not. */
export type Warm = {
  book_id: string
  ready: boolean
  why_not: string[]
  /** What is as it was chosen, and worth knowing. */
  notes: string[]
  left: number
  /** Bytes of Redis that giving all of it away will take. */
  memory: number
  /** Of all its codes and coupons, by each store; null: its shard does not serve, nothing was compared. */
  digest_redis: string | null
  digest_postgres: string | null
}

/**
 * Looks a book over before its sale: its policy and loads are in Redis, the numbers add up, every code is
 * the same in both stores, the scripts are there, and memory is enough for all of it to be given away.
 */
export async function warmBook(
  ops: Ops,
  bookId: string,
  onProgress?: Reconciling['onProgress'],
): Promise<Warm | Problem> {
  const { redis, database } = ops
  const book = await getBook(database, bookId)
  if (!book) return problem('book-not-found')
  const { shard } = book
  const [phase, intake] = await redis.hmget(keys.meta(shard), 'phase', 'intake')
  // Of one moment: somebody may buy between two questions.
  const [held, stock] = await together(
    redis
      .multi()
      .hmget(keys.book(shard, bookId), 'left', 'held', 'version', 'void')
      .scard(keys.stock(shard, bookId)),
  )
  const [left, given, version, gone] = held.map(Number) as [number, number, number, number]
  const scripts = (await redis.call(
    ...(['SCRIPT', 'EXISTS', ...scriptNames.map(scriptSha)] as const),
  )) as number[]
  const { rows } = await database.query<{ loads: number; flush: string; now: Date }>(
    `SELECT (SELECT count(*)::int FROM loads WHERE book_id = $1 AND state <> 'pushed') AS loads,
       flush, now() FROM shards WHERE shard = $2`,
    [bookId, shard],
  )
  const { loads, flush, now } = rows[0]!
  const workers = (await processRows(database)).filter(
    ({ kind, alive }) => kind === 'worker' && alive,
  )
  const info = await redis.info('memory')
  const bytes = (name: string) => Number(new RegExp(`^${name}:(\\d+)`, 'm').exec(info)?.[1] ?? 0)
  const limit = bytes('maxmemory') || bytes('total_system_memory')
  const memory = left * bytesPerCoupon
  const { compared, differences, untold } =
    phase === 'active' ? await compareBook(ops, bookId, onProgress) : nothing
  const whyNot = [
    phase !== 'active' && `shard ${shard} is ${phase ?? 'not in Redis'}`,
    intake === 'stopped' && 'intake is stopped',
    !book.is_active && 'the book is paused',
    book.archived_at && 'the book is archived',
    book.closes_at && book.closes_at <= now && `its sale ended at ${book.closes_at.toISOString()}`,
    book.expiration_date &&
      book.expiration_date <= now &&
      `its coupons could be used until ${book.expiration_date.toISOString()}`,
    flush === 'paused' && 'the flush is paused: `stampede resume --flush` lets it run',
    workers.length === 0 && 'no worker is alive: nothing would reach the ledger, so start one',
    !(version >= book.version) && 'Redis has an older policy',
    loads > 0 && `${loads} loads are not in Redis yet`,
    book.kind === 'codes' && left !== stock && `left says ${left}, the stock has ${stock}`,
    left + given + gone !== book.total_code_count &&
      book.kind === 'codes' &&
      `${left} in stock, ${given} given out and ${gone} void are not ${book.total_code_count}`,
    differences > 0 &&
      `${differences} differences between Redis and PostgreSQL: see \`stampede reconcile --book ${bookId}\``,
    untold,
    left === 0 && 'it is sold out, or empty',
    scripts.includes(0) && 'not all scripts are loaded: is a worker alive?',
    bytes('used_memory') + memory > limit && `giving all of it away needs ${memory} bytes more`,
  ].filter((reason): reason is string => typeof reason === 'string')
  const notes =
    book.opens_at && book.opens_at > now
      ? [`it gives nothing out before ${book.opens_at.toISOString()}`]
      : []
  return {
    ...{ book_id: bookId, ready: whyNot.length === 0, why_not: whyNot, notes, left, memory },
    digest_redis: compared?.digest_redis ?? null,
    digest_postgres: compared?.digest_postgres ?? null,
  }
}

async function together(asked: ChainableCommander): Promise<[(string | null)[], number]> {
  const replies = (await asked.exec())!.map(([error, reply]) => {
    if (error) throw error
    return reply
  })
  return replies as [(string | null)[], number]
}

const nothing = { compared: undefined, differences: 0, untold: undefined }

async function compareBook(ops: Ops, book: string, onProgress?: Reconciling['onProgress']) {
  const options = { book, exact: false, ...(onProgress ? { onProgress } : {}) }
  try {
    const { books, differences } = await reconcile(ops, options)
    // What is wrong with its shard is no reason not to sell this book.
    const own = differences.filter(({ book_id }) => book_id === book)
    return { compared: books[0], differences: own.length, untold: undefined }
  } catch (error) {
    if (!(error instanceof Unsettled)) throw error
    return { ...nothing, untold: `its codes could not be compared: ${error.message}` }
  }
}

/** About what a coupon takes whose user's id has 36 characters, its journal entry not counted. */
const bytesPerCoupon = 240
