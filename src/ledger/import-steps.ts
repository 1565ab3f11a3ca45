import { type Database, isUniqueViolation, type Transaction, transaction } from './database.ts'
import { untangled } from './generate.ts'
import { type Import, importOfJob, resultOf } from './imports.ts'
import { failJob, progressJob } from './jobs.ts'
import { type CodeGroup, countIn, cutLoad, type Load, loadOfJob, markPushed } from './loads.ts'

/**
 * How a job takes a staged file into its book, a page of (code, line) a transaction:
 *
 *   check -> write -> push          what is refused as a whole is looked through first
 *              \-> undo -> failed   somebody brought one of the codes in after the check
 *
 * Codes, counts, faults and the place where it goes on commit together, so wherever it is killed, and
 * by however many it is done at once, each row is taken once. Pages go by code: twins are neighbours,
 * an index takes sorted keys faster, and two imports of the same codes wait for each other and never
 * in a circle.
 */
export type Step = 'on' | 'push' | 'over'

/** More rows a transaction are hardly faster, and hold back whoever needs the book's row. */
const pageRows = 25_000

const stepsOf: Record<Import['on_error'], Import['step'][]> = {
  refuse: ['check', 'write', 'push'],
  keep: ['write', 'push'],
}

/**
 * How far the job is, in rows of its file: all are gone through in each step, `rows` of them in this one.
 * What is taken back is no progress: it stays where it was.
 */
export function doneOf({ on_error, step, rows: all }: Import, rows: number): number {
  const steps = stepsOf[on_error]
  const before = steps.indexOf(step)
  return before === -1 ? 0 : Math.floor((before * all + rows) / steps.length)
}

type Work = { tx: Transaction; jobId: string; load: Load; of: Import }
type Page = {
  rows: number
  code: string
  line: number
  added: number
  bad: number
  skipped: number
}

/** Does the next page of a job, and says what there is to do then. */
export function stepImport(database: Database, jobId: string, size = pageRows): Promise<Step> {
  return untangled(() =>
    transaction(database, async (tx) => {
      // The load first, as whoever cancels the job does. It keeps other workers out of this page, too.
      await tx.query('SELECT FROM loads WHERE job_id = $1 FOR UPDATE', [jobId])
      const load = (await loadOfJob(tx, jobId))!
      const of = await importOfJob(tx, jobId)
      if (!of || !(await progressJob(tx, jobId, doneOf(of, of.done)))) return 'over'
      const work = { tx, jobId, load, of }
      if (of.cleared) return fail(work, 'its file is gone: send it again')
      if (of.step === 'undo') return undo(work, size)
      if (of.cut && of.on_error === 'refuse' && load.written > 0)
        return fail(
          work,
          `${load.written} codes went into stock when it was cancelled: send the rest`,
        )
      if (of.cut) await tx.query('UPDATE imports SET cut = false WHERE job_id = $1', [jobId])
      if (of.step === 'check') return check(work, size)
      if (of.step === 'write') return write(work, size)
      if (load.state === 'writing') await cutLoad(tx, load.load_id)
      return 'push'
    }),
  )
}

/** The next page after where the import stands, each row with the line of its twin before, if any. */
const pageSql = `page AS MATERIALIZED (
    SELECT r.*, coalesce(lag(line) OVER (PARTITION BY code ORDER BY line),
      CASE WHEN code = $2 THEN $3::integer END) AS twin
    FROM (SELECT * FROM import_rows WHERE import_id = $1 AND (code, line) > ($2, $3::integer)
          ORDER BY code, line LIMIT $4) r)`
const endSql = `(SELECT count(*) FROM page)::integer AS rows,
    (SELECT code FROM page ORDER BY code DESC, line DESC LIMIT 1) AS code,
    (SELECT max(line) FROM page WHERE code = (SELECT max(code) FROM page)) AS line`
/** Why a row of the page cannot be imported, whatever else there is. */
const reasonSql = `CASE WHEN twin IS NOT NULL THEN 'the code stands in line ' || twin || ' before'
    WHEN substr(code, 7, 1) = '-' AND EXISTS (SELECT FROM books WHERE code_prefix = left(code, 7))
      THEN 'the code begins with the reserved prefix of a counter book' END`
const existsReason = 'the code exists already'

const pageOf = ({ of }: Work, size: number) => [of.import_id, of.after_code, of.after_line, size]

/** Notes every fault that there is, so that a refusal names all of them. */
async function check(work: Work, size: number): Promise<Step> {
  const { tx, of } = work
  if (of.after_code === '') {
    const old = await forget(work, size)
    if (old) return moveOn(work, old)
  }
  // One code after the other is looked up in the index, whatever the planner thinks of the page's size.
  const { rows } = await tx.query<Page>(
    `WITH ${pageSql}, judged AS (
       SELECT line, code, coalesce(${reasonSql},
         CASE WHEN $5 AND taken THEN '${existsReason}' END) AS reason
       FROM page LEFT JOIN LATERAL (SELECT true AS taken FROM codes WHERE codes.code = page.code LIMIT 1) c
         ON true),
     noted AS (INSERT INTO import_faults (import_id, line, kind, found, code, reason)
       SELECT $1, line, 'bad', 'job', code, reason FROM judged WHERE reason IS NOT NULL
       RETURNING line)
     SELECT ${endSql}, (SELECT count(*) FROM noted)::integer AS bad`,
    [...pageOf(work, size), of.on_duplicate === 'fail'],
  )
  const page = rows[0]!
  if (page.rows === size) return moveOn(work, { after: page, bad: page.bad, done: size })
  const bad = of.bad + page.bad
  if (bad === 0) return moveOn(work, { step: 'write', done: -of.done })
  await moveOn(work, { bad: page.bad, done: -of.done })
  return fail(
    work,
    `${bad} rows are bad, so nothing was imported: /api/v1/imports/${work.jobId}/report`,
  )
}

/**
 * A job that is done again finds its faults anew. Those of the last time go first, a bite a transaction,
 * for there may be millions; how far that is stands in `after_line`, with no code yet. Returns how to
 * move on where there may be more of them.
 */
async function forget({ tx, jobId, of }: Work, size: number): Promise<Move | undefined> {
  const { rows } = await tx.query<Pick<Page, 'rows' | 'line' | 'bad' | 'skipped'>>(
    `WITH gone AS (DELETE FROM import_faults WHERE ctid = ANY (ARRAY(
       SELECT ctid FROM import_faults WHERE import_id = $1 AND line > $2 AND found = 'job'
       ORDER BY import_id, line LIMIT $3)) RETURNING line, kind)
     SELECT count(*)::integer AS rows, max(line) AS line,
       (count(*) FILTER (WHERE kind = 'bad'))::integer AS bad,
       (count(*) FILTER (WHERE kind = 'skipped'))::integer AS skipped FROM gone`,
    [of.import_id, of.after_line, size],
  )
  const gone = rows[0]!
  await tx.query('UPDATE jobs SET done = 0, result = NULL WHERE job_id = $1', [jobId])
  const less = { bad: -gone.bad, skipped: -gone.skipped }
  if (gone.rows === size) return { after: { code: '', line: gone.line }, ...less }
  await tx.query('UPDATE imports SET bad = bad + $2, skipped = skipped + $3 WHERE import_id = $1', [
    of.import_id,
    less.bad,
    less.skipped,
  ])
  of.bad += less.bad
  return undefined
}

/** `conflict`: what if a code exists. Without it a page is written a third faster, or not at all. */
const writeSql = (conflict: '' | 'ON CONFLICT DO NOTHING') =>
  `WITH ${pageSql}, judged AS (SELECT page.*, ${reasonSql} AS reason FROM page),
   added AS (INSERT INTO codes (code, book_id, load_id, max_redemptions, metadata)
     SELECT code, $5::uuid, $6::bigint, max_redemptions, metadata FROM judged
     WHERE reason IS NULL ORDER BY code ${conflict} RETURNING code),
   noted AS (INSERT INTO import_faults (import_id, line, kind, found, code, reason)
     SELECT $1, line, CASE WHEN reason IS NULL THEN $7 ELSE 'bad' END, 'job', code,
       coalesce(reason, '${existsReason}')
     FROM judged WHERE reason IS NOT NULL
       ${conflict && 'OR code NOT IN (SELECT code FROM added)'}
     RETURNING kind)
   SELECT ${endSql}, (SELECT count(*) FROM added)::integer AS added,
     (SELECT count(*) FROM noted WHERE kind = 'bad')::integer AS bad,
     (SELECT count(*) FROM noted WHERE kind = 'skipped')::integer AS skipped`

/** Adds the codes of a page that can be added, and notes the others. */
async function write(work: Work, size: number): Promise<Step> {
  const { tx, of, load } = work
  const kind = of.on_duplicate === 'skip' ? 'skipped' : 'bad'
  const values = [...pageOf(work, size), load.book_id, load.load_id, kind]
  const [page] = await writePage(tx, values, load.written === of.done)
  if (page!.added > 0) await countIn(tx, load, page!.added)
  const { bad, skipped, rows: done } = page!
  if (bad > 0 && of.on_error === 'refuse') return moveOn(work, { step: 'undo', bad, skipped })
  if (done === size) return moveOn(work, { after: page!, bad, skipped, done })
  return moveOn(work, { step: 'push', bad, skipped, done: -of.done })
}

/** `isFresh`: all rows before it could be added, so these can, almost surely. */
async function writePage(tx: Transaction, values: unknown[], isFresh: boolean): Promise<Page[]> {
  if (isFresh) {
    await tx.query('SAVEPOINT fresh')
    try {
      return (await tx.query<Page>(writeSql(''), values)).rows
    } catch (error) {
      // One of them was taken after all: the slower way knows which.
      if (!isUniqueViolation(error, 'codes_pkey')) throw error
      await tx.query('ROLLBACK TO SAVEPOINT fresh')
    }
  }
  return (await tx.query<Page>(writeSql('ON CONFLICT DO NOTHING'), values)).rows
}

/** Takes a page of what was written back out. Nothing of it has come to Redis. */
async function undo(work: Work, size: number): Promise<Step> {
  const { tx, load, of } = work
  const { rows } = await tx.query<Page>(
    `WITH ${pageSql}, gone AS (DELETE FROM codes USING page
       WHERE codes.code = page.code AND load_id = $5 RETURNING 1)
     SELECT ${endSql}, (SELECT count(*) FROM gone)::integer AS added`,
    [...pageOf(work, size), load.load_id],
  )
  const page = rows[0]!
  // What is taken out was counted in, so a load that is all written goes on as one that is not.
  await tx.query(`UPDATE loads SET written = written - $2, state = 'writing' WHERE load_id = $1`, [
    load.load_id,
    page.added,
  ])
  await tx.query('UPDATE books SET total_code_count = total_code_count - $2 WHERE book_id = $1', [
    ...[load.book_id, page.added],
  ])
  if (page.rows === size) return moveOn(work, { after: page })
  await moveOn(work, { step: 'check', done: -of.done })
  await fail(work, `${of.bad} codes came into being meanwhile, so nothing was imported`)
  // Somebody cancelled it while it was taken back.
  if (of.cut) await tx.query(`UPDATE jobs SET state = 'cancelled' WHERE job_id = $1`, [work.jobId])
  return 'over'
}

type Move = {
  /** Left out: from the beginning. */
  after?: { code: string; line: number }
  step?: Import['step']
  bad?: number
  skipped?: number
  done?: number
}

async function moveOn({ tx, of }: Work, move: Move): Promise<Step> {
  const { after = { code: '', line: 0 }, step = of.step, bad = 0, skipped = 0, done = 0 } = move
  await tx.query(
    `UPDATE imports SET after_code = $2, after_line = $3, step = $4, bad = bad + $5,
       skipped = skipped + $6, done = done + $7 WHERE import_id = $1`,
    [of.import_id, after.code, after.line, step, bad, skipped, done],
  )
  return 'on'
}

/** What was written before stays, and the sweep brings it into stock. */
async function fail({ tx, jobId, load }: Work, error: string): Promise<Step> {
  const { written } = await cutLoad(tx, load.load_id)
  if (written === 0) await markPushed(tx, load.load_id)
  await tx.query('UPDATE jobs SET result = $2 WHERE job_id = $1', [
    jobId,
    await resultOf(tx, jobId),
  ])
  await failJob(tx, jobId, error)
  return 'over'
}

/** The next codes after `after` that this load wrote; `after` of the last page is null. */
export async function pushPage(
  database: Database,
  load: Load,
  of: Import,
  after: { code: string; line: number },
  size = pageRows,
): Promise<{
  groups: CodeGroup[]
  rows: number
  after: { code: string; line: number } | null
}> {
  // Where some were not added, `codes` says which, and which of twins; one after the other, whatever the
  // planner thinks.
  const own =
    load.written === of.rows
      ? 'page'
      : `page LEFT JOIN LATERAL (SELECT max_redemptions AS max, load_id = $5 AS mine FROM codes
           WHERE codes.code = page.code LIMIT 1) own ON true`
  // Codes have no spaces, and one string is read far faster than an array.
  const { rows } = await database.query<{ max: number | null; codes: string | null } & Page>(
    `WITH page AS MATERIALIZED (SELECT code, line${own === 'page' ? ', max_redemptions AS max, $5::bigint > 0 AS mine' : ''}
       FROM import_rows
       WHERE import_id = $1 AND (code, line) > ($2, $3::integer) ORDER BY code, line LIMIT $4)
     SELECT max, ${endSql}, string_agg(page.code, ' ') FILTER (WHERE mine) AS codes
     FROM ${own} GROUP BY 1`,
    [of.import_id, after.code, after.line, size, load.load_id],
  )
  const groups = rows.flatMap(({ max, codes }) => (codes ? [{ max, codes: codes.split(' ') }] : []))
  const last = rows[0]
  const isLast = !last || last.rows < size
  const next = isLast ? null : { code: last.code, line: last.line }
  return { groups, rows: last?.rows ?? 0, after: next }
}
