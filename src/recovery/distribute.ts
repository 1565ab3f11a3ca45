import { setTimeout as sleep } from 'node:timers/promises'
import { failpoint } from '../failpoint.ts'
import { getBook } from '../ledger/books.ts'
import { confirmFacts } from '../ledger/confirm.ts'
import type { Database } from '../ledger/database.ts'
import { givenUnseen } from '../ledger/distribution-results.ts'
import {
  claim,
  type Distribution,
  type Ended,
  endDistribution,
  forgetAsked,
  openShares,
  settle,
  stepAside,
  takeDistribution,
  waitsForIntake,
} from '../ledger/distributions.ts'
import { startJob } from '../ledger/jobs.ts'
import { Overtaken, shardRow } from '../ledger/shards.ts'
import { type Problem, problemTitle } from '../problems.ts'
import { keys } from '../store/keys.ts'
import type { Store } from '../store/store.ts'
import type { FactId } from '../store/verb.ts'
import { type Asked, askShares, keyPrefix, type Shop } from './hand-out.ts'
import { makePlan } from './plan.ts'

export type Distributor = {
  database: Database
  store: Pick<Store, 'place' | 'assign' | 'heldBy'>
}

/** It cannot go on now. The job's row brings it back, and the next run goes on from the results. */
export class Interrupted extends Error {}

/** Facts that may be asked for before the results of earlier ones are written. */
const factsPerChunk = 4_000
const usersPerChunk = 2_000
const chunksUnderWay = 4
/** So long a gate may be shut, and the ledger may take to follow. */
const gateMs = 2_000
const ledgerMs = 10_000
const lookMs = 25

/**
 * Gives the users of a pool their shares, as the job's row says, or what earlier runs have left to do.
 *
 * Nobody gets a second share, wherever a run is killed. Each share is asked for under a key of its own,
 * by which the script knows it for a day; and before a run asks anybody it reads off the ledger what
 * earlier ones have given. A result is written once the ledger has its facts, by the latest run alone.
 * Throws Interrupted, and whatever the stores throw, where another run has to go on. While intake is
 * stopped the job waits as a row, with nothing of it under way: else no drain would come to its end.
 */
export async function distribute(distributor: Distributor, jobId: string): Promise<void> {
  const { database } = distributor
  if (await waitsForIntake(database, jobId)) return
  if (!(await startJob(database, jobId))) return
  const run = (await takeDistribution(database, jobId))!
  try {
    const shop = await shopOf(distributor, run)
    if (!run.planned_at && !(await makePlan(distributor, run, shop.book)))
      return await endDistribution(database, run, { failed: 'pool-empty: its users are gone' })
    await writeUnseen(distributor, run, shop)
    const ended = await handOutAll(distributor, run, shop)
    failpoint('distribute.before-end')
    await endDistribution(database, run, ended)
  } catch (error) {
    // Another run has taken over and does the rest.
    if (error instanceof Overtaken) return
    if (!(error instanceof Interrupted && (await stepAside(database, run)))) throw error
  }
}

/** Writes the results that a distribution lacks which was cancelled, or failed, while it was under way. */
export async function settleEnded(distributor: Distributor, jobId: string): Promise<void> {
  const { database } = distributor
  try {
    const run = (await takeDistribution(database, jobId))!
    await writeUnseen(distributor, run, await shopOf(distributor, run))
    await endDistribution(database, run, 'over')
  } catch (error) {
    if (!(error instanceof Overtaken)) throw error
  }
}

async function shopOf({ database, store }: Distributor, run: Distribution): Promise<Shop> {
  const { shard, code_prefix: prefix } = (await getBook(database, run.book_id))!
  if (!(await store.place.opened(shard, gateMs)))
    throw new Interrupted(`shard ${shard} is shut: ${store.place.gates[shard]!.why}`)
  return { store, book: { shard, book: run.book_id }, prefix }
}

/** Results of what runs that died have given. */
async function writeUnseen(distributor: Distributor, run: Distribution, shop: Shop) {
  if (run.asked_epoch === null) return
  const { database, store } = distributor
  const { shard } = shop.book
  const [epoch, n] = (await store.place.redis.hmget(keys.meta(shard), 'epoch', 'n')).map(Number)
  await within(`the ledger does not follow on shard ${shard}`, async () => {
    const row = await shardRow(database, shard)
    const { checkpointEpoch: at, checkpoint } = row
    return row.phase === 'active' && (at > epoch! || (at === epoch && checkpoint >= n!))
  })
  const unseen = await givenUnseen(database, run, shard, keyPrefix(run.job_id))
  for (let u = 0; u < unseen.length; u += usersPerChunk)
    await settle(database, run, unseen.slice(u, u + usersPerChunk))
  failpoint('distribute.after-unseen')
  await forgetAsked(database, run)
}

/** Asks for all open shares, a few chunks ahead of the ledger, as long as the job is this run's. */
async function handOutAll(distributor: Distributor, run: Distribution, shop: Shop): Promise<Ended> {
  const { database, store } = distributor
  const gate = store.place.gates[shop.book.shard]!
  const size = Math.max(1, Math.min(usersPerChunk, Math.floor(factsPerChunk / run.largest)))
  const underWay = new Set<Promise<void>>()
  let failure: unknown
  let ended: Ended = 'done'
  try {
    for (let after: number | null = -1; after !== null && !failure && ended === 'done'; ) {
      const page = await openShares(database, run.job_id, after, size)
      after = page.next
      if (page.shares.length === 0) continue
      const begun = performance.now()
      if (!(await claim(database, run, { epoch: gate.epoch, n: gate.seen }))) {
        ended = 'over'
        break
      }
      failpoint('distribute.after-claim')
      const asked = await askShares(shop, run, page.shares, begun)
      failpoint('distribute.after-ask')
      if (asked.closed) ended = { failed: whyClosed(asked.closed) }
      failure = asked.failure && new Interrupted(asked.failure)
      const writing = writeResults(distributor, run, shop, asked)
        .catch((error) => {
          failure ??= error
        })
        .finally(() => underWay.delete(writing))
      underWay.add(writing)
      if (underWay.size >= chunksUnderWay) await Promise.race(underWay)
    }
  } finally {
    await Promise.all(underWay)
  }
  if (failure) throw failure
  return ended
}

const whyClosed = ({ problem }: Problem) => `${problem}: ${problemTitle(problem)}`

async function writeResults(
  { database }: Distributor,
  run: Distribution,
  { book }: Shop,
  { settled, facts }: Asked,
): Promise<void> {
  await confirmed(database, book.shard, facts)
  failpoint('distribute.before-results')
  await settle(database, run, settled)
  failpoint('distribute.after-results')
}

/** Waits until the ledger has the facts. One of each entry will do: an entry is there whole, or not at all. */
async function confirmed(database: Database, shard: number, facts: FactId[]): Promise<void> {
  const entries = new Map(facts.map((fact) => [`${fact.epoch}-${fact.n}`, fact]))
  const claims = [...entries.values()]
  if (claims.length === 0) return
  await within(`the ledger does not follow on shard ${shard}`, async () => {
    const standings = await confirmFacts(database, shard, claims)
    // Redis lost it before the ledger had it: it did not happen, and the next run asks again.
    if (standings.includes('absent')) throw new Interrupted('Redis lost what had been given')
    return standings.every((standing) => standing === 'held')
  })
}

async function within(otherwise: string, holds: () => Promise<boolean>): Promise<void> {
  const until = performance.now() + ledgerMs
  while (!(await holds())) {
    if (performance.now() > until) throw new Interrupted(otherwise)
    await sleep(lookMs)
  }
}
