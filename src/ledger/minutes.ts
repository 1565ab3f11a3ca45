import { counts } from './aside.ts'
import { type Database, type Transaction, transaction } from './database.ts'
import { withinBounds } from './fold.ts'
import { allCounted } from './shards.ts'

/**
 * book_minutes and shard_minutes are folds of the ledger. Where a shard's minutes have all its facts, each flush adds its own
 * (write.ts). Where they do not, because an older version flushed or because there were no minutes then, a
 * worker counts what the ledger holds, piece by piece, until they do. `counted` in the shard's row moves
 * with what is added, in one transaction: each fact is counted once, whoever dies on the way.
 */

/** Facts of one piece: it takes about a tenth of a second, and whoever flushes waits for none of it. */
const factsPerPiece = 20_000
/** Any constant that no other advisory lock of this database uses. */
const lockSpace = 7_267_836

/** The bucket of a redemption, as fold.ts has it. A fact that does not say when it was assigned is in none. */
const within = `CASE WHEN kind <> 'redeem' THEN 0
  ${withinBounds.map((s) => `WHEN at - assigned_at <= interval '${s} s' THEN ${s}`).join('\n  ')}
  ELSE 0 END`

type Piece = { epoch: number; n: number }

/** Counts one piece of a shard's facts that its minutes lack; false if there is none, or another worker is at it. */
async function countPiece(database: Database, shard: number): Promise<boolean> {
  return transaction(database, async (tx) => {
    const { rows: free } = await tx.query<{ free: boolean }>(
      'SELECT pg_try_advisory_xact_lock($1, $2) AS free',
      [lockSpace, shard],
    )
    if (!free[0]!.free) return false
    // Behind the lock nobody else moves `counted`, because no flush does where it is behind.
    const { rows } = await tx.query<Piece & { from_epoch: number; from_n: number }>(
      `SELECT counted_epoch AS from_epoch, counted AS from_n,
         coalesce(l.epoch, s.checkpoint_epoch) AS epoch, coalesce(l.n, s.checkpoint) AS n
       FROM shards s LEFT JOIN LATERAL (
         SELECT epoch, n FROM ledger WHERE shard = $1 AND (epoch, n) > (s.counted_epoch, s.counted)
         ORDER BY epoch, n, i OFFSET $2 LIMIT 1) AS l ON true
       WHERE s.shard = $1 AND NOT ${allCounted}`,
      [shard, factsPerPiece],
    )
    const piece = rows[0]
    if (!piece) return false
    await tx.query(
      `WITH happened AS (
         SELECT book_id, date_trunc('minute', at, 'UTC') AS minute, kind, ${within} AS within, count(*)
         FROM ledger l
         WHERE shard = $1 AND (epoch, n) > ($2, $3) AND (epoch, n) <= ($4, $5) AND ${counts('l')}
         GROUP BY 1, 2, 3, 4),
       of_shard AS (
         INSERT INTO shard_minutes AS s (minute, shard, kind, count)
         SELECT minute, $1, kind, sum(count)::bigint FROM happened GROUP BY 1, 3
         ON CONFLICT (minute, shard, kind) DO UPDATE SET count = s.count + excluded.count)
       INSERT INTO book_minutes AS m (book_id, minute, kind, within_seconds, count)
       SELECT * FROM happened
       ON CONFLICT (book_id, minute, kind, within_seconds) DO UPDATE
       SET count = m.count + excluded.count`,
      [shard, piece.from_epoch, piece.from_n, piece.epoch, piece.n],
    )
    // Last, because a flush waits for this row.
    await tx.query('UPDATE shards SET counted_epoch = $2, counted = $3 WHERE shard = $1', [
      shard,
      piece.epoch,
      piece.n,
    ])
    return true
  })
}

/** Counts a piece of every shard whose minutes lack facts; returns how many pieces there were. */
export async function countOnce(database: Database): Promise<number> {
  const { rows } = await database.query<{ shard: number }>(
    `SELECT shard FROM shards WHERE NOT ${allCounted} ORDER BY shard`,
  )
  let pieces = 0
  for (const { shard } of rows) if (await countPiece(database, shard)) pieces++
  return pieces
}

/**
 * Whether the minutes are past an entry, so that a fact of it which stood aside until now has to be counted
 * by whoever applies it. Nobody counts a piece until the transaction is over: it would miss the fact, or
 * count it as well.
 */
export async function isCounted(tx: Transaction, shard: number, at: Piece): Promise<boolean> {
  await tx.query('SELECT pg_advisory_xact_lock($1, $2)', [lockSpace, shard])
  const { rows } = await tx.query<{ counted: boolean }>(
    'SELECT (counted_epoch, counted) >= ($2, $3) AS counted FROM shards WHERE shard = $1',
    [shard, at.epoch, at.n],
  )
  return rows[0]?.counted ?? false
}
