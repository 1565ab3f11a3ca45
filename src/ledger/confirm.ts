import { aside } from './aside.ts'
import type { Database } from './database.ts'

/** One fact by where it should stand and which call made it. */
export type Claim = { epoch: number; n: number; i: number; op: string }

/**
 * `held`: the ledger has it. `absent`: it never will, or somebody gave it up. `open`: it may still come,
 * or is parked.
 */
export type Standing = 'held' | 'absent' | 'open'

/**
 * Asks PostgreSQL itself whether it holds these facts of a shard. The op id is compared, because a
 * Redis that lost its memory may have given the same entry number to another call. What is not there
 * is `absent` only once the checkpoint has passed its place: then nothing will ever be put there.
 */
export async function confirmFacts(
  database: Database,
  shard: number,
  claims: readonly Claim[],
): Promise<Standing[]> {
  const { rows } = await database.query<{ op: string | null; passed: boolean; how: How | null }>(
    `SELECT l.op,
       (SELECT max(how) FROM ${aside} AS a
        WHERE a.shard = s.shard AND a.epoch = c.epoch AND a.n = c.n AND a.i = c.i) AS how,
       s.phase = 'active' AND (s.checkpoint_epoch, s.checkpoint) >= (c.epoch, c.n) AS passed
     FROM shards s
     CROSS JOIN unnest($2::bigint[], $3::bigint[], $4::int[]) WITH ORDINALITY
       AS c(epoch, n, i, position)
     LEFT JOIN ledger l ON (l.shard, l.epoch, l.n, l.i) = (s.shard, c.epoch, c.n, c.i)
     WHERE s.shard = $1 ORDER BY c.position`,
    [shard, claims.map(({ epoch }) => epoch), claims.map(({ n }) => n), claims.map(({ i }) => i)],
  )
  return rows.map(({ op, passed, how }, c) => {
    // What stands aside may have its row in the ledger, and still is not in the coupons.
    if (how) return how === 'parked' ? 'open' : 'absent'
    if (op === claims[c]!.op) return 'held'
    return passed ? 'absent' : 'open'
  })
}

type How = 'parked' | 'discarded'
