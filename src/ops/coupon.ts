import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { failpoint } from '../failpoint.ts'
import type { Context } from '../journal/entry.ts'
import { audit } from '../ledger/audit.ts'
import { confirmFacts, type Standing } from '../ledger/confirm.ts'
import type { Database } from '../ledger/database.ts'
import { installationId, shardRows } from '../ledger/shards.ts'
import { openLog } from '../log.ts'
import { type Problem, problem } from '../problems.ts'
import { type Directory, openDirectory } from '../recovery/directory.ts'
import { openFitness } from '../recovery/fitness.ts'
import { openGatesOnce } from '../recovery/gate.ts'
import { NotSent, Place } from '../store/place.ts'
import { openStore, type Store } from '../store/store.ts'
import type { FactId } from '../store/verb.ts'
import type { By } from './control.ts'

/** How long to wait for Redis, for a gate to open, and then for the ledger. */
const connectMs = 1_500
const openMs = 2_500
const ledgerMs = 10_000
const pollMs = 50

/** `durable`: PostgreSQL holds it; otherwise it is done in Redis and the ledger is late. */
export type Done = { code: string; entry: string; durable: boolean }

type Where = { redisUrl: string; database: Database; managed: boolean }

/** `subject`: the code, or the redemption that is to be undone. */
export type Wanted = { verb: 'release' | 'void' | 'rollback'; subject: string }

/**
 * Does one verb of an administrator through the same gate and script as the API: puts an assigned
 * coupon back into stock, takes a code out of circulation, or undoes a redemption. Under the fence
 * like everything else, so it refuses where Redis cannot be vouched for.
 */
export async function actOnCoupon(where: Where, wanted: Wanted, by: By): Promise<Done | Problem> {
  const { database } = where
  const shards = await shardRows(database)
  const place = new Place(where.redisUrl, shards.length, 'cli', await installationId(database))
  try {
    const log = openLog('cli', 'silent')
    const fitness = openFitness(place, database, { managed: where.managed, log })
    const begun = performance.now()
    while ((await openGatesOnce(place, database, fitness)) > 0) {
      const ms = performance.now() - begun
      if (!place.connected && ms > connectMs) throw new NotSent('Redis does not answer')
      if (ms > openMs) break
      await sleep(pollMs)
    }
    const store = openStore(place, { backlog: Number.MAX_SAFE_INTEGER }, () => {})
    const directory = openDirectory(store, database)
    const context = { actor: by.actor, request_id: `cli-${randomUUID()}` }
    const shop = { store, directory, database }
    return await doOnCoupon(shop, wanted, by, { context, waitMs: ledgerMs })
  } finally {
    place.close()
  }
}

/** Whoever has a store whose gates are open. */
export type Shop = { store: Store; directory: Directory; database: Database }

/**
 * The same through a store that is there already, such as an API process' own. `context`: what the fact
 * is to remember of who asked; `waitMs`: how long the ledger may take.
 */
export async function doOnCoupon(
  { store, directory, database }: Shop,
  { verb, subject }: Wanted,
  by: By,
  { context, waitMs }: { context: Context; waitMs: number },
): Promise<Done | Problem> {
  const code = verb === 'rollback' ? await directory.codeOfRedemption(subject) : subject
  if (typeof code !== 'string') return code
  const home = await directory.bookOfCode(code)
  if ('problem' in home) return home
  const common = { code, key: '', hash: '', context: JSON.stringify(context) }
  const deed = { ...by, target: `coupon:${code}` }
  // Beforehand: whoever dies after the script cannot say any more why it was done.
  await audit(database, { ...deed, action: `coupon.${verb}.request` })
  const outcome =
    verb === 'rollback'
      ? await store.rollback(home, { ...common, redemption: subject })
      : await store[verb](home, common)
  if (!outcome.ok) return outcome
  const fact = outcome.fact!
  failpoint('coupon.after-redis')
  const entry = `${fact.shard}/${fact.epoch}-${fact.n}/${fact.i}`
  await audit(database, { ...deed, action: `coupon.${verb}`, detail: { entry } })
  const standing = await standingOf(database, fact, waitMs)
  if (standing === 'absent') {
    // The row above says that it was done in Redis, which has forgotten it since.
    await audit(database, { ...deed, action: `coupon.${verb}.lost`, detail: { entry } })
    return problem('not-durable')
  }
  return { code, entry, durable: standing === 'held' }
}

/** Where the fact stands once the ledger has passed its place; `open`: it has not within `waitMs`. */
async function standingOf(database: Database, fact: FactId, waitMs: number): Promise<Standing> {
  for (const until = performance.now() + waitMs; performance.now() < until; await sleep(pollMs)) {
    const [standing] = await confirmFacts(database, fact.shard, [fact])
    if (standing && standing !== 'open') return standing
  }
  return 'open'
}
