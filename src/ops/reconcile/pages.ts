import type { Book } from '../../ledger/books.ts'
import { redemptionsOf } from '../../ledger/state.ts'
import { keys } from '../../store/keys.ts'
import { isVoid } from '../../store/record.ts'
import { isOver, overRedeemed, overToday } from './caps.ts'
import { type Lock, liveLock, misguarded, openClock } from './locks.ts'
import { paceMs } from './pace.ts'
import { heldPages, holders, stockPages } from './postgres.ts'
import { enough, perStep, type Run, readAhead, slices } from './settle.ts'

/** After each step: nothing that waits for its careful look may become too much to be kept. */
export async function relieve(run: Run): Promise<void> {
  await run.suspects.relieve(run)
  await run.users.relieve(run)
  await run.redemptions.relieve(run)
}

/** Compares a hash in Redis with PostgreSQL's pages of its fields and values. */
async function compareHash(
  run: Run,
  kind: 'coupon' | 'user' | 'redemption',
  key: string,
  pages: AsyncIterable<string[]>,
  visit: (field: string, value: string, isSame: boolean) => void,
  afterStep: () => Promise<void> = async () => {},
): Promise<void> {
  const steps = fetchSteps(run, kind, pages, async (fields) => run.redis.hmget(key, ...fields))
  for await (const { fields, values, found } of ahead(run, steps)) {
    for (const [f, field] of fields.entries()) {
      const [value, inRedis] = [values[f]!, found[f]]
      // Where both are the same, that of Redis: PostgreSQL's is a piece of a page, which is slower to read.
      if (value === inRedis) visit(field, inRedis, true)
      else visit(field, value, false)
    }
    await afterStep()
    await relieve(run)
  }
}

/** Drained, the next one is fetched while this one is looked at; during a sale one thing at a time. */
const ahead = <T>({ exact }: Run, some: AsyncIterable<T>) => (exact ? readAhead(some) : some)

/** Fields and values of PostgreSQL's pages, so many at a time, with what Redis has of these fields. */
async function* fetchSteps<T>(
  run: Run,
  kind: keyof typeof paceMs,
  pages: AsyncIterable<string[]>,
  fetch: (fields: string[]) => Promise<T>,
) {
  for await (const page of ahead(run, pages)) {
    await run.breathe(0)
    for (const flat of slices(page, 2 * perStep)) {
      const fields = flat.filter((_, f) => f % 2 === 0)
      const values = flat.filter((_, f) => f % 2 === 1)
      yield { fields, values, found: await fetch(fields) }
      await run.breathe(fields.length * paceMs[kind])
    }
  }
}

/**
 * Compares all coupons of a book, void ones too; what seems to differ becomes a suspect. `over`: codes that
 * were redeemed more often than they, or the book, allow today.
 */
export async function compareCoupons(run: Run, book: Book) {
  const { shard, book_id } = book
  const digests = run.digests.get(book_id)!
  const clock = await openClock(run)
  let [records, coupons] = [0, 0]
  let locked: Lock[] = []
  const over = new Excused(async (codes) =>
    (await overRedeemed(run, book, codes)).map(({ code }) => code),
  )
  await compareHash(
    run,
    'coupon',
    keys.coupons(shard),
    heldPages(run.database, book_id, run.exact),
    (code, record, isSame) => {
      records++
      if (!isVoid(record)) coupons++
      run.progress(1)
      if (isOver(book, record)) over.add(code)
      if (!isSame) return run.suspects.add({ shard, book: book_id, code, digested: false })
      digests.addBoth(code, record)
      const lock = liveLock(code, record, clock())
      if (lock) locked.push(lock)
    },
    async () => {
      for (const code of await misguarded(run, shard, locked))
        run.suspects.add({ shard, book: book_id, code, digested: true })
      locked = []
      await over.relieve()
    },
  )
  return { coupons, records, over: over.all }
}

/**
 * Compares the codes that nobody has; answers how many the book has in all, and whether some of them are on
 * their way to Redis.
 */
export async function compareStock(run: Run, { shard, book_id }: Book) {
  const { redis, database, exact } = run
  const digests = run.digests.get(book_id)!
  const [stock, uses] = [keys.stock(shard, book_id), keys.uses(shard, book_id)]
  const suspect = (code: string, digested: boolean) =>
    run.suspects.add({ shard, book: book_id, code, digested })
  const isMixed = (await redis.exists(uses)) === 1
  let codes = 0
  let isOpen = false
  async function* pages() {
    for await (const { count, open, pairs } of stockPages(database, book_id, exact)) {
      codes += count
      isOpen = open
      run.progress(count)
      yield pairs
    }
  }
  const steps = fetchSteps(run, 'code', pages(), (some) =>
    Promise.all([redis.smismember(stock, ...some), isMixed ? redis.hmget(uses, ...some) : []]),
  )
  for await (const { fields, values, found } of ahead(run, steps)) {
    const [there, limits] = found
    for (const [c, code] of fields.entries()) {
      const isThere = there[c] === 1
      if (isThere) digests.addBoth(code, '')
      if (!isThere || (limits[c] ?? '') !== values[c]) suspect(code, isThere)
    }
    await run.suspects.relieve(run)
  }
  return { codes, open: isOpen }
}

/** Compares the redemptions of a book; answers how many there are. */
export async function compareRedemptions(run: Run, { shard, book_id }: Book): Promise<number> {
  let redemptions = 0
  const pages = redemptionsOf(run.database, book_id)
  await compareHash(run, 'redemption', keys.redemptions(shard), pages, (id, _, isSame) => {
    redemptions++
    if (!isSame) run.redemptions.add(id, { shard, book: book_id, id })
  })
  return redemptions
}

/**
 * Compares how many coupons of a book each user holds; answers how many users that are, and who of them
 * holds more than it allows.
 */
export async function compareUsers(run: Run, book: Book, coupons: number) {
  const { shard, book_id, max_assignments_per_user: limit } = book
  const key = keys.users(shard, book_id)
  const over = new Excused((users) => overToday(run, book, users))
  let users = 0
  const note = (user: string, held: string, isSame: boolean) => {
    users++
    if (!isSame) run.users.add(`${book_id} ${user}`, { shard, book: book_id, user })
    if (limit !== null && Number(held) > limit) over.add(user)
  }
  await compareHash(
    run,
    'user',
    key,
    holders(run.database, book_id, run.exact, coupons),
    note,
    () => over.relieve(),
  )
  return { users, over: over.all }
}

/** Whoever is over a limit. After it was lowered nearly all may be: those alone are kept who were not before. */
class Excused {
  all: string[] = []
  #kept = 0
  readonly #really: (some: string[]) => Promise<string[]>

  constructor(really: (some: string[]) => Promise<string[]>) {
    this.#really = really
  }

  add(one: string): void {
    // A piece of a page would keep the whole page in memory.
    this.all.push(Buffer.from(one).toString())
  }

  async relieve(): Promise<void> {
    if (this.all.length - this.#kept < enough) return
    this.all = (await this.#really(this.all)).slice(0, enough)
    this.#kept = this.all.length
  }
}
