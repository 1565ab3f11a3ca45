import { keys } from '../store/keys.ts'
import { type CouponRecord, unpackRecord } from '../store/record.ts'
import { counts, packed } from './reconcile-postgres.ts'
import type { Difference, DifferenceClass } from './reconcile-report.ts'
import { type Equal, type Look, type Run, seeShard } from './reconcile-settle.ts'
import {
  type Hole,
  isAfter,
  lacks,
  parseFacts,
  placeOf,
  type StoredFact,
  tell,
} from './reconcile-story.ts'

/** A code that is to be looked at carefully. */
export type Suspect = {
  shard: number
  /** The book as whoever suspected it knew; '' where nobody did. */
  book: string
  code: string
  /** What PostgreSQL says of it is in both digests of its book already. */
  digested: boolean
}

/** A code by one store's word: its packed record (null: nobody has it), and whether it is in stock. */
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
    `SELECT c.book_id AS home, c.max_redemptions AS own, l.state = 'pushed' AS pushed,
       CASE WHEN k.code IS NOT NULL THEN ${packed('k', 'updated_at')} END AS record,
       (SELECT string_agg(concat_ws(E'\\t', f.epoch, f.n, f.i, f.kind, ${packed('f', 'at')}), E'\\n'
          ORDER BY f.epoch, f.n, f.i)
        FROM ledger f WHERE f.code = w.code AND ${counts('f')}) AS facts
     FROM unnest($1::text[]) WITH ORDINALITY AS w(code, place)
     LEFT JOIN codes c ON c.code = w.code LEFT JOIN loads l ON l.load_id = c.load_id
     LEFT JOIN coupons k ON k.code = w.code ORDER BY place`,
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
  const { shard, book, code } = item
  const holder = redis.record ?? then.record
  const home = stored.home ?? (holder === null ? book : unpack(holder).book)
  const [inRedis, inCoupons, inLedger] = sides(redis.record, then.record, then.ledger)
  const difference = (of: DifferenceClass, what: string, more: object = {}): Difference => ({
    ...{ class: of, shard, book_id: home || null, code, what },
    redis: { in_stock: redis.stock, coupon: inRedis },
    postgres: { loaded: stored.home !== null, coupons: inCoupons, ledger: inLedger, ...more },
  })
  const differences: Difference[] = []
  const holes: CodeVerdict['holes'] = []
  const found = compareStanding(redis, then, stored)
  if (found) differences.push(difference(...found))

  const story = tell(stored.facts)
  for (const { first, again } of story.duplicates) {
    const what = `version ${first.state.version} stands twice in the ledger`
    const places = [first, again].map((fact) => `${shard}/${placeOf(fact)}`)
    differences.push(difference('DUPLICATE_FACT', what, { facts: places }))
  }
  const missing = [...story.holes]
  // Where Redis and coupons differ, that has been said; nor does an end that was assigned twice tell more.
  const isOpen = isSame(redis.record, then.record) && !story.holes.some(({ twice }) => twice)
  if (isOpen && !isSame(story.record, stored.record)) {
    const facts = lacks(story, stored.record === null ? null : unpack(stored.record))
    if (facts > 0) missing.push({ after: story.last, before: undefined, facts, twice: false })
    else differences.push(difference('STATE_MISMATCH', 'the ledger differs from coupons and Redis'))
  }
  for (const hole of missing)
    holes.push({ hole, difference: difference('SEQUENCE_GAP', lackOf(hole, shard)) })

  const lock = compareGuard(redis, then, now)
  if (lock) differences.push({ ...difference('LOCK_MISMATCH', lock), ...guardSides(redis, then) })
  const equal = differences.length === 0 && holes.length === 0
  return { equal, redis, postgres: then, differences, holes }
}

/** What is wrong with where a code is, by its record and its place in stock. */
function compareStanding(
  redis: InRedis,
  then: Then,
  stored: InPostgres,
): [DifferenceClass, string] | undefined {
  if (redis.stock && then.record !== null)
    return ['STOCK_MISMATCH', 'in stock in Redis, held in PostgreSQL']
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

/** A token is its holder's alone: its beginning is enough to tell it from another. */
const shownToken = (token: string) => (token === '' ? null : `${token.slice(0, 4)}...`)
const shownTime = (ms: number) => (ms > 0 ? new Date(ms).toISOString() : null)
const shownLock = (token: string, until: number) => ({
  token: shownToken(token),
  until: shownTime(until),
})

export const unpack = (packed: string): CouponRecord => unpackRecord(packed.split('\t'))

const plain = (value: string | number) => value
const columns: [keyof CouponRecord, string, (value: never) => unknown][] = [
  ['user', 'user_id', plain],
  ['version', 'version', plain],
  ['redemptions', 'redemptions', plain],
  ['book', 'book_id', plain],
  ['max', 'max_redemptions', plain],
  ['lockToken', 'lock_token', shownToken],
  ['lockedUntil', 'locked_until', shownTime],
  ['assignedAt', 'assigned_at', shownTime],
  ['updatedAt', 'updated_at', shownTime],
]
const alwaysShown = 3

const isSame = (a: string | null, b: string | null): boolean =>
  a === b || (a !== null && b !== null && differing([unpack(a), unpack(b)]).length === 0)
const differing = (records: CouponRecord[]) =>
  columns.filter(([field]) => new Set(records.map((record) => record[field])).size > 1)

/** Records as a report shows them: who has it, how far it is, and every field that they disagree on. */
function sides(...packs: (string | null)[]): (object | null)[] {
  const records = packs.map((pack) => (pack === null ? null : unpack(pack)))
  const other = differing(records.filter((record) => record !== null))
  const shown = new Set([...columns.slice(0, alwaysShown), ...other])
  return records.map(
    (record) =>
      record &&
      Object.fromEntries(
        [...shown].map(([field, name, show]) => [name, show(record[field] as never)]),
      ),
  )
}
