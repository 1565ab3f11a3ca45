import { keys } from '../../src/store/keys.ts'
import type { Loss } from './checker.ts'
import { type Town, until } from './town.ts'

/** Why the town is not level yet: somebody recovers, lags, or is not ready; undefined: it is. */
export async function notLevel(town: Town): Promise<string | undefined> {
  const { redis, database, shards, apis } = town
  try {
    const { rows } = await database.query<{ phase: string; epoch: number; checkpoint: number }>(
      'SELECT phase, epoch, checkpoint FROM shards ORDER BY shard',
    )
    for (let shard = 0; shard < shards; shard++) {
      const [phase, epoch, n, watermark] = await redis.hmget(
        keys.meta(shard),
        ...['phase', 'epoch', 'n', 'watermark'],
      )
      const row = rows[shard]!
      if (phase !== 'active' || row.phase !== 'active')
        return `shard ${shard} is ${phase}, ${row.phase}`
      if (Number(epoch) !== row.epoch)
        return `shard ${shard}: epoch ${epoch}, PostgreSQL ${row.epoch}`
      if (n !== watermark || Number(n) !== row.checkpoint)
        return `shard ${shard}: entry ${n}, watermark ${watermark}, checkpoint ${row.checkpoint}`
    }
    for (const { base, name, alive } of apis) {
      if (!alive()) return `${name} is dead`
      const answer = await fetch(`${base}/readyz`, { signal: AbortSignal.timeout(3_000) })
      if (!answer.ok) return `${name}: ${await answer.text()}`
    }
    return undefined
  } catch (error) {
    return (error as Error).message
  }
}

export async function level(town: Town, ms: number): Promise<void> {
  let why: string | undefined
  await until(
    async () => {
      why = await notLevel(town)
      return why === undefined
    },
    'everything is level',
    ms,
  ).catch((error: Error) => {
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
