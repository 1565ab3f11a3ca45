import { type EntryId, entryId } from '../../journal/entry.ts'
import { aside, counts } from '../../ledger/aside.ts'
import type { ShardRow } from '../../ledger/shards.ts'
import { keys } from '../../store/keys.ts'
import type { Sequence } from './ledger.ts'
import type { Difference } from './report.ts'
import { type Equal, type Look, type Run, type Seen, seeShard } from './settle.ts'

export type UserItem = { shard: number; book: string; user: string }
export type RedemptionItem = { shard: number; book: string; id: string }
/** `row`: as it was when its sequence was read. */
export type ShardItem = { shard: number; book: ''; row: ShardRow; sequence: Sequence }
export type Differences = Equal & { differences: Difference[] }

export const verdict = (...found: (Difference | false)[]): Differences => {
  const differences = found.filter((one) => one !== false)
  return { equal: differences.length === 0, differences }
}

const flushed = (of: string) =>
  `(${of}.epoch, ${of}.n) <= (SELECT checkpoint_epoch, checkpoint FROM shards WHERE shard = $1)`
/** SQL: what later entries of a shard did, so that it can be taken off; `$1` to `$3`: shard, epoch, n. */
export const later = (columns: string, where: string) => `later AS MATERIALIZED (
  SELECT ${columns} FROM ledger f
  WHERE f.shard = $1 AND (f.epoch, f.n) > ($2::bigint, $3::bigint) AND ${flushed('f')}
    AND ${where} AND ${counts('f')})`
export const since = ({ shard }: Seen, { epoch, n }: EntryId) => [shard, epoch, n]
/** SQL: coupons that were given away, less those that were taken back; a void code may have had no user. */
export const given = `sum(CASE WHEN kind = 'assign' THEN 1 WHEN kind = 'release' THEN -1
  WHEN kind = 'void' AND user_id <> '' THEN -1 ELSE 0 END)`

/** How many coupons of a book its users hold: Redis' counters against the rows in coupons. */
export const usersLook = (run: Run): Look<UserItem, Differences> => ({
  chunk: 500,
  see: (items) => {
    const { shard, book } = items[0]!
    const users = items.map(({ user }) => user)
    return seeShard(run, shard, (tx) => tx.hmget(keys.users(shard, book), ...users))
  },
  judge: async (items, seen, asOf) => {
    const { book, shard } = items[0]!
    const { rows } = await run.database.query<{ held: number }>(
      `WITH ${later('kind, user_id', 'f.book_id = $4 AND f.user_id = ANY ($5)')}
       SELECT (SELECT count(*) FROM coupons k WHERE k.user_id = w.user_id AND k.book_id::text = $4::uuid::text)
         - coalesce((SELECT ${given} FROM later l WHERE l.user_id = w.user_id), 0) AS held
       FROM unnest($5::text[]) WITH ORDINALITY AS w(user_id, place) ORDER BY place`,
      [...since(seen, asOf), book, items.map(({ user }) => user)],
    )
    const [counters] = seen.replies as [(string | null)[]]
    return items.map(({ user }, i) => {
      const redis = Number(counters[i] ?? 0)
      const postgres = Number(rows[i]!.held)
      // A coupon whose holder differs has been named itself.
      const isSame = [0, run.ripples.ofUser(book, user)].includes(redis - postgres)
      const what = `coupons that user ${user} holds`
      return verdict(
        !isSame && { class: 'COUNTER_MISMATCH', shard, book_id: book, what, redis, postgres },
      )
    })
  },
})

type RedemptionRow = { code: string | null; undone: boolean; home: string | null }

/** Single redemptions: which code each was of, and whether it was rolled back. */
export const redemptionsLook = (run: Run): Look<RedemptionItem, Differences> => ({
  chunk: 500,
  see: (items) => {
    const { shard } = items[0]!
    const ids = items.map(({ id }) => id)
    return seeShard(run, shard, (tx) => tx.hmget(keys.redemptions(shard), ...ids))
  },
  judge: async (items, seen, asOf) => {
    const [shown] = seen.replies as [(string | null)[]]
    const { rows } = await run.database.query<RedemptionRow>(
      `WITH ${later('kind, redemption_id::text AS id', 'f.redemption_id::text = ANY ($4)')}
       SELECT CASE WHEN NOT EXISTS (SELECT FROM later l WHERE l.id = w.id AND kind = 'redeem')
           THEN r.code END AS code,
         r.rolled_back_at IS NOT NULL AND NOT EXISTS
           (SELECT FROM later l WHERE l.id = w.id AND kind = 'rollback') AS undone,
         coalesce(r.book_id, c.book_id, k.book_id) AS home
       FROM unnest($4::text[], $5::text[]) WITH ORDINALITY AS w(id, code, place)
       LEFT JOIN redemptions r ON r.redemption_id =
         CASE WHEN w.id ~ '^[0-9a-f-]{36}$' THEN w.id::uuid END
       LEFT JOIN codes c ON c.code = w.code LEFT JOIN coupons k ON k.code = w.code
       ORDER BY place`,
      [
        ...since(seen, asOf),
        items.map(({ id }) => id),
        shown.map((code) => code?.replace('\t', '') ?? null),
      ],
    )
    return items.map(({ shard, id }, i) => judgeRedemption(run, shard, id, shown[i]!, rows[i]!))
  },
})

function judgeRedemption(
  run: Run,
  shard: number,
  id: string,
  redis: string | null,
  { code, undone, home }: RedemptionRow,
): Differences {
  const postgres = code === null ? null : undone ? `\t${code}` : code
  if (redis === postgres || (run.book !== undefined && run.book !== home)) return verdict()
  const shown = (packed: string | null) =>
    packed === null
      ? null
      : { code: packed.replace('\t', ''), rolled_back: packed.startsWith('\t') }
  const about = (redis ?? postgres)!.replace('\t', '')
  return verdict({
    ...{ class: 'STATE_MISMATCH', shard, book_id: home, code: about, what: `redemption ${id}` },
    ...{ redis: shown(redis), postgres: shown(postgres) },
  })
}

/**
 * Entries and facts of a shard: Redis' meta, PostgreSQL's row, and what the ledger holds. `named`: shards
 * whose ledger lacks facts, or has too many, as was said already.
 */
export const shardsLook = (run: Run, named: ReadonlySet<number>): Look<ShardItem, Differences> => ({
  chunk: 1,
  see: ([item]) => seeShard(run, item!.shard, (tx) => tx.hget(keys.meta(item!.shard), 'facts')),
  judge: async ([item], seen, asOf) => {
    const { shard, row: before, sequence } = item!
    const { rows } = await run.database.query<{ facts: number; epoch: number; n: number }>(
      `SELECT facts - (SELECT count(*) FROM (
           SELECT shard, epoch, n, i FROM ledger UNION SELECT shard, epoch, n, i FROM ${aside} AS a) AS f
           WHERE f.shard = $1 AND (f.epoch, f.n) > ($2::bigint, $3::bigint) AND ${flushed('f')}) AS facts,
         checkpoint_epoch AS epoch, checkpoint AS n
       FROM shards WHERE shard = $1`,
      since(seen, asOf),
    )
    const { facts, ...checkpoint } = rows[0]!
    const inRedis = { facts: Number(seen.replies[0]), entry: entryId(seen.at) }
    const known = { epoch: before.checkpointEpoch, n: before.checkpoint }
    const lags = run.exact && entryId(seen.at) !== entryId(checkpoint)
    const isAhead = seen.at.epoch === known.epoch && seen.at.n < known.n
    const fits = sequence.stored <= before.facts && before.facts <= sequence.facts
    const isSame = inRedis.facts === facts && !lags && !isAhead && (fits || named.has(shard))
    const postgres = { facts, ledger: sequence.stored, entry: entryId(checkpoint) }
    const what = 'facts and entries of the shard'
    return [
      verdict(
        !isSame && {
          ...{ class: 'COUNTER_MISMATCH', shard, book_id: null, what },
          ...{ redis: inRedis, postgres },
        },
      ),
    ]
  },
})
