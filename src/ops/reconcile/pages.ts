import type { Book } from '../../ledger/books.ts'
import { redemptionsOf } from '../../ledger/state.ts'
import { keys } from '../../store/keys.ts'
import { isVoid } from '../../store/record.ts'
import { overToday } from './caps.ts'
import { type Lock, liveLock, misguarded, openClock } from './locks.ts'
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
  key: string,
  pages: AsyncIterable<string[]>,
  visit: (field: string, value: string, isSame: boolean) => void,
  afterStep: () => Promise<void> = async () => {},
): Promise<void> {
  const steps = fetchSteps(run, pages, async (fields) => run.redis.hmget(key, ...fields))
  for await (const { fields, values, found } of ahead(run, steps)) {
    for (const [f, field] of fields.entries()) {
      const value = values[f]!
      visit(field, value, found[f] === value)
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
  pages: AsyncIterable<string[]>,
  fetch: (fields: string[]) => Promise<T>,
) {
  for await (const page of ahead(run, pages)) {
    await run.breathe()
    for (const flat of slices(page, 2 * perStep)) {
      const fields = flat.filter((_, f) => f % 2 === 0)
      const values = flat.filter((_, f) => f % 2 === 1)
      yield { fields, values, found: await fetch(fields) }
      await run.breathe()
    }
  }
}

/** Compares all coupons of a book, void ones too; what seems to differ becomes a suspect. */
export async function compareCoupons(run: Run, { shard, book_id }: Book) {
  const digests = run.digests.get(book_id)!
  const clock = await openClock(run)
  let [records, coupons] = [0, 0]
  let locked: Lock[] = []
  await compareHash(
    run,
    keys.coupons(shard),
    heldPages(run.database, book_id),
    (code, record, isSame) => {
      records++
      if (!isVoid(record)) coupons++
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
    },
  )
  return { coupons, records }
}

/** Compares the codes that nobody has; answers how many the book has in all. */
export async function compareStock(run: Run, { shard, book_id }: Book): Promise<number> {
  const { redis, database, exact } = run
  const digests = run.digests.get(book_id)!
  const [stock, uses] = [keys.stock(shard, book_id), keys.uses(shard, book_id)]
  const suspect = (code: string, digested: boolean) =>
    run.suspects.add({ shard, book: book_id, code, digested })
  const isMixed = (await redis.exists(uses)) === 1
  let codes = 0
  async function* pages() {
    for await (const { count, pairs } of stockPages(database, book_id, exact)) {
      codes += count
      run.progress(count)
      yield pairs
    }
  }
  const steps = fetchSteps(run, pages(), (some) =>
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
  return codes
}

/** Compares the redemptions of a book. */
export async function compareRedemptions(run: Run, { shard, book_id }: Book) {
  const pages = redemptionsOf(run.database, book_id)
  await compareHash(run, keys.redemptions(shard), pages, (id, _, isSame) => {
    if (!isSame) run.redemptions.add(id, { shard, book: book_id, id })
  })
}

/** Compares how many coupons of a book each user holds; returns who holds more than it allows. */
export async function compareUsers(run: Run, book: Book): Promise<string[]> {
  const { shard, book_id, max_assignments_per_user: limit } = book
  const key = keys.users(shard, book_id)
  let over: string[] = []
  let kept = 0
  /** After a limit was lowered nearly all may be over it: those alone are kept who were not before. */
  const excuse = async () => {
    if (over.length - kept < enough) return
    over = (await overToday(run, book, over)).slice(0, enough)
    kept = over.length
  }
  const note = (user: string, held: string, isSame: boolean) => {
    if (!isSame) run.users.add(`${book_id} ${user}`, { shard, book: book_id, user })
    if (limit !== null && Number(held) > limit) over.push(user)
  }
  await compareHash(run, key, holders(run.database, book_id), note, excuse)
  return over
}
