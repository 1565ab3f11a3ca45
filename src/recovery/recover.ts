import { randomUUID } from 'node:crypto'
import type { Logger } from 'pino'
import { failpoint } from '../failpoint.ts'
import { JournalForked } from '../journal/journal.ts'
import { apply } from '../ledger/apply.ts'
import type { Database } from '../ledger/database.ts'
import {
  beginRecovery,
  endRecovery,
  keepRecovering,
  learnMemory,
  Overtaken,
  type Recovered,
  type ShardRow,
  shardRow,
} from '../ledger/shards.ts'
import { keys } from '../store/keys.ts'
import { scriptNames, scriptSha, scriptText } from '../store/lua.ts'
import type { Place } from '../store/place.ts'
import { readBatch } from './batch.ts'
import type { Fitness } from './fitness.ts'
import { hasScripts } from './gate.ts'
import { type Cause, judge, oldBackup, readShard, type Verdict } from './judge.ts'
import { healPushes, type Pusher, pushPolicies } from './push.ts'
import { type Recovery, rebuild, Superseded } from './rebuild.ts'

/** What a worker needs to look at a shard and to recover it; none of them assigns anything. */
const beforehand = [
  'check',
  'recovering',
  'restore',
  'publish',
  'flushed',
  'intake',
  'book',
  'count',
]
const signOfLifeMs = 1_000
const entriesPerFlush = 200

/** Brings scripts into Redis. Only a worker does, and the verbs only after its check. */
async function loadScripts(place: Place, names: readonly string[]): Promise<void> {
  const there = (await place.redis.call('SCRIPT', 'EXISTS', ...names.map(scriptSha))) as number[]
  for (const [i, name] of names.entries())
    if (!there[i]) {
      await place.redis.call('SCRIPT', 'LOAD', scriptText(name))
      failpoint('recover.mid-load-scripts')
    }
}

/** Told when this process has ended a recovery. */
export type OnRecovered = (cause: Cause, ms: number) => void

/**
 * Looks after every shut gate once, as a worker: loads the scripts and opens where Redis has
 * everything the ledger has, recovers where it has not. Returns how many are still shut.
 */
export async function recoverOnce(
  place: Place,
  pusher: Pusher,
  log: Logger,
  fitness: Fitness,
  onRecovered: OnRecovered = () => {},
): Promise<number> {
  const allShut = () => place.gates.filter((gate) => !gate.open)
  if (!place.connected) return allShut().length
  // Open gates stay so: what was accepted is flushed all the same.
  const unfit = await fitness.refusal()
  // Whoever was loading them may have died in the middle: every worker that looks does the rest.
  if (allShut().length === 0 && !(await hasScripts(place))) place.shutAll('scripts are missing')
  const shut = allShut()
  if (shut.length === 0) return 0
  if (unfit) {
    for (const gate of shut) gate.why = unfit
    return shut.length
  }
  await loadScripts(place, beforehand)
  // Many at once: a shard that takes long to rebuild must not hold up those that are well. But each
  // holds a connection, and their signs of life need some, too.
  const atOnce = Math.max(1, (pusher.database.options.max ?? 10) - 3)
  const next = shut.values()
  await Promise.all(
    Array.from({ length: atOnce }, async () => {
      for (const { shard } of next)
        await lookAfter(place, pusher, log, shard, onRecovered).catch((error: Error) => {
          // Another worker was faster, or something broke on the way: the next look begins anew.
          if (error instanceof Overtaken || error instanceof Superseded) return
          // It may have been opened: shut, so that it is looked after once more.
          place.shut(shard, error.message)
          log.warn({ shard, err: error }, 'could not look after a shard')
        })
    }),
  )
  return shut.filter((gate) => !gate.open).length
}

/**
 * Looks at the policies and loads of shards that serve: a Redis that was demoted, synced from its
 * replica and promoted again may lack some of them, though every entry is there and nobody was fenced.
 */
export async function healOnce(place: Place, database: Database, log: Logger): Promise<void> {
  for (const { shard, open } of place.gates) {
    if (!open) continue
    const { damaged, behind } = await healPushes(place, database, shard)
    const why = damaged ?? (behind && oldBackup(`Redis knows of ${behind}`))
    if (!why) continue
    log.error({ shard }, `shut: ${why}`)
    place.shut(shard, why) // whoever looks after shut gates knows what to do
  }
}

async function lookAfter(
  place: Place,
  pusher: Pusher,
  log: Logger,
  shard: number,
  onRecovered: OnRecovered,
): Promise<void> {
  const { database } = pusher
  const gate = place.gates[shard]!
  const at = place.connection
  let verdict = await soundVerdict(place, database, shard)
  if (verdict.is === 'lost') {
    log.warn({ shard, epoch: verdict.row.epoch }, `recovering: ${verdict.why}`)
    gate.why = `a worker recovers it: ${verdict.why}`
    const begun = performance.now()
    const ended = await recover(place, database, verdict.row, verdict.why, log)
    if (ended) onRecovered(verdict.cause, performance.now() - begun)
    verdict = await soundVerdict(place, database, shard)
  }
  // A Redis that went away meanwhile may come back with less than the verdict was about.
  if (!place.connected || place.connection !== at) return
  if (verdict.is === 'level') {
    // For pushes only: no coupon may move before the policies are those that were acknowledged. The API
    // looks for itself, because another shard may have got it its scripts.
    const { row, state } = verdict
    if (row.memoryEpoch !== row.epoch && state.memory)
      await learnMemory(database, row, state.memory)
    place.admit(shard, state)
    const inForce = await pushPolicies(pusher, shard)
    // A connection that broke meanwhile has shut it again.
    if (!inForce || !gate.pushable) return
    place.open(shard, state)
    await loadScripts(place, scriptNames)
    failpoint('recover.after-load-scripts')
  } else {
    if (gate.why !== verdict.why) log.error({ shard }, `shut: ${verdict.why}`)
    gate.why = verdict.why
  }
}

/** The verdict on a shard, with what only a look at every book can tell. */
async function soundVerdict(place: Place, database: Database, shard: number): Promise<Verdict> {
  const verdict = await judge(place, database, shard)
  if (verdict.is !== 'level') return verdict
  const { damaged, behind } = await healPushes(place, database, shard)
  if (behind) return { is: 'wait', why: oldBackup(`Redis knows of ${behind}`) }
  return damaged ? { is: 'lost', row: verdict.row, cause: 'damaged', why: damaged } : verdict
}

/**
 * Takes one shard through a recovery: a new epoch, so that nothing of the old one is accepted any
 * more; what the journal has beyond the checkpoint goes to the ledger; where Redis is not whole, it
 * is made anew from the ledger; then it serves again. Killed on any line, another worker begins again
 * under a higher epoch. False if another one was faster; throws Overtaken or Superseded when another
 * one took over meanwhile.
 */
async function recover(
  place: Place,
  database: Database,
  row: ShardRow,
  cause: string,
  log: Logger,
): Promise<boolean> {
  const { shard } = row
  const begun = performance.now()
  const at = place.connection
  const recovery: Recovery = {
    shard,
    epoch: 1 + Math.max(row.epoch, await highestEpoch(place, shard)),
    token: randomUUID(),
  }
  const { epoch, token } = recovery
  failpoint('recover.before-begin')
  if (!(await beginRecovery(database, row, epoch, token, cause))) return false
  failpoint('recover.after-begin')
  let overtaken: Overtaken | undefined
  const alive = setInterval(() => {
    // A sign that did not get through is no reason to stop: whoever took over is noticed below.
    keepRecovering(database, shard, token).catch((error: Error) => {
      if (error instanceof Overtaken) overtaken = error
    })
  }, signOfLifeMs)
  try {
    const state = await readShard(place, shard, '')
    const taken = await place.call('recovering', [keys.meta(shard)], [epoch, token])
    if (taken !== 'begun') throw new Superseded(`shard ${shard}: ${taken}`)
    failpoint('recover.after-recovering')
    // Nobody writes any more: what is here now is all there will be.
    const here = await readShard(place, shard, '')
    const did: Recovered = { flushed: 0, rebuilt: false, codes: 0, coupons: 0 }
    const rest = await flushRest(place, database, await shardRow(database, shard), log)
    did.flushed = rest.facts
    failpoint('recover.after-flush-rest')
    // Only the end of the journal may be missing, or nothing at all: then Redis is as it was at its
    // last entry, because each entry is written together with what it did.
    const intact =
      row.phase === 'active' &&
      state?.epoch === row.epoch &&
      state.phase === 'active' &&
      here?.whole &&
      here.n === rest.checkpoint
    if (!intact || rest.forked || row.lossAccepted || cause.startsWith('damaged'))
      Object.assign(did, { rebuilt: true }, await rebuild(place, database, recovery))
    if (overtaken) throw overtaken
    const { facts, intake } = await shardRow(database, shard)
    failpoint('recover.before-publish')
    const published = await place.call(
      'publish',
      [keys.meta(shard), keys.coupons(shard), keys.redemptions(shard), keys.journal(shard)],
      // Made anew, it knows nothing of the calls of earlier epochs.
      [epoch, token, facts, intake, did.rebuilt ? epoch : state!.calls],
    )
    if (published === 'damaged')
      throw new Error(`shard ${shard}: Redis lost its coupons while it was being recovered`)
    if (published !== 'published') throw new Superseded(`shard ${shard}: ${published}`)
    failpoint('recover.after-publish')
    // A Redis that was restarted on the way may have forgotten the beginning of this: once more.
    const { memory = '' } = (await readShard(place, shard, '')) ?? {}
    if (place.connection !== at || (here && here.memory !== memory))
      throw new Error(`shard ${shard}: Redis went away while it was being recovered`)
    await endRecovery(database, shard, epoch, token, memory, did)
    failpoint('recover.after-end')
    const ms = Math.round(performance.now() - begun)
    log.info({ shard, epoch, cause, ...did, ms }, 'a shard was recovered')
    return true
  } finally {
    clearInterval(alive)
  }
}

/** The highest epoch Redis knows of: PostgreSQL may come from a backup and must not repeat one. */
async function highestEpoch(place: Place, shard: number): Promise<number> {
  const meta = await place.redis.hget(keys.meta(shard), 'epoch')
  const [last] = await place.redis.xrevrange(keys.journal(shard), '+', '-', 'COUNT', 1)
  return Math.max(Number(meta ?? 0), Number(last?.[0].split('-')[0] ?? 0))
}

/**
 * Brings what the journal has beyond the checkpoint into the ledger. `forked`: the journal is not
 * the one that the checkpoint was taken of, or breaks off; what follows the break is lost.
 */
async function flushRest(
  place: Place,
  database: Database,
  start: ShardRow,
  log: Logger,
): Promise<{ facts: number; checkpoint: number; forked: boolean }> {
  let row = start
  try {
    for (;;) {
      const batch = await readBatch(place, row, entriesPerFlush)
      const { checkpoint } = row
      if (!batch) return { facts: row.facts - start.facts, checkpoint, forked: false }
      await apply(database, row, batch.entries, batch.hash)
      failpoint('recover.mid-flush-rest')
      const { n, hash } = batch
      const facts = row.facts + batch.facts
      row = { ...row, checkpoint: n, checkpointHash: hash, facts }
    }
  } catch (error) {
    if (!(error instanceof JournalForked)) throw error
    log.warn({ shard: row.shard }, error.message)
    return { facts: row.facts - start.facts, checkpoint: row.checkpoint, forked: true }
  }
}
