import { keys } from '../../src/store/keys.ts'
import type { Loss } from './checker.ts'
import { type Town, until } from './town.ts'

/** On a crowded machine whoever asks queues behind the crowd: late is not the same as no. */
const patienceMs = 15_000

type Row = { phase: string; epoch: number; checkpoint: number }

/** Why the town does not serve yet: somebody recovers or is not ready; undefined: it does. */
export async function notServing(town: Town): Promise<string | undefined> {
  return look(town, async (rows) => {
    for (const [shard, row] of rows.entries()) {
      const [phase, epoch] = await town.redis.hmget(keys.meta(shard), 'phase', 'epoch')
      if (phase !== 'active' || row.phase !== 'active')
        return `shard ${shard} is ${phase}, ${row.phase}`
      if (Number(epoch) !== row.epoch)
        return `shard ${shard}: epoch ${epoch}, PostgreSQL ${row.epoch}`
    }
    for (const { base, name, alive } of town.apis) {
      if (!alive()) return `${name} is dead`
      const answer = await fetch(`${base}/readyz`, { signal: AbortSignal.timeout(patienceMs) })
      if (!answer.ok) return `${name}: ${await answer.text()}`
    }
    return undefined
  })
}

/** Why the town is not level yet: it does not serve, or the ledger lags; undefined: it is. */
export async function notLevel(town: Town): Promise<string | undefined> {
  return look(town, async (rows) => {
    for (const [shard, { checkpoint }] of rows.entries()) {
      const [n, watermark] = await town.redis.hmget(keys.meta(shard), 'n', 'watermark')
      if (n !== watermark || Number(n) !== checkpoint)
        return `shard ${shard}: entry ${n}, watermark ${watermark}, checkpoint ${checkpoint}`
    }
    return notServing(town)
  })
}

/** What cannot be asked is a reason as well. */
async function look(
  { database }: Town,
  reason: (rows: Row[]) => Promise<string | undefined>,
): Promise<string | undefined> {
  try {
    const sql = 'SELECT phase, epoch, checkpoint FROM shards ORDER BY shard'
    return await reason((await database.query<Row>(sql)).rows)
  } catch (error) {
    return (error as Error).message
  }
}

/** Waits until the town serves; throws with the reason why not. */
export const serving = (town: Town, ms: number) => gone(() => notServing(town), 'it serves', ms)

/** Waits until the town is level; throws with the reason why not. */
export const level = (town: Town, ms: number) => gone(() => notLevel(town), 'it is level', ms)

async function gone(reason: () => Promise<string | undefined>, what: string, ms: number) {
  let why: string | undefined
  const holds = async () => {
    why = await reason()
    return why === undefined
  }
  await until(holds, what, ms).catch((error: Error) => {
    throw new Error(`${error.message}; ${why}`)
  })
}

/** The epochs that the shards are in now: what a loss of memory at this moment ends. */
export async function epochs(town: Town): Promise<number[]> {
  const all = Array.from({ length: town.shards }, (_, shard) => shard)
  return Promise.all(
    all.map(async (shard) => Number(await town.redis.hget(keys.meta(shard), 'epoch'))),
  )
}

/** The epochs in which shards serve, by both stores' word; 0: one of them does not. */
export async function activeEpochs(town: Town): Promise<number[]> {
  const { rows } = await town.database.query<{ epoch: number; phase: string }>(
    'SELECT epoch, phase FROM shards ORDER BY shard',
  )
  return Promise.all(
    rows.map(async (row, shard) => {
      const [epoch, phase] = await town.redis.hmget(keys.meta(shard), 'epoch', 'phase')
      const serves = row.phase === 'active' && phase === 'active' && Number(epoch) === row.epoch
      return serves ? row.epoch : 0
    }),
  )
}

/** Redis' own clock in milliseconds. */
export async function redisTime(town: Town): Promise<number> {
  const [seconds, micros] = await town.redis.time()
  return Number(seconds) * 1000 + Math.floor(Number(micros) / 1000)
}

/** Has `damage` done to some shards, and notes when each lost its memory. */
export async function lose(
  town: Town,
  shards: number[],
  damage: () => Promise<unknown>,
): Promise<Loss[]> {
  const before = await epochs(town)
  await damage()
  const at = await redisTime(town)
  return shards.map((shard) => ({ shard, epoch: before[shard]!, at }))
}

/** Epoch and last entry of every shard: the same twice, nothing was written in between. */
export async function heads(town: Town): Promise<string[]> {
  const all = Array.from({ length: town.shards }, (_, shard) => shard)
  return Promise.all(
    all.map(async (shard) => (await town.redis.hmget(keys.meta(shard), 'epoch', 'n')).join('-')),
  )
}
