import type { Book } from '../ledger/books.ts'
import { redemptionsOf, usersOf } from '../ledger/state.ts'
import { keys } from '../store/keys.ts'
import { lockMarginMs } from './reconcile-codes.ts'
import {
  heldPages,
  notInStock,
  notRedemptions,
  stockPages,
  withoutCoupon,
  withoutHolding,
} from './reconcile-postgres.ts'
import { type Run, readAhead, slices } from './reconcile-settle.ts'

/** Redis is busy with so many for about half a millisecond; one step is under way at a time. */
const perStep = 1_000

/** What of a shard was found to be the same in both: a hash that has no more holds nothing else. */
export type Same = { coupons: number; redemptions: number }

/** Compares a hash in Redis with PostgreSQL's pages of its fields and values; how many are the same. */
async function compareHash(
  { redis }: Run,
  key: string,
  pages: AsyncIterable<string[]>,
  visit: (field: string, value: string, isSame: boolean) => void,
  afterStep: () => Promise<void> = async () => {},
): Promise<number> {
  let same = 0
  for await (const page of readAhead(pages))
    for (const flat of slices(page, 2 * perStep)) {
      const fields = flat.filter((_, f) => f % 2 === 0)
      const values = await redis.hmget(key, ...fields)
      for (const [f, field] of fields.entries()) {
        const value = flat[2 * f + 1]!
        const isSame = values[f] === value
        if (isSame) same++
        visit(field, value, isSame)
      }
      await afterStep()
    }
  return same
}

/** Goes through a hash in Redis for fields that PostgreSQL does not know, sentinel aside. */
async function scanHash(
  { redis }: Run,
  key: string,
  unknown: (fields: string[]) => Promise<string[]>,
  found: (field: string, value: string) => void,
): Promise<void> {
  let cursor = '0'
  do {
    const [next, flat] = await redis.hscan(key, cursor, 'COUNT', perStep)
    cursor = next
    const values = new Map(slices(flat, 2).map(([field, value]) => [field!, value!]))
    values.delete('')
    if (values.size === 0) continue
    for (const field of await unknown([...values.keys()])) found(field, values.get(field)!)
  } while (cursor !== '0')
}

/** Whether a hash has exactly `count` fields beside its sentinel. */
async function hasFields({ redis }: Run, key: string, count: number): Promise<boolean> {
  return (await redis.hlen(key)) - (await redis.hexists(key, '')) === count
}

/** Compares all coupons and codes of a book; what seems to differ becomes a suspect. */
export async function compareCodes(run: Run, book: Book, same: Same) {
  const coupons = await compareCoupons(run, book, same)
  const codes = book.kind === 'codes' ? await compareStock(run, book) : coupons
  return { codes, coupons }
}

async function compareCoupons(run: Run, { shard, book_id }: Book, same: Same): Promise<number> {
  const digests = run.digests.get(book_id)!
  const clock = await openClock(run)
  let coupons = 0
  let locked: Lock[] = []
  same.coupons += await compareHash(
    run,
    keys.coupons(shard),
    heldPages(run.database, book_id),
    (code, record, isSame) => {
      coupons++
      run.progress(1)
      if (!isSame) return run.suspects.add({ shard, book: book_id, code, digested: false })
      digests.addBoth(code, record)
      const lock = liveLock(code, record, clock())
      if (lock) locked.push(lock)
    },
    async () => {
      for (const code of await misguarded(run, shard, locked))
        run.suspects.add({ shard, book: book_id, code, digested: true })
      locked = []
      await run.suspects.relieve(run)
    },
  )
  return coupons
}

/** Redis' clock, asked once: close enough where what is close to its deadline is left out. */
async function openClock({ redis }: Run): Promise<() => number> {
  const [seconds] = await redis.time()
  const ahead = Number(seconds) * 1000 - performance.now()
  return () => performance.now() + ahead
}

type Lock = { code: string; token: string; until: number }

function liveLock(code: string, record: string, now: number): Lock | undefined {
  if (record.endsWith('\t')) return undefined // no deadline, no lock
  const [token, until] = record.split('\t').slice(-2) as [string, string]
  const lock = { code, token, until: Number(until) }
  return lock.until > now + 2 * lockMarginMs ? lock : undefined
}

/** Codes whose live lock is not guarded as it should be. */
async function misguarded({ redis }: Run, shard: number, locks: Lock[]): Promise<string[]> {
  if (locks.length === 0) return []
  const asked = redis.pipeline().mget(...locks.map(({ code }) => keys.lock(shard, code)))
  for (const { code } of locks) asked.pexpiretime(keys.lock(shard, code))
  const [tokens, ...deadlines] = (await asked.exec())!.map(([error, reply]) => {
    if (error) throw error
    return reply
  }) as [(string | null)[], ...number[]]
  return locks.flatMap(({ code, token, until }, l) =>
    tokens[l] === token && deadlines[l] === until ? [] : [code],
  )
}

/** How many codes the book has. */
async function compareStock(run: Run, { shard, book_id }: Book): Promise<number> {
  const { redis, database, exact } = run
  const digests = run.digests.get(book_id)!
  const [stock, uses] = [keys.stock(shard, book_id), keys.uses(shard, book_id)]
  const suspect = (code: string, digested: boolean) =>
    run.suspects.add({ shard, book: book_id, code, digested })
  const isMixed = (await redis.exists(uses)) === 1
  let codes = 0
  let same = 0
  for await (const { count, pairs } of readAhead(stockPages(database, book_id, exact))) {
    codes += count
    for (const flat of slices(pairs, 2 * perStep)) {
      const some = flat.filter((_, f) => f % 2 === 0)
      const there = await redis.smismember(stock, ...some)
      const limits = isMixed ? await redis.hmget(uses, ...some) : []
      for (const [c, code] of some.entries()) {
        const isThere = there[c] === 1
        if (isThere) digests.addBoth(code, '')
        if (isThere) same++
        if (!isThere || (limits[c] ?? '') !== flat[2 * c + 1]) suspect(code, isThere)
      }
      run.progress(some.length)
      await run.suspects.relieve(run)
    }
  }
  if (exact && (await redis.scard(stock)) === same) return codes
  let cursor = '0'
  do {
    const [next, some] = await redis.sscan(stock, cursor, 'COUNT', perStep)
    cursor = next
    for (const code of await notInStock(database, book_id, some)) suspect(code, true)
    await run.suspects.relieve(run)
  } while (cursor !== '0')
  return codes
}

/** Looks for coupons and redemptions that Redis alone knows of. */
export async function compareRest(run: Run, shard: number, same: Same): Promise<void> {
  const { database, exact } = run
  const isAll = exact && run.book === undefined
  const coupons = keys.coupons(shard)
  if (!isAll || !(await hasFields(run, coupons, same.coupons)))
    await scanHash(
      run,
      coupons,
      (codes) => withoutCoupon(database, codes),
      (code, record) => {
        const book = record.slice(0, record.indexOf('\t'))
        if (run.book === undefined || run.book === book)
          run.suspects.add({ shard, book, code, digested: true })
      },
    )
  const redemptions = keys.redemptions(shard)
  if (!isAll || !(await hasFields(run, redemptions, same.redemptions)))
    await scanHash(
      run,
      redemptions,
      (ids) => notRedemptions(database, ids),
      (id) => run.redemptions.push({ shard, book: '', id }),
    )
}

/** Compares the redemptions of a book; how many are the same. */
export function compareRedemptions(run: Run, { shard, book_id }: Book): Promise<number> {
  const pages = redemptionsOf(run.database, book_id)
  return compareHash(run, keys.redemptions(shard), pages, (id, _, isSame) => {
    if (!isSame) run.redemptions.push({ shard, book: book_id, id })
  })
}

/** Compares how many coupons of a book each user holds; `over`: who holds more than the book allows. */
export async function compareUsers(run: Run, book: Book): Promise<{ over: string[] }> {
  const { shard, book_id, max_assignments_per_user: limit } = book
  const users = keys.users(shard, book_id)
  const over: string[] = []
  const suspect = (user: string) => run.users.push({ shard, book: book_id, user })
  const same = await compareHash(
    run,
    users,
    usersOf(run.database, book_id),
    (user, held, isSame) => {
      if (!isSame) suspect(user)
      if (limit !== null && Number(held) > limit) over.push(user)
    },
  )
  if (!run.exact || !(await hasFields(run, users, same)))
    await scanHash(run, users, (some) => withoutHolding(run.database, book_id, some), suspect)
  return { over }
}

/** Goes through all keys for guards of locks that no coupon has. */
export async function compareGuards(run: Run, shards: number[]): Promise<void> {
  const { redis } = run
  const homes = new Map(shards.map((shard) => [keys.lock(shard, ''), shard]))
  const clock = await openClock(run)
  const mark = keys.lock(0, '').slice(keys.lock(0, '').indexOf(':'))
  let cursor = '0'
  do {
    const [next, found] = await redis.scan(cursor, 'MATCH', `*${mark}*`, 'COUNT', perStep)
    cursor = next
    const guards = found.flatMap((key) => {
      const prefix = key.slice(0, key.indexOf(mark) + mark.length)
      const shard = homes.get(prefix)
      return shard === undefined ? [] : [{ shard, code: key.slice(prefix.length) }]
    })
    for (const [shard, some] of Map.groupBy(guards, (guard) => guard.shard)) {
      const codes = some.map(({ code }) => code)
      const records = await redis.hmget(keys.coupons(shard), ...codes)
      for (const [c, record] of records.entries()) {
        const code = codes[c]!
        if (record && liveLock(code, record, clock())) continue
        const book = record?.slice(0, record.indexOf('\t')) ?? (await homeOf(run, code))
        run.suspects.add({ shard, book, code, digested: true })
      }
    }
  } while (cursor !== '0')
}

/** The book of a code of which Redis has no record; '': nobody knows. */
async function homeOf({ database }: Run, code: string): Promise<string> {
  const { rows } = await database.query<{ book_id: string }>(
    `SELECT book_id FROM codes WHERE code = $1
     UNION ALL SELECT book_id FROM ledger WHERE code = $1 LIMIT 1`,
    [code],
  )
  return rows[0]?.book_id ?? ''
}
