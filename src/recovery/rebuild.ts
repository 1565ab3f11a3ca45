import { failpoint } from '../failpoint.ts'
import type { Book } from '../ledger/books.ts'
import type { Database } from '../ledger/database.ts'
import { answersOf, booksOf, couponsOf, redemptionsOf, stockOf, usersOf } from '../ledger/state.ts'
import { policyFields } from '../store/books.ts'
import { keys } from '../store/keys.ts'
import type { Place } from '../store/place.ts'
import { policyOf } from './push.ts'

/** The recovery that a write belongs to. Each write goes through a script that checks it. */
export type Recovery = { shard: number; epoch: number; token: string }

/** This recovery was taken over: whoever did it does the work again. */
export class Superseded extends Error {}

type Write = (
  command: string,
  key: string | string[],
  ...args: (string | number)[]
) => Promise<void>

/** The field by which meta says that there are answers of a day: see lua/include/finish.lua. */
const answersOfDay = (day: number | '') => `answers:${day}`

/** Members per call: Redis is busy for about a millisecond. */
const perCall = 1_000
/** Each call has a second: more of them at once would wait for each other longer than that. */
const locksAtOnce = 500

export function writer(place: Place, { shard, epoch, token }: Recovery): Write {
  return async (command, key, ...args) => {
    const written = Array.isArray(key) ? key : [key]
    const reply = await place.call(
      'restore',
      [keys.meta(shard), ...written],
      [epoch, token, command, ...args],
    )
    if (reply !== 'restored') throw new Superseded(`shard ${shard}: another worker recovers it`)
  }
}

/** Writes `members` to one key, a thousand at a time, a few calls under way. */
async function writeAll(write: Write, command: string, key: string, members: string[], width = 1) {
  const step = perCall * width
  const calls: Promise<void>[] = []
  for (let from = 0; from < members.length; from += step)
    calls.push(write(command, key, ...members.slice(from, from + step)))
  await Promise.all(calls)
}

/** Everything of the shard but meta and the op keys, which end by themselves within two minutes. */
async function clear(place: Place, write: Write, shard: number): Promise<void> {
  const spared = new Set([keys.meta(shard)])
  const op = keys.op(shard, '')
  let cursor = '0'
  do {
    const [next, found] = await place.redis.scan(cursor, 'MATCH', keys.all(shard), 'COUNT', 5_000)
    cursor = next
    const doomed = found.filter((key) => !spared.has(key) && !key.startsWith(op))
    for (let k = 0; k < doomed.length; k += perCall)
      await write('UNLINK', doomed.slice(k, k + perCall))
  } while (cursor !== '0')
}

/**
 * Makes a shard in Redis anew from PostgreSQL, whole: what survived a loss of memory may contradict
 * the ledger, and telling which part does would take longer. Killed anywhere, the next recovery
 * begins again; nothing serves meanwhile, because meta says `recovering`.
 */
export async function rebuild(
  place: Place,
  database: Database,
  recovery: Recovery,
): Promise<{ codes: number; coupons: number }> {
  const { shard } = recovery
  const write = writer(place, recovery)
  await clear(place, write, shard)
  // Of what is gone meta must not say that it is there.
  const said = await place.redis.hgetall(keys.meta(shard))
  const days = Object.keys(said).filter((name) => name.startsWith(answersOfDay('')))
  if (days.length > 0) await write('HDEL', keys.meta(shard), ...days)
  // Put in first: whoever deletes one of these meanwhile takes its sentinel along, and is found out.
  for (const key of [keys.coupons(shard), keys.redemptions(shard)])
    await write('HSET', key, '', recovery.epoch)
  failpoint('recover.after-clear')
  const sum = { codes: 0, coupons: 0 }
  for (const book of await booksOf(database, shard)) {
    const made = await rebuildBook(place, database, write, book)
    sum.codes += made.codes
    sum.coupons += made.coupons
    failpoint('recover.mid-rebuild')
  }
  failpoint('recover.before-answers')
  const [seconds] = await place.redis.time()
  const day = Math.floor(Number(seconds) / 86_400)
  for await (const answers of answersOf(database, shard)) {
    await writeAll(write, 'HSET', keys.answers(shard, day), answers, 2)
    await write('EXPIRE', keys.answers(shard, day), 2 * 86_400)
    await write('HSET', keys.meta(shard), answersOfDay(day), 1)
  }
  return sum
}

async function rebuildBook(place: Place, database: Database, write: Write, book: Book) {
  const { shard, book_id } = book
  let codes = 0
  let coupons = 0
  let gone = 0
  let redeemed = 0
  let own = 0
  if (book.kind === 'codes')
    for await (const page of stockOf(database, book_id)) {
      codes += page.codes.length
      own += page.uses.length
      await writeAll(write, 'SADD', keys.stock(shard, book_id), page.codes)
      await writeAll(write, 'HSET', keys.uses(shard, book_id), page.uses, 2)
    }
  const [seconds] = await place.redis.time()
  const now = Number(seconds) * 1000
  for await (const page of couponsOf(database, book_id)) {
    coupons += page.held
    gone += page.void
    redeemed += page.redeemed
    own += page.uses.length
    await writeAll(write, 'HSET', keys.coupons(shard), page.records, 2)
    await writeAll(write, 'HSET', keys.uses(shard, book_id), page.uses, 2)
    const live = page.locks.filter(({ until }) => until >= now)
    for (let l = 0; l < live.length; l += locksAtOnce)
      await Promise.all(
        live
          .slice(l, l + locksAtOnce)
          .map(({ code, token, until }) =>
            write('SET', keys.lock(shard, code), token, 'PXAT', until),
          ),
      )
  }
  for await (const users of usersOf(database, book_id))
    await writeAll(write, 'HSET', keys.users(shard, book_id), users, 2)
  for await (const redemptions of redemptionsOf(database, book_id))
    await writeAll(write, 'HSET', keys.redemptions(shard), redemptions, 2)
  await write('HSET', keys.users(shard, book_id), '', 1)
  const policy = policyOf(book)
  await write(
    'HSET',
    keys.book(shard, book_id),
    ...['version', book.version, 'units', policy.units, 'overrides', own > 0 ? 1 : ''],
    ...['left', book.kind === 'counter' ? policy.units - coupons - gone : codes],
    ...['held', coupons, 'redeemed', redeemed, 'void', gone],
    ...policyFields(policy),
  )
  return { codes, coupons }
}
