import type { FactKind } from '../journal/entry.ts'
import type { Database } from './database.ts'
import { allCounted } from './shards.ts'

/**
 * What happened over time, from the minutes of books and shards: exact, and as cheap for ten million facts as for ten
 * thousand, because a minute of a book is a handful of rows however much it sold. Times are UTC.
 */
export type Step = 'minute' | 'hour' | 'day'
/** Left out `book`: of all books together. */
export type Span = { book?: { book_id: string; shard: number }; from: Date; to: Date; step: Step }

export type Happened = { at: Date; kind: FactKind; count: number }
export type Refused = { at: Date; reason: string; count: number }
/** `complete`: false while facts of before an upgrade are still being counted. */
export type Timeline = { complete: boolean; happened: Happened[]; refused: Refused[] }

export type Totals = {
  complete: boolean
  happened: { kind: FactKind; within: number; count: number }[]
  refused: { reason: string; count: number }[]
}

export type Stats = ReturnType<typeof openStats>

export function openStats(database: Database) {
  /** Asked before anything is summed up: what is counted meanwhile only adds to it. */
  async function isComplete(shard: number | undefined): Promise<boolean> {
    const { rows } = await database.query<{ complete: boolean }>(
      `SELECT bool_and(${allCounted}) AS complete FROM shards
       WHERE $1::int IS NULL OR shard = $1`,
      [shard ?? null],
    )
    return rows[0]!.complete
  }

  return {
    async timeline({ book, from, to, step }: Span): Promise<Timeline> {
      const complete = await isComplete(book?.shard)
      const of = book ? 'book_id = $4 AND' : ''
      const values = [`1 ${step}`, from, to, ...(book ? [book.book_id] : [])]
      const sums = <R extends Happened | Refused>(what: string, table: string) =>
        database.query<R>(
          `SELECT date_bin($1::interval, minute, 'epoch') AS at, ${what}, sum(count)::bigint AS count
           FROM ${table} WHERE ${of} minute >= $2 AND minute < $3 GROUP BY 1, 2`,
          values,
        )
      const [happened, refused] = await Promise.all([
        sums<Happened>('kind', book ? 'book_minutes' : 'shard_minutes'),
        sums<Refused>('reason', 'refusal_minutes'),
      ])
      return { complete, happened: happened.rows, refused: refused.rows }
    },

    /** Since the book was made. */
    async totals({ book_id, shard }: { book_id: string; shard: number }): Promise<Totals> {
      const complete = await isComplete(shard)
      const [happened, refused] = await Promise.all([
        database.query<Totals['happened'][number]>(
          `SELECT kind, within_seconds AS within, sum(count)::bigint AS count
           FROM book_minutes WHERE book_id = $1 GROUP BY 1, 2`,
          [book_id],
        ),
        database.query<Totals['refused'][number]>(
          `SELECT reason, sum(count)::bigint AS count
           FROM refusal_minutes WHERE book_id = $1 GROUP BY 1`,
          [book_id],
        ),
      ])
      return { complete, happened: happened.rows, refused: refused.rows }
    },
  }
}

/** How often a verb of a book was refused for a reason, in a minute (ms since 1970). */
export type Refusals = { book: string; minute: number; reason: string; count: number }

/** Adds what a process refused. Rows in order, so that two processes cannot wait for each other. */
export async function addRefusals(database: Database, refusals: Refusals[]): Promise<void> {
  await database.query(
    `INSERT INTO refusal_minutes AS r (book_id, minute, reason, count)
     SELECT book, to_timestamp(minute / 1000.0), reason, count
     FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::bigint[])
       AS u(book, minute, reason, count) ORDER BY 1, 2, 3
     ON CONFLICT (book_id, minute, reason) DO UPDATE SET count = r.count + excluded.count`,
    [
      refusals.map(({ book }) => book),
      refusals.map(({ minute }) => minute),
      refusals.map(({ reason }) => reason),
      refusals.map(({ count }) => count),
    ],
  )
}
