import type { Database, Transaction } from './database.ts'

/** What somebody did to the installation itself, and why. */
export type Deed = {
  /** `user:<id>`, `key:<id>`, or `cli:<login>@<host>`. */
  actor: string
  /** As the verb is called: `pause`, `drain`, `parked.retry`. */
  action: string
  /** What it was done to: `intake`, `book:<id>`, `shard:3`. */
  target: string
  reason?: string
  detail?: Record<string, unknown>
  /** Of the HTTP request by which it was asked for. */
  request_id?: string
  /** What it was done to, as it was and as it is; null: nothing. They stand in `detail`. */
  before?: unknown
  after?: unknown
}

/** Adds to the audit log, which nobody can change afterwards: in the deed's own transaction, if it has one. */
export async function audit(on: Database | Transaction, deed: Deed): Promise<void> {
  const { request_id, before, after } = deed
  const all = Object.entries({ request_id, before, after, ...deed.detail })
  const told = all.filter(([, value]) => value !== undefined)
  const detail = told.length > 0 ? Object.fromEntries(told) : null
  await on.query(
    `INSERT INTO audit_log (actor, action, target, reason, detail) VALUES ($1, $2, $3, $4, $5)`,
    [deed.actor, deed.action, deed.target, deed.reason ?? null, detail],
  )
}

export type AuditRow = Deed & { audit_id: number; at: Date }

/** The newest deeds first; `before`: only those older than this id. */
export async function auditRows(
  database: Database,
  { limit, before }: { limit: number; before?: number },
): Promise<AuditRow[]> {
  const { rows } = await database.query<AuditRow>(
    `SELECT * FROM audit_log WHERE $2::bigint IS NULL OR audit_id < $2
     ORDER BY audit_id DESC LIMIT $1`,
    [limit, before ?? null],
  )
  return rows
}
