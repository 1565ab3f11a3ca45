import { pipeline } from 'node:stream/promises'
import { from as copyFrom } from 'pg-copy-streams'
import { codeLength, invalidPattern, prefixOf, type Shape, space } from '../codes.ts'
import { type Problem, problem } from '../problems.ts'
import { type Database, isUniqueViolation, type Transaction } from './database.ts'

/** Where codes belong. `maxRedemptions`: null = the book's, 0 = no limit. */
export type Owner = { book_id: string; load_id: number; max_redemptions: number | null }

/**
 * Adds those of `codes` that nobody has, and returns them. Given in byte order (`sort()`), so that
 * two loads that want the same codes wait for each other and never in a circle, and because an
 * index takes sorted keys faster.
 */
export async function addCodes(tx: Transaction, owner: Owner, codes: string[]): Promise<string[]> {
  await tx.query('CREATE TEMP TABLE IF NOT EXISTS staged (code text) ON COMMIT DELETE ROWS')
  await tx.query('DELETE FROM staged')
  await copy(tx, 'COPY staged (code) FROM STDIN', codes, '')
  const { rows } = await tx.query<[string]>({
    text: `INSERT INTO codes (code, book_id, load_id, max_redemptions)
           SELECT code, $1::uuid, $2::bigint, $3::integer FROM staged
           ON CONFLICT DO NOTHING RETURNING code`,
    values: [owner.book_id, owner.load_id, owner.max_redemptions],
    rowMode: 'array',
  })
  return rows.length === codes.length ? codes : rows.map((row) => row[0])
}

/** The same for codes that are almost surely free: straight into the table, a third faster. */
export async function addFreshCodes(
  tx: Transaction,
  owner: Owner,
  codes: string[],
): Promise<string[]> {
  const rest = `\t${owner.book_id}\t${owner.load_id}\t${owner.max_redemptions ?? '\\N'}`
  await tx.query('SAVEPOINT fresh')
  try {
    await copy(tx, 'COPY codes (code, book_id, load_id, max_redemptions) FROM STDIN', codes, rest)
    return codes
  } catch (error) {
    // One of them was taken after all: the slower way knows which.
    if (!isUniqueViolation(error)) throw error
    await tx.query('ROLLBACK TO SAVEPOINT fresh')
    return addCodes(tx, owner, codes)
  }
}

async function copy(tx: Transaction, sql: string, codes: string[], rest: string): Promise<void> {
  let text = `${codes.join(`${rest}\n`)}${rest}\n`
  // COPY's escape character is a character that codes may have.
  if (codes.some((code) => code.includes('\\')))
    text = codes.map((code) => `${code.replaceAll('\\', '\\\\')}${rest}\n`).join('')
  await pipeline([Buffer.from(text, 'latin1')], tx.query(copyFrom(sql)))
}

/** Every code of the installation that was ever made: an upper bound that costs next to nothing. */
export async function countCodes(on: Database | Transaction): Promise<number> {
  const { rows } = await on.query<{ count: number }>(
    `SELECT coalesce(sum(total_code_count), 0)::bigint AS count FROM books WHERE kind = 'codes'`,
  )
  return rows[0]!.count
}

/** Codes that exist and that this shape could have made. */
async function countTaken(on: Database | Transaction, shape: Shape): Promise<number> {
  const { before, after, length, charset } = shape
  const { rows } = await on.query<{ count: number }>(
    `SELECT count(*) FROM codes
     WHERE code >= $1 AND code < $1::text || chr(127) AND length(code) = $2
       AND right(code, $3) = $4 AND translate(substr(code, $5, $6), $7, '') = ''`,
    [before, codeLength(shape), after.length, after, before.length + 1, length, charset],
  )
  return rows[0]!.count
}

/** At most this part of the free codes is handed out: drawing ends soon, and guessing misses. */
const usableShare = 0.5

/** Refuses what could not end: a shape too small for the count, or one that is reserved. */
export async function checkShape(
  on: Database | Transaction,
  shape: Shape,
  count: number,
): Promise<Problem | undefined> {
  const all = space(shape)
  if (all * usableShare - (await countCodes(on)) < count) {
    const possible = Math.floor((all - (await countTaken(on, shape))) * usableShare)
    if (possible < count)
      return problem('pattern-too-small', { possible: Math.max(0, possible), count })
  }
  const reserved = await reservedPrefixes(on, [shape.before])
  return reserved.size > 0 ? invalidPattern('pattern') : undefined
}

/** Prefixes of counter books with which some of `codes` begin. */
export async function reservedPrefixes(
  on: Database | Transaction,
  codes: string[],
): Promise<Set<string>> {
  const candidates = new Set(codes.map(prefixOf).filter((prefix) => prefix !== null))
  if (candidates.size === 0) return candidates
  const { rows } = await on.query<{ code_prefix: string }>(
    'SELECT code_prefix FROM books WHERE code_prefix = ANY($1)',
    [[...candidates]],
  )
  return new Set(rows.map((row) => row.code_prefix))
}
