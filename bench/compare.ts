import { setTimeout as sleep } from 'node:timers/promises'
import { setIntake } from '../src/ops/control.ts'
import { assignRound, takeSample } from './assign.ts'
import type { Bench } from './bench.ts'
import { type CpuTimes, coresUsed, cpuTimes } from './cpu.ts'
import { pace } from './pace.ts'
import type { Round } from './round.ts'
import { reconciled } from './stampede.ts'
import { median, type Target, target } from './targets.ts'

export type CompareReport = {
  rounds: Round[]
  targets: Target[]
  differences: string[]
  /** What the sale takes by itself, and with the comparison beside it, which is `others` and part of postgres. */
  cores: Record<'alone' | 'beside', Record<string, number>>
}

const by = { actor: 'bench', reason: 'an exact comparison' }
const userOf = (request: number) => `30000000-0000-4000-8000-${String(request).padStart(12, '0')}`

/**
 * `stampede reconcile`, as an operator types it, on a large book of which half is assigned: how long
 * does it take at rest, how long during a sale, and what does that sale notice of it?
 */
export async function compare(bench: Bench): Promise<CompareReport> {
  const { options, client, stores, say } = bench
  const book = await client.makeBook('Compared', options.large)
  const sample = await takeSample(bench)
  const round = await assignRound(bench, book, sample, { amount: options.large / 2 })
  await stores.untilLevel(60_000)
  await stores.untilQuiet()

  const differences: string[] = []
  async function compared(...more: string[]): Promise<number> {
    const begun = performance.now()
    differences.push(...(await reconciled(bench, ...more)))
    return (performance.now() - begun) / 1000
  }
  const exact: number[] = []
  // Only where nothing is taken in there is anything exact.
  await setIntake(stores, 'stopped', by)
  for (let r = 0; r < options.rounds; r++) exact.push(await compared('--exact'))
  await setIntake(stores, 'open', by)
  say(`exact: ${exact.map((seconds) => seconds.toFixed(1)).join(', ')} s`)

  const { saleSeconds: seconds, calmSeconds } = options
  // No more than are left.
  const perSecond = Math.min(options.salePace, Math.floor(options.large / 2 / seconds))
  const books = Array(perSecond * seconds).fill(book.id)
  const begun = performance.now()
  const sinceBegun = () => (performance.now() - begun) / 1000
  const sale = pace(client, { books, perSecond, userOf })
  sale.catch(() => {}) // heard below
  const calmFrom = cpuTimes(bench.pids)
  await sleep(calmSeconds * 1_000)
  const from = sinceBegun()
  const liveFrom = cpuTimes(bench.pids)
  const live = await compared()
  const liveTo = cpuTimes(bench.pids)
  const to = sinceBegun()
  const { ms, refused } = await sale
  const within = (a: number, b: number) => ms.slice(Math.floor(a * perSecond), b * perSecond)
  // Without the second in which the connections are made, and without what comes after the comparison.
  const alone = p99(within(1, from))
  const beside = p99(within(from, to))
  for (const [code, count] of Object.entries(refused)) differences.push(`${count} x ${code}`)
  if (to > seconds) differences.push(`the sale of ${seconds} s was over before the comparison`)
  say(
    `live at ${perSecond}/s: ${live.toFixed(1)} s; p99 ${alone.toFixed(1)} ms alone, ${beside.toFixed(1)} ms beside it`,
  )
  const use = { alone: cores(calmFrom, liveFrom), beside: cores(liveFrom, liveTo) }
  for (const [when, used] of Object.entries(use)) say(`cores, ${when}: ${told(used)}`)
  return {
    ...{ rounds: [round], differences, cores: use },
    targets: [
      target('exact comparison, s, median', median(exact), 'at most', 10),
      target('live comparison during the sale, s', live, 'at most', 30),
      target('p99 of assign beside it / alone', beside / alone, 'at most', 2),
    ],
  }
}

const p99 = (some: Float64Array) => some.toSorted()[Math.ceil(some.length * 0.99) - 1] ?? Number.NaN

const cores = (before: CpuTimes | undefined, after: CpuTimes | undefined) =>
  before && after ? coresUsed(before, after) : {}

const told = (used: Record<string, number>) =>
  Object.entries(used)
    .map(([name, share]) => `${name} ${share.toFixed(2)}`)
    .join(', ')
