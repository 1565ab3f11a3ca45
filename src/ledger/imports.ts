import { type Database, type Transaction, transaction } from './database.ts'
import { createJob, getJob, type Job } from './jobs.ts'
import { loadOfJob, openLoad } from './loads.ts'
import { type Once, remember } from './once.ts'
import type { imports } from './schema.ts'
import { copy, copyText } from './write.ts'

/**
 * A file on its way into a book. While it arrives its rows are staged, a batch a transaction; once it
 * is here a job takes them from there (steps.ts says how). A file that breaks off leaves nothing: its
 * import is `dropped`, and the sweep removes the rows.
 */
export type Import = typeof imports.$inferSelect
export type NewImport = Pick<Import, 'book_id' | 'on_duplicate' | 'on_error'>

export type StagedRow = {
  line: number
  code: string
  max: number | null
  /** JSON text. */
  metadata: string | null
}
export type StagedFault = { line: number; code: string; reason: string }

/** The import was given up by the sweep while its file was still on its way. */
export class ImportDropped extends Error {}

/** What is imported whole or not at all is looked through before anything is written. */
const firstStep = { refuse: 'check', keep: 'write' } as const

export async function openImport(database: Database, wanted: NewImport): Promise<number> {
  const { book_id, on_duplicate, on_error } = wanted
  const { rows } = await database.query<{ import_id: number }>(
    `INSERT INTO imports (book_id, on_duplicate, on_error, step) VALUES ($1, $2, $3, $4)
     RETURNING import_id`,
    [book_id, on_duplicate, on_error, firstStep[on_error]],
  )
  return rows[0]!.import_id
}

/** Stages a batch of what a file holds, however small: it is also the sign of life that keeps the sweep away. */
export async function stageRows(
  database: Database,
  importId: number,
  rows: StagedRow[],
  faults: StagedFault[],
): Promise<void> {
  await transaction(database, async (tx) => {
    const { rowCount } = await tx.query(
      `UPDATE imports SET rows = rows + $2, bad = bad + $3, seen_at = now()
       WHERE import_id = $1 AND state = 'uploading'`,
      [importId, rows.length, faults.length],
    )
    if (rowCount === 0) throw new ImportDropped(`import ${importId} was given up`)
    await copy(
      tx,
      'import_rows (import_id, code, line, max_redemptions, metadata)',
      rows.map(
        ({ code, line, max, metadata }) =>
          `${importId}\t${copyText(code)}\t${line}\t${max ?? '\\N'}\t` +
          (metadata === null ? '\\N' : copyText(metadata)),
      ),
    )
    await copy(
      tx,
      'import_faults (import_id, line, kind, found, code, reason)',
      faults.map(
        ({ line, code, reason }) =>
          `${importId}\t${line}\tbad\tread\t${copyText(code)}\t${copyText(reason)}`,
      ),
    )
  })
}

/** The whole file is here: makes the job that imports it, and the load of its codes. */
export async function closeImport(
  database: Database,
  importId: number,
  created_by: string,
  request_id: string,
  once: Once | undefined,
): Promise<Job> {
  return transaction(database, async (tx) => {
    const { rows } = await tx.query<Import>(
      `UPDATE imports SET state = 'staged', seen_at = now()
       WHERE import_id = $1 AND state = 'uploading' RETURNING *`,
      [importId],
    )
    if (!rows[0]) throw new ImportDropped(`import ${importId} was given up`)
    const { book_id, rows: total, bad, on_duplicate, on_error } = rows[0]
    const input = { on_duplicate, on_error, rows: total + bad }
    const job = await createJob(tx, { kind: 'import', book_id, total, input, created_by })
    const source = 'import' as const
    const { job_id } = job
    const load = { book_id, job_id, source, total, max_redemptions: null, created_by, request_id }
    await openLoad(tx, load)
    await tx.query('UPDATE imports SET job_id = $2 WHERE import_id = $1', [importId, job_id])
    await remember(tx, once, { job })
    return job
  })
}

/** Nobody will come back for it. */
export async function dropImport(database: Database, importId: number): Promise<void> {
  await database.query(
    `UPDATE imports SET state = 'dropped' WHERE import_id = $1 AND state = 'uploading'`,
    [importId],
  )
}

export async function importOfJob(
  on: Database | Transaction,
  jobId: string,
): Promise<Import | undefined> {
  return (await on.query<Import>('SELECT * FROM imports WHERE job_id = $1', [jobId])).rows[0]
}

/**
 * What came of a file, for whoever asks for its job, whether that is done or failed. `bad_rows_by`: what
 * they were found by, reading the file (the row itself is wrong) or its job (the code exists, stands in a
 * line before, or begins as those of a counter book do).
 */
export async function resultOf(on: Database | Transaction, jobId: string) {
  const { input } = (await getJob(on, jobId))!
  const { written: codes_created, book_id } = (await loadOfJob(on, jobId))!
  const of = (await importOfJob(on, jobId))!
  const rows_read = (input as { rows: number }).rows
  const reading = rows_read - of.rows
  return {
    ...{ book_id, codes_created, codes_skipped: of.skipped },
    ...{ rows_read, good_rows: rows_read - of.bad, bad_rows: of.bad },
    bad_rows_by: { reading, job: of.bad - reading },
    report: `/api/v1/imports/${jobId}/report`,
  }
}

/** A file of which nothing was heard for so long lost whoever was sending or taking it. */
export const silentSeconds = 60
/** What failed or was cancelled may be done again until its rows are gone, */
const keptHours = 24
/** and its report may be read for so long. */
const reportDays = 7
const bite = 50_000

/** Removes what nobody will ask for any more: rows of files, then their reports; returns how many rows. */
export async function sweepImportsOnce(database: Database): Promise<number> {
  await database.query(
    `UPDATE imports SET state = 'dropped' WHERE state = 'uploading'
       AND seen_at < now() - interval '${silentSeconds} s'`,
  )
  // First said, then done: whoever would go on with its job sees that it cannot.
  await database.query(
    `UPDATE imports SET cleared = true WHERE NOT cleared AND import_id IN (
       SELECT import_id FROM imports LEFT JOIN jobs USING (job_id)
       WHERE imports.state = 'dropped' OR jobs.state = 'done'
         OR finished_at < now() - interval '${keptHours} h')`,
  )
  const { rows } = await database.query<{ import_id: number; whole: boolean }>(
    `SELECT import_id, whole FROM imports i LEFT JOIN jobs USING (job_id), LATERAL (SELECT
       i.state = 'dropped' OR coalesce(finished_at < now() - interval '${reportDays} days', false)
         AS whole) w
     WHERE cleared AND (whole
       OR EXISTS (SELECT FROM import_rows r WHERE r.import_id = i.import_id)) ORDER BY 1`,
  )
  let removed = 0
  for (const { import_id, whole } of rows) {
    removed += await removeAll(database, 'import_rows', 'code, line', import_id)
    if (!whole) continue
    removed += await removeAll(database, 'import_faults', 'line', import_id)
    await database.query('DELETE FROM imports WHERE import_id = $1', [import_id])
  }
  return removed
}

/** A bite a statement, so that none takes long; along the key, so that none reads what is gone. */
async function removeAll(database: Database, table: string, key: string, importId: number) {
  let removed = 0
  for (;;) {
    const { rowCount } = await database.query(
      `DELETE FROM ${table} WHERE ctid = ANY (ARRAY(
         SELECT ctid FROM ${table} WHERE import_id = $1 ORDER BY import_id, ${key} LIMIT ${bite}))`,
      [importId],
    )
    removed += rowCount ?? 0
    if ((rowCount ?? 0) < bite) return removed
  }
}
