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
  const sale = pace(client, { books, perSecond, userOf, forgets: true })
  sale.catch(() => {}) // heard below
  const live: number[] = []
  const spans: Record<'alone' | 'beside', Span[]> = { alone: [], beside: [] }
  const use: CompareReport['cores'] = { alone: {}, beside: {} }
  // By turns, as long as another one fits in: what a machine does now and then should meet both alike. The
  // book that is compared grows meanwhile, so that the first one alone is what was promised.
  do {
    const quiet = { from: sinceBegun(), cpu: cpuTimes(bench.pids) }
    await sleep(calmSeconds * 1_000)
    const busy = { from: sinceBegun(), cpu: cpuTimes(bench.pids) }
    live.push(await compared())
    const to = sinceBegun()
    // Without the second in which the connections are made, or what was left undone is made up for.
    spans.alone.push([quiet.from + 1, busy.from])
    spans.beside.push([busy.from, to])
    use.alone = cores(quiet.cpu, busy.cpu)
    use.beside = cores(busy.cpu, cpuTimes(bench.pids))
  } while (sinceBegun() + calmSeconds + Math.max(...live) < seconds)
  if (sinceBegun() > seconds)
    differences.push(`the sale of ${seconds} s was over before the comparison`)
  spans.alone.push([spans.beside.at(-1)![1] + 1, seconds])
  const { ms, refused } = await sale
  const alone = p99(ms, spans.alone, perSecond)
  const beside = spans.beside.map((span) => p99(ms, [span], perSecond))
  for (const [code, count] of Object.entries(refused)) differences.push(`${count} x ${code}`)
  say(
    `live at ${perSecond}/s: ${live.map((one) => one.toFixed(1)).join(', ')} s; ` +
      `p99 ${alone.toFixed(1)} ms alone, ${beside.map((one) => one.toFixed(1)).join(', ')} ms beside it`,
  )
  for (const [when, used] of Object.entries(use)) say(`cores, ${when}: ${told(used)}`)
  return {
    ...{ rounds: [round], differences, cores: use },
    targets: [
      target('exact comparison, s, median', median(exact), 'at most', 10),
      target('first live comparison during the sale, s', live[0]!, 'at most', 30),
      target('p99 of assign beside it / alone', beside[0]! / alone, 'at most', 2),
    ],
  }
}

/** Seconds of a sale, from and to. */
type Span = [number, number]

/** Of all requests that were due in these. */
function p99(ms: Float64Array, spans: Span[], perSecond: number): number {
  const some = spans.flatMap(([from, to]) => [...ms.slice(from * perSecond, to * perSecond)])
  return Float64Array.from(some).sort()[Math.ceil(some.length * 0.99) - 1] ?? Number.NaN
}

const cores = (before: CpuTimes | undefined, after: CpuTimes | undefined) =>
  before && after ? coresUsed(before, after) : {}

const told = (used: Record<string, number>) =>
  Object.entries(used)
    .map(([name, share]) => `${name} ${share.toFixed(2)}`)
    .join(', ')
