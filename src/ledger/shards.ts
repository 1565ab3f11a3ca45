import { failpoint } from '../failpoint.ts'
import { audit, type Deed } from './audit.ts'
import { type Database, type Transaction, transaction } from './database.ts'

/** A shard as PostgreSQL knows it: the fence and the checkpoint. */
export type ShardRow = {
  shard: number
  epoch: number
  phase: 'new' | 'recovering' | 'active'
  recoverer: string | null
  checkpointEpoch: number
  checkpoint: number
  checkpointHash: string
  /** Facts committed since the installation began. */
  facts: number
  intake: 'open' | 'stopped'
  /** An operator holds the flush. */
  flush: 'running' | 'paused'
  /** Why a process no longer trusts this shard in Redis; null: nobody said so. */
  suspect: string | null
  /** Which life of Redis epoch `memoryEpoch` began on, see lua/check.lua; '' where it hides that. */
  memory: string
  memoryEpoch: number
  /** An operator accepts the loss of what PostgreSQL, restored from a backup, does not have. */
  lossAccepted: boolean
  /** A recovery that gave no sign of life for a while: somebody else may take over. */
  abandoned: boolean
}

/** A recoverer says every second that it lives; after this it counts as dead or frozen. */
const abandonedSeconds = 5

const columns = `shard, epoch, phase, recoverer, checkpoint_epoch AS "checkpointEpoch", checkpoint,
  checkpoint_hash AS "checkpointHash", facts, intake, flush, suspect, loss_accepted AS "lossAccepted",
  memory, memory_epoch AS "memoryEpoch",
  phase = 'recovering' AND updated_at < now() - interval '${abandonedSeconds} s' AS abandoned`

export async function shardRows(database: Database): Promise<ShardRow[]> {
  const { rows } = await database.query<ShardRow>(`SELECT ${columns} FROM shards ORDER BY shard`)
  return rows
}

/** The id that this installation was given when its database was made. */
export async function installationId(database: Database): Promise<string> {
  const { rows } = await database.query<{ id: string }>(
    "SELECT value #>> '{}' AS id FROM settings WHERE name = 'installation'",
  )
  if (!rows[0]) throw new Error('PostgreSQL has no installation: run the migrations')
  return rows[0].id
}

export async function shardRow(database: Database, shard: number): Promise<ShardRow> {
  const { rows } = await database.query<ShardRow>(
    `SELECT ${columns} FROM shards WHERE shard = $1`,
    [shard],
  )
  if (!rows[0]) throw new Error(`shard ${shard} is not in PostgreSQL: run the migrations`)
  return rows[0]
}

/** Someone else has moved the shard since its row was read: this work must not be committed. */
export class Overtaken extends Error {}

/** Of a row of shards: book_minutes has all facts that the ledger has. */
export const allCounted = '(counted_epoch, counted) = (checkpoint_epoch, checkpoint)'

/**
 * Moves the checkpoint from where `row` says to `to`, and nothing else: the first statement of every
 * flush, and its lock. Throws Overtaken if the row is not as it was read. True: the minutes had all facts
 * up to there, so whoever moves it counts those that it brings.
 */
export async function moveCheckpoint(
  tx: Transaction,
  row: ShardRow,
  to: { n: number; hash: string; facts: number },
): Promise<boolean> {
  const { rows } = await tx.query<{ counts: boolean }>(
    `UPDATE shards SET checkpoint = $1, checkpoint_hash = $2, facts = $3, updated_at = now(),
       counted = CASE WHEN ${allCounted} THEN $1 ELSE counted END
     WHERE shard = $4 AND epoch = $5 AND phase = $6 AND recoverer IS NOT DISTINCT FROM $7
       AND checkpoint_epoch = $8 AND checkpoint = $9
     RETURNING ${allCounted} AS counts`,
    [
      to.n,
      to.hash,
      to.facts,
      row.shard,
      row.epoch,
      row.phase,
      row.recoverer,
      row.checkpointEpoch,
      row.checkpoint,
    ],
  )
  if (!rows[0]) throw new Overtaken(`shard ${row.shard} was moved by another process`)
  return rows[0].counts
}

/** The entry behind which the ledger has `facts` facts of a shard; undefined: it has fewer. */
export async function entryBefore(
  database: Database,
  shard: number,
  facts: number,
): Promise<{ epoch: number; n: number } | undefined> {
  const { rows } = await database.query<{ epoch: number; n: number }>(
    `SELECT epoch, n FROM ledger WHERE shard = $1
     ORDER BY epoch DESC, n DESC, i DESC OFFSET $2 LIMIT 1`,
    [shard, facts],
  )
  return rows[0]
}

/** Says that Redis is not to be trusted in `epoch`; whoever was first gives the reason. */
export async function suspectShard(
  database: Database,
  shard: number,
  epoch: number,
  why: string,
): Promise<void> {
  await database.query(
    `UPDATE shards SET suspect = $3
     WHERE shard = $1 AND epoch = $2 AND phase = 'active' AND suspect IS NULL`,
    [shard, epoch, why],
  )
}

/**
 * An operator accepts that what a restored PostgreSQL lacks of this shard is lost. With its record in
 * one transaction: the next recovery makes the loss final, and nobody could tell any more who did it.
 */
export async function acceptLoss(database: Database, shard: number, deed: Deed): Promise<void> {
  await transaction(database, async (tx) => {
    await tx.query('UPDATE shards SET loss_accepted = true WHERE shard = $1', [shard])
    failpoint('loss.before-audit')
    await audit(tx, deed)
  })
  failpoint('loss.after-postgres')
}

/**
 * Takes the shard for a recovery under `epoch` and `token`; false if somebody else was faster, or has
 * suspected it or asked for a rebuild since `row` was read: that is answered by its own recovery.
 */
export async function beginRecovery(
  database: Database,
  row: ShardRow,
  epoch: number,
  token: string,
  cause: string,
): Promise<boolean> {
  const { rowCount } = await database.query(
    `WITH taken AS (
       UPDATE shards SET epoch = $1, phase = 'recovering', recoverer = $2, suspect = NULL,
         updated_at = now()
       WHERE shard = $3 AND epoch = $4 AND recoverer IS NOT DISTINCT FROM $5
         AND suspect IS NOT DISTINCT FROM $7
       RETURNING shard)
     INSERT INTO recoveries (shard, epoch, cause) SELECT shard, $1, $6 FROM taken`,
    [epoch, token, row.shard, row.epoch, row.recoverer, cause, row.suspect],
  )
  return rowCount === 1
}

/** A sign of life of the recovery that holds `token`. Throws Overtaken if it does no longer. */
export async function keepRecovering(
  database: Database,
  shard: number,
  token: string,
): Promise<void> {
  const { rowCount } = await database.query(
    `UPDATE shards SET updated_at = now()
     WHERE shard = $1 AND phase = 'recovering' AND recoverer = $2`,
    [shard, token],
  )
  if (rowCount !== 1) throw new Overtaken(`shard ${shard} is being recovered by another worker`)
}

/** What a recovery had to do. */
export type Recovered = { flushed: number; rebuilt: boolean; codes: number; coupons: number }

/**
 * Ends the recovery that holds `token`: entries of `epoch` count from 1, and are those of this `memory`.
 */
export async function endRecovery(
  database: Database,
  shard: number,
  epoch: number,
  token: string,
  memory: string,
  did: Recovered,
): Promise<void> {
  const { rowCount } = await database.query(
    `WITH ended AS (
       UPDATE shards SET phase = 'active', recoverer = NULL, checkpoint_epoch = $1, checkpoint = 0,
         checkpoint_hash = '', loss_accepted = false, memory = $8, memory_epoch = $1,
         counted_epoch = CASE WHEN ${allCounted} THEN $1 ELSE counted_epoch END,
         counted = CASE WHEN ${allCounted} THEN 0 ELSE counted END, updated_at = now()
       WHERE shard = $2 AND epoch = $1 AND phase = 'recovering' AND recoverer = $3
       RETURNING shard)
     UPDATE recoveries r SET ended_at = now(), flushed = $4, rebuilt = $5, codes = $6, coupons = $7
     FROM ended WHERE r.shard = ended.shard AND r.epoch = $1`,
    [epoch, shard, token, did.flushed, did.rebuilt, did.codes, did.coupons, memory],
  )
  if (rowCount !== 1) throw new Overtaken(`shard ${shard} was recovered by another worker`)
}

/** Notes the life of Redis that an epoch goes on in, where a version that did not know of it began it. */
export async function learnMemory(
  database: Database,
  { shard, epoch }: Pick<ShardRow, 'shard' | 'epoch'>,
  memory: string,
): Promise<void> {
  await database.query(
    `UPDATE shards SET memory = $3, memory_epoch = epoch
     WHERE shard = $1 AND epoch = $2 AND phase = 'active' AND memory_epoch <> epoch`,
    [shard, epoch, memory],
  )
}
