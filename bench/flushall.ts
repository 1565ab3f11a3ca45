import { setTimeout as sleep } from 'node:timers/promises'
import { acknowledgedOf } from './answers.ts'
import { orderOf, takeSample } from './assign.ts'
import type { Bench } from './bench.ts'
import type { Book } from './client.ts'
import { keptOf, type Lost, reconcile, undecided } from './reconcile.ts'
import { type Round, runRound } from './round.ts'
import { type Target, target } from './targets.ts'

/** A FLUSHALL in mid-round. `lost` of a round at `redis` level: what was acknowledged, and is not so. */
export type FlushallReport = { rounds: Round[]; targets: Target[]; lost: Lost[] }

/** Few enough that no book is sold out before the end. */
const connections = 32

/**
 * FLUSHALL while autocannon assigns: how long is the longest time without an acknowledgement, and what
 * of the acknowledged is in the ledger? At `postgres` level all of it has to be; at `redis` level what
 * is not is listed, with whoever has the code now.
 */
export async function flushall(bench: Bench): Promise<FlushallReport> {
  const { options, client, say } = bench
  const rounds: Round[] = []
  const targets: Target[] = []
  const lost: Lost[] = []
  for (const [codes, level, withinMs] of [
    [options.driven, 'postgres', 10_000],
    [options.large, 'postgres', 30_000],
    [options.large, 'redis', 30_000],
  ] as const) {
    const book = await client.makeBook(`Flushed at ${level}`, codes)
    const name = `${codes.toLocaleString('en')} codes, ${level}`
    const made = await harmedRound(bench, book, name, level, () => bench.stores.redis.flushall())
    rounds.push(made.round)
    lost.push(...made.lost)
    targets.push(target(`no answer for, ms: ${name}`, made.round.pauseMs, 'at most', withinMs))
  }
  const passedOn = lost.filter(({ now }) => now !== null).length
  say(`lost at redis level: ${lost.length}; ${passedOn} of their codes are somebody else's now`)
  return { rounds, targets, lost }
}

/** A round of assignments with some harm done after a quarter of it, and what came of the acknowledged. */
export async function harmedRound(
  bench: Bench,
  book: Book,
  name: string,
  level: 'postgres' | 'redis',
  harm: () => Promise<unknown>,
): Promise<{ round: Round; lost: Lost[] }> {
  const { stores, client, options, pids, say } = bench
  const sample = await takeSample(bench)
  await stores.untilQuiet()
  const order = orderOf(bench, book.id, sample, { connections, seconds: options.flushedSeconds })
  order.headers = { ...order.headers, durability: level }
  const running = runRound(name, { url: client.assignUrl, ...order }, pids)
  await sleep(options.flushedSeconds * 250)
  await harm()
  const { acknowledged, ...round } = await running
  await stores.untilLevel(30_000)
  const told = acknowledgedOf(sample, acknowledged)
  const { kept, lost } = await keptOf(stores, book, told)
  round.differences = await reconcile(stores, book, {
    acknowledged: level === 'redis' ? kept : told,
    undecided: undecided(round.sent - round.answers, round.refused),
  })
  const of = Object.entries(round.refused).map(([code, count]) => `${count} x ${code}`)
  say(`${name}: ${round.accepted} acknowledged, ${lost.length} of them lost; ${of.join(', ')}`)
  for (const code of shut) delete round.refused[code]
  return { round, lost }
}

/** What whoever comes between the loss and the end of the recovery may be told. */
const shut = ['not-ready', 'not-durable', 'late', 'outcome-unknown']
