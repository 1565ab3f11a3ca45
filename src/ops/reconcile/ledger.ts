import type { EntryId } from '../../journal/entry.ts'
import { aside, counts } from '../../ledger/aside.ts'
import type { Book } from '../../ledger/books.ts'
import { type Database, transaction } from '../../ledger/database.ts'
import type { ShardRow } from '../../ledger/shards.ts'
import { paceMs } from './pace.ts'
import { napping } from './postgres.ts'
import type { Difference } from './report.ts'
import type { Run } from './settle.ts'
import type { StoredFact } from './story.ts'
import type { Lacking } from './suspects.ts'

/** Facts of the ledger that are looked at in one statement, and places: a sale must not wait for a long one. */
const factsPerPage = (exact: boolean) => (exact ? 10_000 : 1_000)
const placesPerPage = (exact: boolean) => (exact ? 50_000 : 3_000)
const samplePercent = 4

type Place = Pick<StoredFact, 'epoch' | 'n' | 'i'>
/** Places where facts are missing: all after one fact and before the next. */
export type Gap = { shard: number; after: Place | null; before: Place | null }

/** What the ledger holds of a shard up to its checkpoint. `facts`: with those that stand aside. */
export type Sequence = { stored: number; facts: number; gaps: Gap[] }

type PlacesPage = { stored: number; facts: number; last: Place | null; gaps: Place[][] }

/** Reads the places of all facts of a shard up to its checkpoint, in order, and finds what is missing. */
export async function readSequence(run: Run, row: ShardRow): Promise<Sequence> {
  const { shard, checkpointEpoch, checkpoint } = row
  const all: Sequence = { stored: 0, facts: 0, gaps: [] }
  let last: Place = { epoch: -1, n: 0, i: 0 }
  const perPage = placesPerPage(run.exact)
  for (;;) {
    const { rows } = await run.database.query<PlacesPage>(sequenceSql, [
      ...[shard, last.epoch, last.n, last.i],
      ...[checkpointEpoch, checkpoint, perPage],
    ])
    const page = rows[0]!
    all.stored += page.stored
    all.facts += page.facts
    for (const [after, before] of page.gaps)
      all.gaps.push({ shard, after: after!.epoch < 0 ? null : after!, before: before! })
    if (page.last) last = page.last
    if (page.facts < perPage) break
    await run.breathe(page.facts * paceMs.place)
  }
  const isWhole = checkpoint === 0 || (last.epoch === checkpointEpoch && last.n === checkpoint)
  if (!isWhole) all.gaps.push({ shard, after: last.epoch < 0 ? null : last, before: null })
  return all
}

const place = (of: string) => `json_build_object('epoch', ${of}epoch, 'n', ${of}n, 'i', ${of}i)`

const sequenceSql = `WITH page AS (
    SELECT * FROM (
      (SELECT epoch, n, i, 1 AS stored FROM ledger
       WHERE shard = $1 AND (epoch, n, i) > ($2::bigint, $3::bigint, $4::int)
         AND (epoch, n) <= ($5::bigint, $6::bigint)
       ORDER BY epoch, n, i LIMIT $7::int)
      UNION ALL
      (SELECT epoch, n, i, 0 FROM ${aside} AS a
       WHERE shard = $1 AND (epoch, n, i) > ($2::bigint, $3::bigint, $4::int)
         AND (epoch, n) <= ($5::bigint, $6::bigint) AND NOT EXISTS
           (SELECT FROM ledger l WHERE l.shard = a.shard AND l.epoch = a.epoch AND l.n = a.n AND l.i = a.i)
       ORDER BY epoch, n, i LIMIT $7::int)) AS places
    ORDER BY epoch, n, i LIMIT $7::int),
  walk AS (
    SELECT *, lag(epoch, 1, $2::bigint) OVER w AS its_epoch, lag(n, 1, $3::bigint) OVER w AS its_n,
      lag(i, 1, $4::int) OVER w AS its_i, lead(i) OVER w IS NULL AS is_last
    FROM page WINDOW w AS (ORDER BY epoch, n, i)),
  odd AS (
    SELECT * FROM (SELECT *, NOT (CASE WHEN epoch <> its_epoch THEN n = 1 AND i = 0
        ELSE (n = its_n AND i = its_i + 1) OR (n = its_n + 1 AND i = 0) END) AS is_gap FROM walk) AS looked
    WHERE is_gap OR is_last)
  SELECT (SELECT count(*)::int FROM page) AS facts,
    (SELECT coalesce(sum(stored), 0)::int FROM page) AS stored,
    (SELECT ${place('')} FROM odd WHERE is_last) AS last,
    (SELECT coalesce(json_agg(json_build_array(${place('its_')}, ${place('')})), '[]')
     FROM (SELECT * FROM odd WHERE is_gap LIMIT $7::int / 50) AS gaps) AS gaps`

/** A fact beyond the checkpoint: no flush has put it there. */
export async function beyondCheckpoint(run: Run, shard: number): Promise<Difference[]> {
  const { rows } = await run.database.query<Place & { code: string; book: string; end: EntryId }>(
    // Two scalars instead of one row: only those can be looked up in the index.
    `SELECT epoch, n, i, code, book_id AS book,
       (SELECT json_build_object('epoch', checkpoint_epoch, 'n', checkpoint)
        FROM shards WHERE shard = $1) AS end
     FROM ledger WHERE shard = $1 AND (epoch, n) > (
       (SELECT checkpoint_epoch FROM shards WHERE shard = $1),
       (SELECT checkpoint FROM shards WHERE shard = $1))
     ORDER BY epoch, n, i LIMIT 1000`,
    [shard],
  )
  return rows.map(({ epoch, n, i, code, book, end }) => ({
    ...{ class: 'SEQUENCE_GAP', shard, book_id: book, code },
    what: 'a fact beyond the checkpoint: no flush has put it there',
    redis: null,
    postgres: { fact: `${shard}/${epoch}-${n}/${i}`, checkpoint: `${end.epoch}-${end.n}` },
  }))
}

/**
 * Compares the last fact of every code with its row in coupons, and each fact with the one before it:
 * codes where they do not fit become suspects. By ranges of codes, which no two books share.
 */
export async function compareLedger(run: Run, book: Book | undefined): Promise<void> {
  const shards = new Map(run.books.map(({ book_id, shard }) => [book_id, shard]))
  const range = book ? await rangeOf(run.database, book) : { first: '', last: null }
  if (!range) return
  const { rows: aparts } = await run.database.query(`SELECT FROM ${aside} AS a LIMIT 1`)
  let after = range.first
  for (const upto of [...(await endsOfPages(run, range)), range.last]) {
    const values = [after, upto, book?.book_id ?? null]
    const rows = await misfits(run.database, values, aparts.length > 0)
    for (const { code, book: home } of rows) {
      const shard = shards.get(home)
      if (shard !== undefined && run.serving.has(shard))
        run.suspects.add({ shard, book: home, code, digested: true })
    }
    await run.suspects.relieve(run)
    await run.breathe(factsPerPage(run.exact) * paceMs.fact)
    if (upto !== null) after = upto
  }
}

/**
 * Codes with which pages of facts end, in order; the last page has no such end. From a sample of the ledger,
 * because it does not matter how long they are exactly, and to count them takes as long as half of the rest.
 */
async function endsOfPages({ database, exact }: Run, { first, last }: Range) {
  const perPage = (factsPerPage(exact) * samplePercent) / 100
  const { rows } = await database.query<{ code: string }>(
    `SELECT code FROM (SELECT code, row_number() OVER (ORDER BY code) AS place
       FROM ledger TABLESAMPLE SYSTEM (${samplePercent})
       WHERE code > $1 AND ($2::text IS NULL OR code < $2)
         AND ${exact ? 'true' : napping(5_000)}) AS sample
     WHERE place % ${perPage} = 0 ORDER BY code`,
    [first, last],
  )
  return rows.map(({ code }) => code)
}

/** Exclusive, inclusive; null: to the end. */
type Range = { first: string; last: string | null }

/** Where the codes of a book lie among all codes: exclusive, inclusive. */
async function rangeOf(database: Database, { book_id, code_prefix }: Book) {
  const { rows } = await database.query<{ first: string | null; last: string | null }>(
    `SELECT least(a.first, b.first, $2) AS first, greatest(a.last, b.last, $2 || chr(127)) AS last
     FROM (SELECT min(code) AS first, max(code) AS last FROM codes WHERE book_id = $1) AS a,
       (SELECT min(code) AS first, max(code) AS last FROM coupons WHERE book_id = $1) AS b`,
    [book_id, code_prefix],
  )
  const { first, last } = rows[0]!
  // Whatever begins as the first code does, but is shorter, comes before it.
  return first === null ? undefined : { first: first.slice(0, -1), last }
}

type Misfit = { code: string; book: string }

/**
 * Codes lie in the ledger in the order of the sale, so that a page of them is all over it. It is read by the
 * index all the same, and so are the coupons: both come in order then, which costs less than to read them as
 * they lie and to sort them. PostgreSQL, which thinks of a disk, would do the latter.
 */
async function misfits(
  database: Database,
  values: unknown[],
  areAside: boolean,
): Promise<Misfit[]> {
  return transaction(database, async (tx) => {
    await tx.query('SET LOCAL enable_bitmapscan = off')
    // Facts that stand aside come in no order.
    if (!areAside) await tx.query('SET LOCAL enable_hashjoin = off')
    return (await tx.query<Misfit>(misfitsSql(areAside), values)).rows
  })
}

/**
 * All facts of the codes in a range, and its coupons: some may have no fact. `$2` null: to the end.
 * `areAside`: some facts do not count, and to look for each of them takes as long as all the rest.
 */
const misfitsSql = (areAside: boolean) => `WITH page AS (
    SELECT code, book_id, kind, user_id, version, redemptions, max_redemptions, lock_token,
      locked_until, at, assigned_at, epoch, n, i
    FROM ledger f
    WHERE code > $1 AND ($2::text IS NULL OR code <= $2)
      AND ($3::uuid IS NULL OR book_id = $3) ${areAside ? `AND ${counts('f')}` : ''}),
  facts AS (
    SELECT *, lead(i) OVER w IS NULL AS newest,
      CASE WHEN kind = 'assign' OR (kind = 'void' AND version = 1)
          THEN version = 1 AND coalesce(lag(kind) OVER w, 'release') = 'release'
        ELSE version = lag(version) OVER w + 1 AND lag(kind) OVER w NOT IN ('release', 'void')
          AND assigned_at IS NOT DISTINCT FROM lag(assigned_at) OVER w END AS follows
    FROM page WINDOW w AS (PARTITION BY code ORDER BY epoch, n, i)),
  rows AS (SELECT * FROM coupons
    WHERE code > $1 AND ($2::text IS NULL OR code <= $2)
      AND ($3::uuid IS NULL OR book_id = $3))
  SELECT DISTINCT coalesce(f.code, k.code) AS code, coalesce(f.book_id, k.book_id) AS book
    FROM (SELECT * FROM facts WHERE newest OR follows IS NOT TRUE) AS f
    FULL JOIN rows AS k ON k.code = f.code
    WHERE f.follows IS NOT TRUE OR CASE WHEN k.code IS NULL THEN f.kind <> 'release'
      ELSE f.kind = 'release' OR f.version <> k.version
        OR CASE f.kind WHEN 'void' THEN '' ELSE f.user_id END <> k.user_id
        OR f.redemptions <> k.redemptions OR f.max_redemptions <> k.max_redemptions
        OR f.at <> k.updated_at OR f.book_id <> k.book_id
        OR f.assigned_at IS DISTINCT FROM k.assigned_at
        OR f.lock_token IS DISTINCT FROM k.lock_token
        OR f.locked_until IS DISTINCT FROM k.locked_until END`

/** Parked facts: what Redis decided, and why PostgreSQL did not take it. */
export async function parkedFacts(run: Run): Promise<Difference[]> {
  const { rows } = await run.database.query<
    Place & { shard: number; reason: string; fact: Parked }
  >(
    `SELECT * FROM parked_facts WHERE $1::text IS NULL OR fact->>'book' = $1
     ORDER BY shard, epoch, n, i`,
    [run.book ?? null],
  )
  return rows.map(({ shard, epoch, n, i, reason, fact: { kind, book, fact } }) => ({
    ...{ class: 'PARKED', shard, book_id: book ?? null },
    ...(fact?.code === undefined ? {} : { code: fact.code }),
    what: `${kind ?? 'a fact'} is parked as ${shard}/${epoch}-${n}/${i}`,
    redis: fact
      ? { user_id: fact.user, version: fact.version, redemptions: fact.redemptions }
      : null,
    postgres: { parked: reason },
  }))
}
type Parked = {
  kind?: string
  book?: string
  fact?: { code: string; user: string; version: number; redemptions: number }
}

/**
 * Brings together what the ledger's places and its codes say of missing facts: a gap between two
 * places and a code that lacks a fact there are one difference, which names both. A code that was
 * assigned twice without a gap between was assigned twice.
 */
export function explainGaps(run: Run, gaps: Gap[], lacking: Lacking[]): void {
  const open = new Set(gaps)
  for (const { shard, hole, difference } of lacking) {
    const within = [...open].filter((gap) => gap.shard === shard && isWithin(gap, hole))
    for (const gap of within.slice(0, hole.facts)) open.delete(gap)
    const missing = within.slice(0, hole.facts).map(textOf)
    if (hole.twice && missing.length === 0)
      run.findings.add({
        ...{ ...difference, class: 'DUPLICATE_FACT' },
        what: 'assigned a second time while it was held',
      })
    else if (missing.length === 0) run.findings.add(difference)
    else run.findings.add({ ...difference, what: `${difference.what}: ${missing.join(', ')}` })
  }
  for (const gap of open)
    run.findings.add({
      ...{ class: 'SEQUENCE_GAP', shard: gap.shard, book_id: null, what: textOf(gap) },
      redis: null,
      postgres: { after: gap.after && nameOf(gap.after), before: gap.before && nameOf(gap.before) },
    })
}

const nameOf = ({ epoch, n, i }: Place) => `${epoch}-${n}/${i}`
const textOf = ({ shard, after, before }: Gap) =>
  `nothing between ${after ? `${shard}/${nameOf(after)}` : 'the beginning'} and ` +
  (before ? `${shard}/${nameOf(before)}` : 'the checkpoint')

const compare = (a: Place, b: Place) => a.epoch - b.epoch || a.n - b.n || a.i - b.i

/** Whether the fact that a code lacks may have stood in a gap. */
function isWithin({ after, before }: Gap, hole: { after?: Place; before?: Place }): boolean {
  const endsLater = !before || !hole.after || compare(before, hole.after) > 0
  const beginsEarlier = !after || !hole.before || compare(after, hole.before) < 0
  return endsLater && beginsEarlier
}
