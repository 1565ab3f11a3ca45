import { failpoint } from '../failpoint.ts'
import type { Entry, Fact } from '../journal/entry.ts'
import { audit } from '../ledger/audit.ts'
import { type Transaction, transaction } from '../ledger/database.ts'
import { applyAgain } from '../ledger/park.ts'
import type { By } from './control.ts'
import type { Ops } from './ops.ts'

/** A fact that did not fit, and stands aside until somebody decides. `name`: shard/epoch-n/i. */
export type ParkedFact = {
  name: string
  reason: string
  parked_at: Date
  kind: string
  book_id: string
  code: string
  user_id: string
}

type Row = { shard: number; epoch: number; n: number; i: number; reason: string; parked_at: Date }
type Stored = Omit<Entry, 'facts'> & { fact: Fact }

const nameOf = ({ shard, epoch, n, i }: Row) => `${shard}/${epoch}-${n}/${i}`
const shape = /^(\d{1,2})\/(\d{1,15})-(\d{1,15})\/(\d{1,6})$/

/** A lock's token is its holder's alone. */
const withoutToken = ({ fact: { lockToken: _, ...fact }, ...entry }: Stored) => ({ ...entry, fact })

/** The place that a name stands for; undefined: it is no name of a fact. */
export function readName(name: string): number[] | undefined {
  return shape.exec(name)?.slice(1).map(Number)
}

/** The oldest parked facts, at most `limit`. */
export async function parkedFacts({ database }: Ops, limit: number): Promise<ParkedFact[]> {
  const { rows } = await database.query<Row & { fact: Stored }>(
    `SELECT * FROM parked_facts ORDER BY parked_at, shard, epoch, n, i LIMIT $1`,
    [limit],
  )
  return rows.map((row) => ({
    ...{ name: nameOf(row), reason: row.reason, parked_at: row.parked_at },
    ...{ kind: row.fact.kind, book_id: row.fact.book },
    ...{ code: row.fact.fact.code, user_id: row.fact.fact.user },
  }))
}

/** All that is known of one parked fact; undefined: none of that name is parked. */
export async function parkedFact({ database }: Ops, name: string) {
  const { rows } = await database.query<Row & { fact: Stored }>(
    `SELECT * FROM parked_facts WHERE shard = $1 AND epoch = $2 AND n = $3 AND i = $4`,
    readName(name) ?? [-1, 0, 0, 0],
  )
  if (!rows[0]) return undefined
  const { reason, parked_at, fact } = rows[0]
  return { name, reason, parked_at, ...withoutToken(fact) }
}

/** `rebuilds`: its shard is made anew in Redis once more, which was made anew without the fact. */
export type Retried = { name: string; applied: boolean; reason: string | null; rebuilds: boolean }

/** `more`: the last one is followed by others, which were not tried. */
export type Page = { retried: Retried[]; more: boolean }

/** Tries a page of parked facts once more, in the order of the journals: those after the one named `after`. */
export async function retryPage(
  ops: Ops,
  { after, limit }: { after?: string; limit: number },
  by: By,
): Promise<Page> {
  const { rows } = await ops.database.query<Row>(
    `SELECT shard, epoch, n, i FROM parked_facts WHERE (shard, epoch, n, i) > ($1, $2, $3, $4)
     ORDER BY shard, epoch, n, i LIMIT $5`,
    [...((after && readName(after)) || [-1, 0, 0, 0]), limit + 1],
  )
  const names = rows.slice(0, limit).map(nameOf)
  return { retried: await retryParked(ops, names, by), more: rows.length > limit }
}

/** All of them, and again as long as that helped: one may fit once another one does. */
export async function retryAllParked(ops: Ops, by: By, limit = 1_000): Promise<Retried[]> {
  const fit: Retried[] = []
  for (;;) {
    const left: Retried[] = []
    const before = fit.length
    for (let page: Page | undefined, after: string | undefined; page?.more !== false; ) {
      page = await retryPage(ops, { ...(after ? { after } : {}), limit }, by)
      for (const one of page.retried) (one.applied ? fit : left).push(one)
      after = page.retried.at(-1)?.name
    }
    if (left.length === 0 || fit.length === before) return [...fit, ...left]
  }
}

/** A recovery rebuilds where its cause begins so: see src/recovery/recover.ts. */
const cause = 'damaged: Redis was made anew without a fact that was parked, and fits now'

/**
 * Tries these parked facts once more: what fits now is parked no longer. Where Redis was made anew from a
 * ledger that lacked the fact, Redis knows nothing of it, and would give its code to somebody else: so its
 * shard is made anew once more.
 */
export async function retryParked(ops: Ops, names: readonly string[], by: By): Promise<Retried[]> {
  const retried: Retried[] = []
  for (const name of names) {
    const place = readName(name)
    if (!place) throw new Error(`${name} is no name of a fact: they look like 3/1-345/0`)
    retried.push(
      await transaction(ops.database, async (tx) => {
        // First, as every flush does: the other way round the two could wait for each other.
        await tx.query('SELECT FROM shards WHERE shard = $1 FOR UPDATE', [place[0]])
        const { rows } = await tx.query<Row & { fact: Stored }>(
          `SELECT * FROM parked_facts WHERE shard = $1 AND epoch = $2 AND n = $3 AND i = $4
           FOR UPDATE`,
          place,
        )
        const none = 'no fact of that name is parked'
        if (!rows[0]) return { name, applied: false, reason: none, rebuilds: false }
        const { fact, ...entry } = rows[0].fact
        const reason = await applyAgain(tx, place[0]!, { ...entry, facts: [fact] }, fact)
        failpoint('parked.after-apply')
        if (!reason)
          await tx.query(
            `DELETE FROM parked_facts WHERE shard = $1 AND epoch = $2 AND n = $3 AND i = $4`,
            place,
          )
        const rebuilds = !reason && (await suspectRebuilt(tx, place))
        const detail = { reason: reason ?? null, rebuilds }
        await audit(tx, { ...by, action: 'parked.retry', target: `fact:${name}`, detail })
        return { name, applied: !reason, ...detail }
      }),
    )
  }
  return retried
}

/** Has a fact's shard made anew if a recovery has done, or may have done so since the fact's epoch. */
async function suspectRebuilt(tx: Transaction, [shard, epoch]: number[]): Promise<boolean> {
  const { rowCount } = await tx.query(
    `UPDATE shards s SET suspect = $3 WHERE shard = $1 AND EXISTS (
       SELECT FROM recoveries r WHERE r.shard = s.shard AND r.epoch > $2
         AND (r.rebuilt OR r.ended_at IS NULL))`,
    [shard, epoch, cause],
  )
  return rowCount === 1
}

/** Gives a parked fact up; false: none of that name is parked. What it was stays in the audit log. */
export async function discardParked({ database }: Ops, name: string, by: By): Promise<boolean> {
  return transaction(database, async (tx) => {
    const { rows } = await tx.query<Row & { fact: Stored }>(
      `DELETE FROM parked_facts WHERE shard = $1 AND epoch = $2 AND n = $3 AND i = $4 RETURNING *`,
      readName(name) ?? [-1, 0, 0, 0],
    )
    if (!rows[0]) return false
    const detail = { fact: withoutToken(rows[0].fact), parked_because: rows[0].reason }
    await audit(tx, { ...by, action: 'parked.discard', target: `fact:${name}`, detail })
    return true
  })
}
