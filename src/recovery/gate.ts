import type { Database } from '../ledger/database.ts'
import type { Place } from '../store/place.ts'
import { judge, unfitRedis } from './judge.ts'

/**
 * One look at every shut gate: opens those whose shard is level, tells the others why not.
 * Returns how many are still shut. An API process calls this in a loop; it never repairs.
 */
export async function openGatesOnce(place: Place, database: Database): Promise<number> {
  const shut = place.gates.filter((gate) => !gate.open)
  if (shut.length === 0 || !place.connected) return shut.length
  const unfit = await unfitRedis(place).catch((error: Error) => `Redis: ${error.message}`)
  await Promise.all(
    shut.map(async (gate) => {
      if (unfit) {
        gate.why = unfit
        return
      }
      const verdict = await judge(place, database, gate.shard)
      if (verdict.is === 'level') place.open(gate.shard, verdict.state.epoch, verdict.state.n)
      else if (verdict.is === 'new')
        gate.why = 'a new installation: waiting for a worker to begin it'
      else gate.why = verdict.why
    }),
  )
  return shut.filter((gate) => !gate.open).length
}
