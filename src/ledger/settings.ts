import { readFileSync } from 'node:fs'
import type { Database } from './database.ts'

/** What PostgreSQL says of itself, and how far its schema is. */
export type PostgresSettings = {
  /** As 180004. */
  version: number
  versionText: string
  standby: boolean
  fsync: string
  fullPageWrites: string
  synchronousCommit: string
  shards: number
  /** When the newest migration that was applied was written: 0 without any. */
  migration: number
  /** Its clock, and ours at the same moment, in ms. */
  now: number
  ours: number
}

const journal = new URL('./migrations/meta/_journal.json', import.meta.url)
const { entries } = JSON.parse(readFileSync(journal, 'utf8')) as {
  entries: { tag: string; when: number }[]
}
/** The newest migration that this version brings. */
export const newest = entries.at(-1)!

/** Asks PostgreSQL for everything that the checklist wants to know of it. */
export async function postgresSettings(database: Database): Promise<PostgresSettings> {
  const sent = Date.now()
  const { rows } = await database.query<Omit<PostgresSettings, 'ours' | 'migration' | 'shards'>>(
    `SELECT current_setting('server_version_num')::int AS version,
       current_setting('server_version') AS "versionText", pg_is_in_recovery() AS standby,
       current_setting('fsync') AS fsync, current_setting('full_page_writes') AS "fullPageWrites",
       current_setting('synchronous_commit') AS "synchronousCommit",
       extract(epoch FROM clock_timestamp())::float8 * 1000 AS now`,
  )
  const ours = (sent + Date.now()) / 2
  const applied = await database
    .query<{ migration: number; shards: number }>(
      `SELECT (SELECT count(*)::int FROM shards) AS shards,
         (SELECT max(created_at) FROM drizzle.__drizzle_migrations) AS migration`,
    )
    .catch((error: { code?: string }) => {
      if (error.code === '42P01') return { rows: [] } // no such table: nothing was ever applied
      throw error
    })
  const { migration, shards } = applied.rows[0] ?? { migration: 0, shards: 0 }
  return { ...rows[0]!, migration: migration ?? 0, shards, ours }
}
