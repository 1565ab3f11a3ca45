import { counts } from '../../ledger/aside.ts'
import { keys } from '../../store/keys.ts'
import { isVoid } from '../../store/record.ts'
import { packed, record } from './postgres.ts'
import { isSame, shownLock, sides, unpack } from './record.ts'
import type { Difference, DifferenceClass } from './report.ts'
import { type Equal, type Look, type Run, seeShard } from './settle.ts'
import {
  type Hole,
  isAfter,
  lacks,
  parseFacts,
  placeOf,
  type StoredFact,
  type Story,
  tell,
} from './story.ts'

/** A code that is to be looked at carefully. */
export type Suspect = {
  shard: number
  /** The book as whoever suspected it knew; '' where nobody did. */
  book: string
  code: string
  /** What PostgreSQL says of it is in both digests of its book already. */
  digested: boolean
}

/** A code by one store's word: its packed record (null: it has none), and whether it is in stock. */
export type Standing = { record: string | null; stock: boolean }

export type CodeVerdict = Equal & {
  redis: Standing
  postgres: Standing
  differences: Difference[]
  /** Facts that the ledger lacks, each with the difference that it makes. */
  holes: { hole: Hole; difference: Difference }[]
}

type InRedis = Standing & { own: string | null; guard: string | null; guardUntil: number }
type InPostgres = {
  /** The book that it was loaded into; null: none. */
  home: string | null
  own: number | null
  pushed: boolean | null
  record: string | null
  /** Of its row in coupons, which the record of a void code does not tell. */
  version: number
  assignedAt: number
  facts: StoredFact[]
}

/** Redis is busy with a chunk for about a millisecond. */
const chunk = 250
/** Closer to its deadline than this, a lock may be over or not. */
export const lockMarginMs = 1_000

/**
 * Compares single codes: Redis' record, stock and guard with PostgreSQL's coupons, codes and ledger, all
 * as they were after one entry. What PostgreSQL had then is the row in coupons where no later fact
 * touched it, else the ledger's last fact up to then.
 */
export const codesLook = (run: Run): Look<Suspect, CodeVerdict> => ({
  chunk,
  see: (items) => {
    const { shard, book } = items[0]!
    const codes = items.map(({ code }) => code)
    const guards = codes.map((code) => keys.lock(shard, code))
    return seeShard(run, shard, (tx) => {
      tx.hmget(keys.coupons(shard), ...codes).smismember(keys.stock(shard, book), ...codes)
      tx.hmget(keys.uses(shard, book), ...codes).mget(...guards)
      for (const guard of guards) tx.pexpiretime(guard)
      return tx
    })
  },
  judge: async (items, { at: _, now, replies }, asOf) => {
    const [records, stock, uses, guards, ...deadlines] = replies as [
      (string | null)[],
      number[],
      (string | null)[],
      (string | null)[],
      ...number[],
    ]
    const stored = await readStored(
      run,
      items.map(({ code }) => code),
    )
    return items.map((item, i) => {
      const redis: InRedis = {
        ...{ record: records[i]!, stock: stock[i] === 1, own: uses[i]! },
        ...{ guard: guards[i]!, guardUntil: deadlines[i]! },
      }
      const then = whatWas(stored[i]!, item, asOf)
      // In stock in PostgreSQL, but its load has not come to Redis: both are right.
      if (!run.exact && !stored[i]!.pushed && !redis.stock) then.stock = false
      return judgeCode(item, redis, stored[i]!, then, now)
    })
  },
})

async function readStored({ database }: Run, codes: string[]): Promise<InPostgres[]> {
  const { rows } = await database.query<Omit<InPostgres, 'facts'> & { facts: string | null }>(
    `WITH facts AS (
       SELECT f.code, string_agg(concat_ws(E'\\t', f.epoch, f.n, f.i, f.kind, ${packed('f', 'at')}),
         E'\\n' ORDER BY f.epoch, f.n, f.i) AS told
       FROM ledger f WHERE f.code = ANY ($1) AND ${counts('f')} GROUP BY f.code)
     SELECT c.book_id AS home, c.max_redemptions AS own, l.state = 'pushed' AS pushed,
       CASE WHEN k.code IS NOT NULL THEN ${record('k')} END AS record, told AS facts,
       k.version, (extract(epoch FROM k.assigned_at) * 1000)::float8 AS "assignedAt"
     FROM unnest($1::text[]) WITH ORDINALITY AS w(code, place)
     LEFT JOIN codes c ON c.code = w.code LEFT JOIN loads l ON l.load_id = c.load_id
     LEFT JOIN coupons k ON k.code = w.code LEFT JOIN facts ON facts.code = w.code
     ORDER BY place`,
    [codes],
  )
  return rows.map((row) => ({ ...row, facts: parseFacts(row.facts) }))
}

type Then = Standing & { ledger: string | null }

function whatWas(stored: InPostgres, { book }: Suspect, asOf: { epoch: number; n: number }): Then {
  const facts = stored.facts.filter((fact) => !isAfter(fact, asOf))
  const ledger = tell(facts).record
  const record = facts.length < stored.facts.length ? ledger : stored.record
  return { ledger, record, stock: stored.home === book && record === null }
}

function judgeCode(
  item: Suspect,
  redis: InRedis,
  stored: InPostgres,
  then: Then,
  now: number,
): CodeVerdict {
  const found = compareStanding(redis, then, stored)
  const story = tell(stored.facts)
  const { contradicts, missing } = compareStory(story, stored, isSame(redis.record, then.record))
  const lock = compareGuard(redis, then, now)
  const { duplicates } = story
  const equal = !found && !lock && !contradicts && missing.length + duplicates.length === 0
  if (equal) return { equal, redis, postgres: then, differences: [], holes: [] }

  const difference = describe(item, redis, stored, then)
  const differences: Difference[] = []
  if (found) differences.push(difference(...found))
  if (contradicts)
    differences.push(difference('STATE_MISMATCH', 'the ledger differs from coupons and Redis'))
  for (const { first, again } of duplicates) {
    const what = `version ${first.state.version} stands twice in the ledger`
    const facts = [first, again].map((fact) => `${item.shard}/${placeOf(fact)}`)
    differences.push(difference('DUPLICATE_FACT', what, { facts }))
  }
  if (lock) differences.push({ ...difference('LOCK_MISMATCH', lock), ...guardSides(redis, then) })
  const holes = missing.map((hole) => {
    return { hole, difference: difference('SEQUENCE_GAP', lackOf(hole, item.shard)) }
  })
  return { equal, redis, postgres: then, differences, holes }
}

/** Makes differences of one code: each shows where it is and who has it, by each store. */
function describe(item: Suspect, redis: InRedis, stored: InPostgres, then: Then) {
  const { shard, book, code } = item
  const holder = redis.record ?? then.record
  const home = stored.home ?? (holder === null ? book : unpack(holder).book)
  const [coupon, coupons, ledger] = sides(redis.record, then.record, then.ledger)
  return (of: DifferenceClass, what: string, more: object = {}): Difference => ({
    ...{ class: of, shard, book_id: home || null, code, what },
    redis: { in_stock: redis.stock, coupon },
    postgres: { loaded: stored.home !== null, coupons, ledger, ...more },
  })
}

/**
 * Compares the ledger with coupons, both as they are now: where facts are missing, and whether its end
 * contradicts the row. Where Redis and coupons do not agree that has been said, and where a held code
 * was assigned once more its end tells nothing.
 */
function compareStory(story: Story, stored: InPostgres, agree: boolean) {
  const missing = [...story.holes]
  const isOpen = agree && !story.holes.some(({ twice }) => twice)
  if (!isOpen || isSame(story.record, stored.record)) return { missing, contradicts: false }
  const facts = lacks(story, stored.record === null ? null : stored)
  if (facts === 0) return { missing, contradicts: true }
  missing.push({ after: story.last, before: undefined, facts, twice: false })
  return { missing, contradicts: false }
}

/** What is wrong with where a code is, by its record and its place in stock. */
function compareStanding(
  redis: InRedis,
  then: Then,
  stored: InPostgres,
): [DifferenceClass, string] | undefined {
  if (redis.stock && then.record !== null)
    return [
      'STOCK_MISMATCH',
      `in stock in Redis, ${isVoid(then.record) ? 'void' : 'held'} in PostgreSQL`,
    ]
  if (!isSame(redis.record, then.record)) return ['STATE_MISMATCH', whoDiffers(redis, then)]
  if (redis.stock && !then.stock)
    return ['STOCK_MISMATCH', 'in stock in Redis, no code of this book']
  if (then.stock && !redis.stock) return ['UNDERSOLD', 'neither in stock in Redis nor held']
  if (redis.stock && redis.own !== (stored.own === null ? null : `${stored.own}`))
    return ['STOCK_MISMATCH', `its own limit is ${redis.own} in Redis, ${stored.own} in PostgreSQL`]
  return undefined
}

function whoDiffers({ record }: Standing, then: Then): string {
  if (isSame(record, then.ledger)) return 'coupons differs from Redis and the ledger'
  if (isSame(then.record, then.ledger)) return 'Redis differs from coupons and the ledger'
  return 'Redis, coupons and the ledger differ'
}

function lackOf({ after, before, facts }: Hole, shard: number): string {
  const where = [
    after && `after ${shard}/${placeOf(after)}`,
    before && `before ${shard}/${placeOf(before)}`,
  ].filter(Boolean)
  return `the ledger lacks ${facts === 1 ? 'a fact' : `${facts} facts`} ${where.join(' and ')}`.trimEnd()
}

/** A live lock has its guard, with its token and deadline; no other guard is there. */
function compareGuard(redis: InRedis, then: Then, now: number): string | undefined {
  const { guard, guardUntil } = redis
  const fits = (record: string | null) => {
    const { lockToken, lockedUntil } = record === null ? noLock : unpack(record)
    if (Math.abs(lockedUntil - now) <= lockMarginMs) return true
    if (lockedUntil < now) return guard === null
    return guard === lockToken && guardUntil === lockedUntil
  }
  // Where the record was changed that is the difference: the guard may still be PostgreSQL's.
  if (fits(redis.record) || fits(then.record)) return undefined
  if (guard === null) return 'a live lock without its guard'
  return redis.record !== null && unpack(redis.record).lockedUntil > now
    ? 'the guard is not that of the lock'
    : 'a guard without a live lock'
}
const noLock = { lockToken: '', lockedUntil: 0 }

function guardSides({ record, guard, guardUntil }: InRedis, then: Then) {
  const lock = (packed: string | null) => {
    const { lockToken, lockedUntil } = packed === null ? noLock : unpack(packed)
    return lockedUntil > 0 ? shownLock(lockToken, lockedUntil) : null
  }
  const shown = guard === null ? null : shownLock(guard, guardUntil)
  return { redis: { guard: shown, coupon: lock(record) }, postgres: { coupons: lock(then.record) } }
}
