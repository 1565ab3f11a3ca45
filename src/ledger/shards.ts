import type { Database, Transaction } from './database.ts'

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
}

const columns = `shard, epoch, phase, recoverer, checkpoint_epoch AS "checkpointEpoch", checkpoint,
  checkpoint_hash AS "checkpointHash", facts, intake`

export async function shardRows(database: Database): Promise<ShardRow[]> {
  const { rows } = await database.query<ShardRow>(`SELECT ${columns} FROM shards ORDER BY shard`)
  return rows
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

/**
 * Moves the checkpoint from where `row` says to `to`, and nothing else: the first statement of every
 * flush, and its lock. Throws Overtaken if the row is not as it was read.
 */
export async function moveCheckpoint(
  tx: Transaction,
  row: ShardRow,
  to: { n: number; hash: string; facts: number },
): Promise<void> {
  const { rowCount } = await tx.query(
    `UPDATE shards SET checkpoint = $1, checkpoint_hash = $2, facts = $3, updated_at = now()
     WHERE shard = $4 AND epoch = $5 AND phase = $6 AND recoverer IS NOT DISTINCT FROM $7
       AND checkpoint_epoch = $8 AND checkpoint = $9`,
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
  if (rowCount !== 1) throw new Overtaken(`shard ${row.shard} was moved by another process`)
}

/** Takes the shard for a recovery under `epoch` and `token`; false if somebody else was faster. */
export async function beginRecovery(
  database: Database,
  row: ShardRow,
  epoch: number,
  token: string,
): Promise<boolean> {
  const { rowCount } = await database.query(
    `UPDATE shards SET epoch = $1, phase = 'recovering', recoverer = $2, updated_at = now()
     WHERE shard = $3 AND epoch = $4 AND recoverer IS NOT DISTINCT FROM $5`,
    [epoch, token, row.shard, row.epoch, row.recoverer],
  )
  return rowCount === 1
}

/** Ends the recovery that holds `token`: entries of `epoch` count from 1. */
export async function endRecovery(
  database: Database,
  shard: number,
  epoch: number,
  token: string,
): Promise<boolean> {
  const { rowCount } = await database.query(
    `UPDATE shards SET phase = 'active', recoverer = NULL, checkpoint_epoch = $1, checkpoint = 0,
       checkpoint_hash = '', updated_at = now()
     WHERE shard = $2 AND epoch = $1 AND phase = 'recovering' AND recoverer = $3`,
    [epoch, shard, token],
  )
  return rowCount === 1
}
