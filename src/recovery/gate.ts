import { failpoint } from '../failpoint.ts'
import type { Database } from '../ledger/database.ts'
import { type ShardRow, shardRow, suspectShard } from '../ledger/shards.ts'
import { keys } from '../store/keys.ts'
import { scriptNames, scriptSha } from '../store/lua.ts'
import type { Gate, Place } from '../store/place.ts'
import type { Fitness } from './fitness.ts'
import { judge, oldBackup } from './judge.ts'
import { healPushes } from './push.ts'

/**
 * One look at the checklist, which shuts all gates if it must, and at every shut gate: opens those
 * whose shard is level, tells the others why not. Returns how many are still shut. An API process
 * calls this in a loop; it never repairs.
 */
export async function openGatesOnce(
  place: Place,
  database: Database,
  fitness: Fitness,
): Promise<number> {
  const allShut = () => place.gates.filter((gate) => !gate.open)
  if (!place.connected) return allShut().length
  const unfit = await fitness.refusal()
  if (unfit) {
    for (const { shard } of place.gates) place.shut(shard, unfit)
    return place.gates.length
  }
  const shut = allShut()
  if (shut.length === 0) return 0
  const ready = await hasScripts(place)
  await Promise.all(shut.map((gate) => lookAt(place, database, gate, ready)))
  return shut.filter((gate) => !gate.open).length
}

/** Opens one gate, or says why not. `ready`: Redis has the scripts. */
async function lookAt(place: Place, database: Database, gate: Gate, ready: boolean): Promise<void> {
  const { shard } = gate
  const verdict = await judge(place, database, shard)
  if (verdict.is !== 'level') {
    gate.why = verdict.why
    // A new life of Redis the workers see themselves.
    if (verdict.is === 'lost' && verdict.cause !== 'restarted') await suspect(database, verdict)
    return
  }
  if (!ready) {
    gate.why = 'no worker has brought the scripts yet'
    return
  }
  // Whether policies are in force stands in PostgreSQL alone, and Redis has not lived anew since it went.
  if (!verdict.withoutPostgres) {
    const { damaged, behind, late } = await healPushes(place, database, shard)
    if (damaged) await suspect(database, { row: verdict.row, why: damaged })
    gate.why =
      damaged ??
      (behind && oldBackup(`Redis knows of ${behind}`)) ??
      (late ? 'no worker has brought the policies of its books yet' : '')
    if (gate.why) return
  }
  place.open(shard, verdict.state)
}

/** Only this process may have seen the damage: the workers learn of it through PostgreSQL. */
async function suspect(
  database: Database,
  { row, why }: { row: ShardRow; why: string },
): Promise<void> {
  if (row.phase !== 'active' || row.suspect) return
  failpoint('suspect.before-postgres')
  await suspectShard(database, row.shard, row.epoch, why).catch(() => {})
  failpoint('suspect.after-postgres')
}

/** A worker brings the verbs after its own check: opened before, the first call would be refused. */
export async function hasScripts({ redis }: Place): Promise<boolean> {
  const asked = redis.call('SCRIPT', 'EXISTS', ...scriptNames.map(scriptSha))
  // A user that may not ask finds out by calling.
  const there = await asked.catch(() => [1])
  return (there as number[]).every(Boolean)
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
      else if (verdict.state.intake !== verdict.row.intake)
        await mirrorIntake(place, database, shard, epoch).catch(() => {})
    }),
  )
}

/**
 * Intake stands in PostgreSQL; Redis, where it is decided by, follows. The word of a process that stood
 * still since it read the row is refused there: it could undo what others have been told since.
 */
async function mirrorIntake(
  place: Place,
  database: Database,
  shard: number,
  epoch: number,
): Promise<void> {
  const [seconds, micros] = (await place.redis.time()).map(Number) as [number, number]
  const at = seconds * 1000 + Math.floor(micros / 1000)
  const { intake } = await shardRow(database, shard)
  failpoint('intake.before-redis')
  await place.call('intake', [keys.meta(shard)], [epoch, intake, at])
  failpoint('intake.after-redis')
}
