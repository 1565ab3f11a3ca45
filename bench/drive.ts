import { assignRound, takeSample } from './assign.ts'
import type { Bench } from './bench.ts'
import type { Round } from './round.ts'
import { type Target, target } from './targets.ts'

export type DriveReport = { rounds: Round[]; targets: Target[] }

/** A book sold out as fast as it goes: how long after the last answer is the ledger level? */
export async function drive(bench: Bench): Promise<DriveReport> {
  const { options, client, say } = bench
  const amount = options.driven
  const sample = await takeSample(bench)
  const warmUp = await client.makeBook('Warm-up', amount)
  await assignRound(bench, warmUp, sample, { seconds: options.warmUpSeconds })
  const rounds: Round[] = []
  for (let r = 1; r <= options.rounds; r++) {
    const book = await client.makeBook(`Drive ${r}`, amount)
    rounds.push(await assignRound(bench, book, sample, { amount }))
    say(`round ${r} of ${options.rounds}`)
  }
  // A round that never became level says so among its differences.
  const slowest = Math.max(...rounds.map(({ levelMs }) => levelMs ?? Number.POSITIVE_INFINITY))
  return { rounds, targets: [target('level after the last answer, ms', slowest, 'at most', 1_000)] }
}
