import { randomUUID } from 'node:crypto'
import { hostname } from 'node:os'
import type { Database } from './database.ts'

/** How often a process says that it is alive, and after how long in silence it counts as dead. */
const beatMs = 2_000
const aliveSeconds = 10
const forgottenHours = 1

export type ProcessKind = 'api' | 'worker'
export type ProcessRow = {
  process_id: string
  kind: ProcessKind
  host: string
  pid: number
  version: string
  started_at: Date
  seen_at: Date
  alive: boolean
}

/**
 * Says every two seconds in PostgreSQL that this process is alive, until the returned function is
 * called. With PostgreSQL away nothing is said, and nothing fails.
 */
export function beat(database: Database, kind: ProcessKind, version: string): () => Promise<void> {
  const id = randomUUID()
  const once = () =>
    database
      .query(
        `INSERT INTO processes (process_id, kind, host, pid, version) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (process_id) DO UPDATE SET seen_at = now()`,
        [id, kind, hostname(), process.pid, version],
      )
      .catch(() => {})
  void once()
  const timer = setInterval(once, beatMs)
  timer.unref()
  return async () => {
    clearInterval(timer)
    await database.query('DELETE FROM processes WHERE process_id = $1', [id]).catch(() => {})
  }
}

/** The processes that were seen lately; those that died without a word are there for an hour. */
export async function processRows(database: Database): Promise<ProcessRow[]> {
  const { rows } = await database.query<ProcessRow>(
    `SELECT *, seen_at > now() - interval '${aliveSeconds} s' AS alive FROM processes
     WHERE seen_at > now() - interval '${forgottenHours} h' ORDER BY kind, started_at`,
  )
  return rows
}

/** Forgets processes that have been silent for long. */
export async function forgetProcesses(database: Database): Promise<void> {
  await database.query(
    `DELETE FROM processes WHERE seen_at < now() - interval '${forgottenHours} h'`,
  )
}
