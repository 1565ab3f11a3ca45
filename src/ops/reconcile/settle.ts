import { setTimeout as sleep } from 'node:timers/promises'
import type { ChainableCommander } from 'ioredis'
import type { EntryId } from '../../journal/entry.ts'
import type { Book } from '../../ledger/books.ts'
import type { Database } from '../../ledger/database.ts'
import { shardRow } from '../../ledger/shards.ts'
import { keys } from '../../store/keys.ts'
import type { Ops } from '../ops.ts'
import type { Over } from './caps.ts'
import type { RedemptionItem, UserItem } from './counters.ts'
import type { Digests } from './digest.ts'
import type { Doubts } from './doubts.ts'
import type { Findings, Ripples } from './report.ts'
import type { Suspects } from './suspects.ts'

/** What there is of a book by PostgreSQL, as it was come across page by page. */
export type Walked = {
  codes: number
  /** Some of the codes are on their way to Redis. */
  open: boolean
  /** Rows of coupons, and those of them that are not void. */
  records: number
  coupons: number
  users: number
  redemptions: number
  over: Over
}

/** One comparison under way. What only seems to differ is gathered, and looked at carefully later. */
export type Run = Ops & {
  /** Nothing is written meanwhile: what differs once differs. */
  exact: boolean
  /** This book alone. */
  book: string | undefined
  books: Book[]
  /** Shards that are compared: the others do not serve. */
  serving: Set<number>
  findings: Findings
  ripples: Ripples
  digests: Map<string, Digests>
  /** By book, once all of it has been walked. */
  walked: Map<string, Walked>
  suspects: Suspects
  users: Doubts<UserItem>
  redemptions: Doubts<RedemptionItem>
  progress: (codes: number) => void
  /**
   * Called after each step with the milliseconds that it may take. During a sale it waits until they are over, and
   * in any case a quarter as long as the step took: the cores are the buyers'.
   */
  breathe: (ms: number) => Promise<void>
}

/** More of a kind are not kept: they are looked at carefully before the comparison goes on. */
export const enough = 20_000

/** The ledger does not follow, or a shard does not come back: what differs cannot be told. */
export class Unsettled extends Error {}

/** What was read of Redis, and the last entry that it rests on. `now`: Redis' clock, in ms. */
export type Seen = { shard: number; at: EntryId; now: number; replies: unknown[] }

const serveMs = 30_000
const ledgerMs = 20_000
const pollMs = 25

/**
 * Reads Redis in one transaction together with the shard's last entry: everything it says is so after
 * exactly that entry. Throws Unsettled where the shard is out of service for longer than 30 s.
 */
export async function seeShard(
  { redis, exact }: Run,
  shard: number,
  ask: (tx: ChainableCommander) => ChainableCommander,
): Promise<Seen> {
  for (const until = performance.now() + serveMs; ; await sleep(pollMs)) {
    const tx = redis.multi().time().hmget(keys.meta(shard), 'epoch', 'phase', 'n')
    const results = (await ask(tx).exec()) ?? []
    const [clock, meta, ...replies] = results.map(([error, reply]) => {
      if (error) throw error
      return reply
    }) as [number[], (string | null)[], ...unknown[]]
    const [epoch, phase, n] = meta
    if (phase === 'active' || exact) {
      const now = Number(clock[0]) * 1000 + Math.floor(Number(clock[1]) / 1000)
      return { shard, at: { epoch: Number(epoch), n: Number(n) }, now, replies }
    }
    if (performance.now() > until)
      throw new Unsettled(`shard ${shard} does not serve (${phase ?? 'no meta in Redis'})`)
  }
}

/** Waits until the ledger has an entry. False: a new epoch began first, the entry may be lost. */
async function ledgerHas(database: Database, shard: number, { epoch, n }: EntryId) {
  let reached = -1
  let since = performance.now()
  for (;;) {
    const row = await shardRow(database, shard)
    if (row.checkpointEpoch > epoch) return false
    if (row.checkpointEpoch === epoch && row.checkpoint >= n) return true
    if (row.checkpoint !== reached) [reached, since] = [row.checkpoint, performance.now()]
    if (row.flush === 'paused' || performance.now() - since > ledgerMs)
      throw new Unsettled(
        `shard ${shard}: Redis is at entry ${epoch}-${n}, the ledger stays at ` +
          `${row.checkpointEpoch}-${row.checkpoint}: ` +
          (row.flush === 'paused' ? 'its flush is paused' : 'is a worker alive?'),
      )
    await sleep(pollMs)
  }
}

/** How one kind of thing is compared carefully: things of one shard and book, a few at a time. */
export type Look<Item, Verdict, S extends Seen = Seen> = {
  chunk: number
  see: (items: Item[]) => Promise<S>
  /** What PostgreSQL had after entry `asOf`, and whether it is what was seen: a verdict per item. */
  judge: (items: Item[], seen: S, asOf: EntryId) => Promise<Verdict[]>
}

/** After each of these a difference is looked at once more; who still differs at the end, differs. */
const pausesMs = [0, 20, 50, 100, 200]
/** Later than every entry: PostgreSQL as it is now. */
const always: EntryId = { epoch: Number.MAX_SAFE_INTEGER, n: 0 }

/**
 * Compares things under load without a false alarm. Redis is read first, with the entry it stands
 * at; once the ledger has that entry, PostgreSQL is read in one snapshot and whatever later entries did
 * is taken off again. Both are then of the same moment, so one look is enough to tell; since not
 * everything is in the journal (loads and policies are pushed), a difference is believed once it
 * was there in all looks. Throws Unsettled.
 */
export async function settle<Item extends AtHome, V extends Equal, S extends Seen>(
  run: Run,
  items: Item[],
  look: Look<Item, V, S>,
): Promise<Map<Item, V>> {
  const verdicts = new Map<Item, V>()
  let open = items
  for (const pause of run.exact ? [0] : pausesMs) {
    await sleep(pause)
    const looks: { some: Item[]; seen: S }[] = []
    for (const some of chunksOf(open, look.chunk)) looks.push({ some, seen: await look.see(some) })
    open = []
    for (const { some, seen } of looks) {
      const isThere = run.exact || (await ledgerHas(run.database, seen.shard, seen.at))
      const found = isThere ? await look.judge(some, seen, run.exact ? always : seen.at) : []
      some.forEach((item, i) => {
        if (found[i]) verdicts.set(item, found[i])
        else verdicts.delete(item)
        if (!found[i]?.equal) open.push(item)
      })
    }
    if (open.length === 0) break
  }
  if (verdicts.size < items.length) throw new Unsettled('a shard is recovered again and again')
  return verdicts
}
export type Equal = { equal: boolean }
export type AtHome = { shard: number; book: string }

/** In chunks of `size` that have one shard and book. */
function chunksOf<Item extends AtHome>(items: Item[], size: number) {
  const homes = Map.groupBy(items, ({ shard, book }) => `${shard} ${book}`)
  return [...homes.values()].flatMap((some) => slices(some, size))
}

/** Redis is busy with so many for about half a millisecond; one step is under way at a time. */
export const perStep = 1_000

export function slices<T>(all: readonly T[], size: number): T[][] {
  const some: T[][] = []
  for (let from = 0; from < all.length; from += size) some.push(all.slice(from, from + size))
  return some
}

/** Fetches the next page while this one is being worked on. */
export async function* readAhead<T>(pages: AsyncIterable<T>): AsyncGenerator<T> {
  const source = pages[Symbol.asyncIterator]()
  let next = source.next()
  try {
    for (;;) {
      const page = await next
      if (page.done) return
      next = source.next()
      next.catch(() => {}) // thrown where it is awaited
      yield page.value
    }
  } finally {
    await next.catch(() => {})
    await source.return?.()
  }
}
