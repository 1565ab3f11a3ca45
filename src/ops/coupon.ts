import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { pino } from 'pino'
import { failpoint } from '../failpoint.ts'
import { audit } from '../ledger/audit.ts'
import { confirmFacts } from '../ledger/confirm.ts'
import type { Database } from '../ledger/database.ts'
import { installationId, shardRows } from '../ledger/shards.ts'
import { type Problem, problem } from '../problems.ts'
import { openDirectory } from '../recovery/directory.ts'
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
    const log = pino({ level: 'silent' })
    const fitness = openFitness(place, database, { managed: where.managed, log })
    const begun = performance.now()
    while ((await openGatesOnce(place, database, fitness)) > 0) {
      const ms = performance.now() - begun
      if (!place.connected && ms > connectMs) throw new NotSent('Redis does not answer')
      if (ms > openMs) break
      await sleep(pollMs)
    }
    const store = openStore(place, { backlog: Number.MAX_SAFE_INTEGER }, () => {})
    return await act(store, database, wanted, by)
  } finally {
    place.close()
  }
}

async function act(
  store: Store,
  database: Database,
  { verb, subject }: Wanted,
  by: By,
): Promise<Done | Problem> {
  const code = verb === 'rollback' ? await store.findRedemption(subject) : subject
  if (code === undefined) return problem('redemption-not-found')
  const home = await openDirectory(store, database).bookOfCode(code)
  if ('problem' in home) return home
  const context = JSON.stringify({ actor: by.actor, request_id: `cli-${randomUUID()}` })
  const common = { code, key: '', hash: '', context }
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
  return { code, entry, durable: await isDurable(database, fact) }
}

async function isDurable(database: Database, fact: FactId): Promise<boolean> {
  for (const until = performance.now() + ledgerMs; performance.now() < until; await sleep(pollMs)) {
    const [standing] = await confirmFacts(database, fact.shard, [fact])
    if (standing === 'held') return true
  }
  return false
}
