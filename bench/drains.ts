import { setTimeout as sleep } from 'node:timers/promises'
import { isGenuine } from '../src/ops/certificate.ts'
import { setIntake } from '../src/ops/control.ts'
import { drain } from '../src/ops/drain.ts'
import { keys } from '../src/store/keys.ts'
import { acknowledgedOf } from './answers.ts'
import { orderOf, takeSample } from './assign.ts'
import type { Bench } from './bench.ts'
import { reconcile, undecided } from './reconcile.ts'
import { type Round, runRound } from './round.ts'
import type { Stores } from './stores.ts'
import { median, type Target, target } from './targets.ts'

export type DrainsReport = { rounds: Round[]; targets: Target[]; differences: string[] }

const connections = 32
const by = { actor: 'bench', reason: 'drains' }
/** How long the sale goes on before a drain, and is held after one. */
const openMs = 700
const heldMs = 300

/**
 * Drains again and again while autocannon assigns: is the certificate genuine and its verdict equal, does
 * no fact come after it while intake is stopped, and does the sale go on afterwards?
 */
export async function drains(bench: Bench): Promise<DrainsReport> {
  const { options, client, stores, pids, say } = bench
  const book = await client.makeBook('Drained', options.large)
  const sample = await takeSample(bench)
  await stores.untilQuiet()
  // Drains take their time: the load goes on until they are over, or for this long.
  const seconds = options.drains * 8
  const order = orderOf(bench, book.id, sample, { connections, seconds })
  const running = runRound('drains', { url: client.assignUrl, ...order }, pids)
  const differences: string[] = []
  const took: number[] = []
  for (let d = 1; d <= options.drains; d++) {
    await sleep(openMs)
    const served = await factsOf(stores)
    if (served === 0) differences.push(`drain ${d}: nothing was served before it`)
    const begun = performance.now()
    const drained = await drain(stores, { timeoutMs: 30_000, by })
    took.push(performance.now() - begun)
    if ('problem' in drained || drained.state !== 'drained') {
      differences.push(`drain ${d}: ${JSON.stringify(drained)}`)
      break
    }
    const { certificate } = drained
    if (certificate.verdict !== 'equal')
      differences.push(`drain ${d}: ${JSON.stringify(drained.reconciliation.differences[0])}`)
    if (!(await isGenuine(stores.database, certificate)))
      differences.push(`drain ${d}: the certificate does not verify`)
    await sleep(heldMs)
    for (const { shard, epoch, entry } of certificate.shards) {
      const [its, n] = await stores.redis.hmget(keys.meta(shard), 'epoch', 'n')
      if (Number(its) !== epoch || Number(n) !== entry)
        differences.push(`drain ${d}: shard ${shard} has ${its}-${n} after ${epoch}-${entry}`)
    }
    const before = await factsOf(stores)
    await setIntake(stores, 'open', by)
    const until = performance.now() + 5_000
    while ((await factsOf(stores)) === before && performance.now() < until) await sleep(20)
    if ((await factsOf(stores)) === before)
      differences.push(`drain ${d}: nothing is served after it`)
  }
  const { acknowledged, ...round } = await running
  round.differences = await reconcile(stores, book, {
    acknowledged: acknowledgedOf(sample, acknowledged),
    undecided: undecided(round.sent - round.answers, round.refused),
  })
  say(`${took.length} drains: median ${median(took).toFixed(0)} ms, ${round.accepted} acknowledged`)
  delete round.refused['intake-stopped'] // that is what a drain does
  return {
    ...{ rounds: [round], differences },
    targets: [
      target('drains with a genuine certificate', took.length, 'at least', options.drains),
      target('slowest drain, ms', Math.max(...took), 'at most', 30_000),
    ],
  }
}

async function factsOf({ redis, database }: Stores): Promise<number> {
  const { rows } = await database.query<{ shard: number }>('SELECT shard FROM shards')
  const all = await Promise.all(rows.map(({ shard }) => redis.hget(keys.meta(shard), 'facts')))
  return all.reduce((sum, facts) => sum + Number(facts), 0)
}
