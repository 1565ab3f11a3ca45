import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { from as copyFrom } from 'pg-copy-streams'
import type { Context, Entry, Fact } from '../journal/entry.ts'
import type { Transaction } from './database.ts'
import { type Folded, foldEntries, type Minute, Misfit } from './fold.ts'

export const iso = (ms: number) => new Date(ms).toISOString()
/** COPY's text format: a backslash introduces an escape, so it has to be one itself. */
export const copyText = (text: string) =>
  text.includes('\\') ? text.replaceAll('\\', '\\\\') : text
export const nullable = (value: string | null) => value ?? '\\N'

/** One element of a PostgreSQL array literal. */
const element = (text: string | null) =>
  text === null ? 'NULL' : `"${text.replace(/["\\]/g, '\\$&')}"`
const arrayOf = (values: (string | null)[]) => `{${values.map(element).join(',')}}`
const numbersOf = (values: number[]) => `{${values.join(',')}}`

/** COPY of rows that are lines of its text format. */
export async function copy(tx: Transaction, table: string, lines: string[]): Promise<void> {
  if (lines.length === 0) return
  await pipeline(
    Readable.from([`${lines.join('\n')}\n`], { objectMode: false }),
    tx.query(copyFrom(`COPY ${table} FROM STDIN`)),
  )
}

/** Writes entries into the ledger, and what they come to; throws as `writeFold` does. */
export async function writeEntries(
  tx: Transaction,
  shard: number,
  entries: Entry[],
  counts: boolean,
): Promise<void> {
  await copyLedger(tx, shard, entries)
  await writeFold(tx, shard, foldEntries(entries), counts)
}

const ledgerColumns = `ledger (shard, epoch, n, i, op, kind, book_id, code, user_id, version, at,
  redemptions, max_redemptions, lock_token, locked_until, redemption_id, context, assigned_at)`

async function copyLedger(tx: Transaction, shard: number, entries: Entry[]): Promise<void> {
  const lines: string[] = []
  for (const entry of entries) {
    const head = `${shard}\t${entry.epoch}\t${entry.n}\t`
    const what = `\t${entry.op}\t${entry.kind}\t${entry.book}\t`
    const at = iso(entry.at)
    for (const fact of entry.facts) lines.push(head + fact.i + what + ledgerTail(fact, at))
  }
  await copy(tx, ledgerColumns, lines)
}

function ledgerTail(fact: Fact, at: string): string {
  const lockedUntil = fact.lockedUntil ? iso(fact.lockedUntil) : '\\N'
  return (
    `${copyText(fact.code)}\t${copyText(fact.user)}\t${fact.version}\t${at}\t` +
    `${fact.redemptions}\t${fact.max}\t${nullable(fact.lockToken)}\t${lockedUntil}\t` +
    `${nullable(fact.redemption)}\t${copyText(fact.context)}\t${iso(fact.assignedAt)}`
  )
}

const couponColumns = `coupons (code, book_id, user_id, version, redemptions, max_redemptions,
  lock_token, locked_until, assigned_at, updated_at)`

/**
 * Writes what a batch comes to. Throws Misfit where a row is not at the version it should be.
 * `counts`: these facts are not in the minutes yet and nobody else will count them, see minutes.ts.
 */
export async function writeFold(
  tx: Transaction,
  shard: number,
  fold: Folded,
  counts: boolean,
): Promise<void> {
  await copy(
    tx,
    couponColumns,
    fold.inserts.map(
      ({ book, fact, at }) =>
        `${copyText(fact.code)}\t${book}\t${copyText(fact.user)}\t${fact.version}\t` +
        `${fact.redemptions}\t${fact.max}\t${nullable(fact.lockToken)}\t` +
        `${fact.lockedUntil ? iso(fact.lockedUntil) : '\\N'}\t${iso(fact.assignedAt)}\t${iso(at)}`,
    ),
  )
  await updateCoupons(tx, fold)
  await deleteCoupons(tx, fold)
  await writeRedemptions(tx, fold)
  await writeCounters(tx, shard, fold, counts ? [...fold.minutes.values()] : [])
}

/**
 * All in one statement: it is the last of every flush, and each costs a way to PostgreSQL and back. Prepared
 * once per connection, because to plan it takes PostgreSQL longer than to do it.
 */
const countersSql = `WITH happened AS (
   SELECT book, to_timestamp(ms / 1000.0) AS minute, kind, within, count
   FROM unnest($5::uuid[], $6::bigint[], $7::text[], $8::int[], $9::bigint[])
     AS u(book, ms, kind, within, count)),
 totals AS (
   INSERT INTO book_counters AS b (book_id, held, redeemed, void)
   SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[])
   ON CONFLICT (book_id) DO UPDATE
   SET held = b.held + excluded.held, redeemed = b.redeemed + excluded.redeemed,
     void = b.void + excluded.void),
 of_shard AS (
   INSERT INTO shard_minutes AS s (minute, shard, kind, count)
   SELECT minute, $10::int, kind, sum(count)::bigint FROM happened GROUP BY 1, 3
   ON CONFLICT (minute, shard, kind) DO UPDATE SET count = s.count + excluded.count)
 INSERT INTO book_minutes AS m (book_id, minute, kind, within_seconds, count)
 SELECT * FROM happened
 ON CONFLICT (book_id, minute, kind, within_seconds) DO UPDATE
 SET count = m.count + excluded.count`

async function writeCounters(
  tx: Transaction,
  shard: number,
  fold: Folded,
  minutes: Minute[],
): Promise<void> {
  const books = [...fold.counters]
  await tx.query({
    name: 'write-counters',
    text: countersSql,
    values: [
      arrayOf(books.map(([book]) => book)),
      numbersOf(books.map(([, { held }]) => held)),
      numbersOf(books.map(([, { redeemed }]) => redeemed)),
      numbersOf(books.map(([, { void: gone }]) => gone)),
      arrayOf(minutes.map(({ book }) => book)),
      numbersOf(minutes.map(({ minute }) => minute)),
      arrayOf(minutes.map(({ kind }) => kind)),
      numbersOf(minutes.map(({ within }) => within)),
      numbersOf(minutes.map(({ count }) => count)),
      shard,
    ],
  })
}

async function updateCoupons(tx: Transaction, { updates }: Folded): Promise<void> {
  if (updates.length === 0) return
  const facts = updates.map(({ fact }) => fact)
  const { rowCount } = await tx.query(
    `UPDATE coupons c SET version = u.version, user_id = u.user_id, redemptions = u.redemptions,
       max_redemptions = u.max, lock_token = u.token, locked_until = to_timestamp(u.until / 1000.0),
       assigned_at = to_timestamp(u.assigned / 1000.0), updated_at = to_timestamp(u.at / 1000.0)
     FROM unnest($1::text[], $2::int[], $3::int[], $4::text[], $5::int[], $6::int[], $7::text[],
       $8::bigint[], $9::bigint[], $10::bigint[])
       AS u(code, before, version, user_id, redemptions, max, token, until, assigned, at)
     WHERE c.code = u.code AND c.version = u.before`,
    [
      arrayOf(facts.map(({ code }) => code)),
      numbersOf(updates.map(({ before }) => before)),
      numbersOf(facts.map(({ version }) => version)),
      arrayOf(facts.map(({ user }) => user)),
      numbersOf(facts.map(({ redemptions }) => redemptions)),
      numbersOf(facts.map(({ max }) => max)),
      arrayOf(facts.map(({ lockToken }) => lockToken)),
      `{${facts.map(({ lockedUntil }) => lockedUntil ?? 'NULL').join(',')}}`,
      numbersOf(facts.map(({ assignedAt }) => assignedAt)),
      numbersOf(updates.map(({ at }) => at)),
    ],
  )
  if (rowCount !== updates.length)
    throw new Misfit(`${updates.length - (rowCount ?? 0)} coupons are not at the expected version`)
}

async function deleteCoupons(tx: Transaction, { deletes }: Folded): Promise<void> {
  if (deletes.length === 0) return
  const { rowCount } = await tx.query(
    `DELETE FROM coupons c USING unnest($1::text[], $2::int[]) AS d(code, before)
     WHERE c.code = d.code AND c.version = d.before`,
    [arrayOf(deletes.map(({ code }) => code)), numbersOf(deletes.map(({ before }) => before))],
  )
  if (rowCount !== deletes.length)
    throw new Misfit(`${deletes.length - (rowCount ?? 0)} released coupons are not as expected`)
}

async function writeRedemptions(tx: Transaction, { redeemed, rolledBack }: Folded): Promise<void> {
  if (redeemed.length > 0)
    await copy(
      tx,
      'redemptions (redemption_id, code, book_id, user_id, redeemed_at, metadata)',
      redeemed.map(({ fact, book, at }) => {
        const { metadata } = JSON.parse(fact.context) as Context
        const text = metadata === undefined ? '\\N' : copyText(JSON.stringify(metadata))
        const who = `${copyText(fact.code)}\t${book}\t${copyText(fact.user)}`
        return `${fact.redemption}\t${who}\t${iso(at)}\t${text}`
      }),
    )
  if (rolledBack.length === 0) return
  const { rowCount } = await tx.query(
    `UPDATE redemptions r SET rolled_back_at = to_timestamp(u.at / 1000.0), rolled_back_by = u.actor
     FROM unnest($1::uuid[], $2::bigint[], $3::text[]) AS u(id, at, actor)
     WHERE r.redemption_id = u.id AND r.rolled_back_at IS NULL`,
    [
      arrayOf(rolledBack.map(({ fact }) => fact.redemption)),
      numbersOf(rolledBack.map(({ at }) => at)),
      arrayOf(rolledBack.map(({ fact }) => (JSON.parse(fact.context) as Context).actor)),
    ],
  )
  if (rowCount !== rolledBack.length) throw new Misfit('a redemption was rolled back before')
}

/** Misfits, and SQLSTATE classes 22 (data exception), 23 (integrity violation), 54 (beyond a limit). */
export function isDataError(error: unknown): boolean {
  return error instanceof Misfit || /^(2[23]|54)/.test((error as { code?: string }).code ?? '')
}
