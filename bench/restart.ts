import type { Bench } from './bench.ts'
import { type FlushallReport, harmedRound } from './flushall.ts'
import { target } from './targets.ts'

/**
 * kill -9 of Redis while autocannon assigns, and the same Redis again on its append-only file: nothing is
 * lost, at `redis` level either, because a process that is killed takes nothing from the kernel.
 */
export async function restart(bench: Bench): Promise<FlushallReport> {
  const { options, client } = bench
  const book = await client.makeBook('Restarted', options.large)
  const name = `${options.large.toLocaleString('en')} codes, redis`
  const { round, lost } = await harmedRound(bench, book, name, 'redis', bench.restartRedis)
  for (const one of lost) round.differences.push(`lost: ${JSON.stringify(one)}`)
  return {
    ...{ rounds: [round], lost },
    targets: [target(`no answer for, ms: ${name}`, round.pauseMs, 'at most', 3_000)],
  }
}
