import { type Problem, problem } from '../problems.ts'
import type { Book } from './books.ts'
import { type Database, isUniqueViolation, type Transaction } from './database.ts'
import type { Job } from './jobs.ts'

/** An Idempotency-Key's digest, and the hash of what was asked under it. */
export type Once = { key: string; hash: string }

/** What a creation made, as it was then: enough to give the same answer again. */
export type Made = { book?: Book; load_id?: number; job?: Job; pool_id?: string }

/** Written in the transaction of the creation; a second one under the same key fails here. */
export async function remember(tx: Transaction, once: Once | undefined, made: Made): Promise<void> {
  if (!once) return
  await tx.query('INSERT INTO creations (key, hash, made) VALUES ($1, $2, $3)', [
    once.key,
    once.hash,
    JSON.stringify(made),
  ])
}

/** The row's own times come back as they went in; what a client wrote in metadata stays as it is. */
function withTimes<Row extends object>(row: Row | undefined): Row | undefined {
  if (!row) return undefined
  const times = Object.entries(row)
    .filter(([name, value]) => /_(at|date)$/.test(name) && typeof value === 'string')
    .map(([name, value]) => [name, new Date(value)])
  return { ...row, ...Object.fromEntries(times) }
}

async function recall(database: Database, once: Once): Promise<Made | Problem | undefined> {
  const { rows } = await database.query<{ hash: string; made: Made }>(
    'SELECT hash, made FROM creations WHERE key = $1',
    [once.key],
  )
  if (!rows[0]) return undefined
  if (rows[0].hash !== once.hash) return problem('idempotency-key-reused')
  const { book, job, ...ids } = rows[0].made
  return { ...ids, book: withTimes(book), job: withTimes(job) }
}

/**
 * Creates under an Idempotency-Key at most once: a repeat gets what `again` makes of what was made
 * the first time, also when both came at once.
 */
export async function createOnce<T extends object>(
  database: Database,
  once: Once | undefined,
  create: () => Promise<T | Problem>,
  again: (made: Made) => Promise<T | Problem>,
): Promise<(T & { replayed?: true }) | Problem> {
  if (!once) return create()
  for (;;) {
    const made = await recall(database, once)
    if (made && 'problem' in made) return made
    if (made) {
      const same = await again(made)
      return 'problem' in same ? same : { ...same, replayed: true }
    }
    try {
      return await create()
    } catch (error) {
      const { cause } = error as Error
      // The other request with this key was faster: its creation is there to be recalled.
      if (
        !isUniqueViolation(error, 'creations_pkey') &&
        !isUniqueViolation(cause, 'creations_pkey')
      )
        throw error
    }
  }
}

/** Forgets creations whose keys have served their day; returns how many. */
export async function forgetCreations(database: Database): Promise<number> {
  const { rowCount } = await database.query(
    `DELETE FROM creations WHERE created_at < now() - interval '25 hours'`,
  )
  return rowCount ?? 0
}
