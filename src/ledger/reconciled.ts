import type { Database } from './database.ts'

/** What the last comparison of both stores came to, whoever asked for it. */
export type Reconciled = { differences: number; undersold: number }

/**
 * Takes the next comparison for this process, if it is due; false: it is not, or another one has it.
 * The first one is due `minutes` after somebody asked for the first time.
 */
export async function claimReconcile(database: Database, minutes: number): Promise<boolean> {
  const { rowCount } = await database.query(
    `WITH first AS (
       INSERT INTO settings (name, value)
       VALUES ('reconcile', jsonb_build_object('claimed', now())) ON CONFLICT DO NOTHING)
     UPDATE settings SET value = value || jsonb_build_object('claimed', now())
     WHERE name = 'reconcile'
       AND (value->>'claimed')::timestamptz <= now() - make_interval(mins => $1)`,
    [minutes],
  )
  return rowCount === 1
}

export async function noteReconcile(database: Database, found: Reconciled): Promise<void> {
  await database.query(
    `INSERT INTO settings (name, value)
     VALUES ('reconcile', jsonb_build_object('claimed', now(), 'at', now()) || $1::jsonb)
     ON CONFLICT (name) DO UPDATE
       SET value = settings.value || jsonb_build_object('at', now()) || $1::jsonb`,
    [JSON.stringify(found)],
  )
}

/** The last one, and how many seconds ago it ended; undefined: there was none. */
export async function lastReconciled(
  database: Database,
): Promise<(Reconciled & { seconds: number }) | undefined> {
  const { rows } = await database.query<Reconciled & { seconds: number }>(
    `SELECT (value->>'differences')::int AS differences, (value->>'undersold')::int AS undersold,
       extract(epoch FROM now() - (value->>'at')::timestamptz)::float8 AS seconds
     FROM settings WHERE name = 'reconcile' AND value ? 'at'`,
  )
  return rows[0]
}
