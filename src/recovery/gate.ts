import type { Database } from '../ledger/database.ts'
import { suspectShard } from '../ledger/shards.ts'
import { keys } from '../store/keys.ts'
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
      else gate.why = verdict.why
      // Only this process may have seen the damage: the workers learn of it through PostgreSQL.
      if (verdict.is === 'lost' && verdict.row.phase === 'active' && !verdict.row.suspect)
        await suspectShard(database, gate.shard, verdict.row.epoch, verdict.why).catch(() => {})
    }),
  )
  return shut.filter((gate) => !gate.open).length
}

/** Shuts the open gates of shards that are not level any more, so that somebody looks after them. */
export async function shutGatesOnce(place: Place, database: Database): Promise<void> {
  if (!place.connected) return
  const open = place.gates.filter((gate) => gate.open)
  await Promise.all(
    open.map(async ({ shard, epoch }) => {
      const verdict = await judge(place, database, shard)
      const same = verdict.is === 'level' && verdict.state.epoch === epoch
      if (!same) place.shut(shard, verdict.is === 'level' ? 'a new epoch has begun' : verdict.why)
      // Intake stands in PostgreSQL; Redis, where it is decided by, follows.
      else if (verdict.state.intake !== verdict.row.intake)
        await place.call('intake', [keys.meta(shard)], [epoch, verdict.row.intake]).catch(() => {})
    }),
  )
}
