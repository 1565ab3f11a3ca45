import { decodeEntry } from '../journal/entry.ts'
import type { Database } from '../ledger/database.ts'
import type { Samples, Source } from '../metrics.ts'
import type { Queues } from '../queues.ts'
import { keys } from '../store/keys.ts'
import type { Gate, Place } from '../store/place.ts'

type Lag = { shard: number; epoch: number; facts: number; seconds: number }

/** How far the ledger is behind a shard; undefined: Redis knows nothing of it. */
async function lagOf({ redis }: Place, shard: number): Promise<Lag | undefined> {
  const fields = ['epoch', 'n', 'watermark', 'facts', 'flushed']
  const meta = await redis.hmget(keys.meta(shard), ...fields)
  if (meta.includes(null)) return undefined
  const [epoch, n, watermark, facts, flushed] = meta.map(Number) as [
    number,
    number,
    number,
    number,
    number,
  ]
  const lag = { shard, epoch, facts: facts - flushed, seconds: 0 }
  if (n <= watermark) return lag
  const next = `${epoch}-${watermark + 1}`
  const [[oldest], [seconds, micros]] = await Promise.all([
    redis.xrange(keys.journal(shard), next, next),
    redis.time(),
  ])
  if (!oldest) return lag
  const { at } = decodeEntry(...oldest)
  return { ...lag, seconds: Math.max(0, Number(seconds) + Number(micros) / 1e6 - at / 1000) }
}

const gateOf = ({ shard, open }: Gate) => [{ shard }, open ? 1 : 0] as const

/**
 * What Redis, PostgreSQL and BullMQ say of the shards now. Every process tells it, so that no single
 * one has to be alive for it: across processes take the maximum.
 */
export function gauges(place: Place, database: Database, queues: Pick<Queues, 'counts'>): Source[] {
  async function shards(): Promise<Samples> {
    const gates = place.gates.map(gateOf)
    const up = [[{}, place.connected ? 1 : 0] as const]
    const asked = place.gates.map(({ shard }) => lagOf(place, shard).catch(() => undefined))
    const lags = (await Promise.all(asked)).filter((lag) => lag !== undefined)
    return {
      stampede_redis_up: up,
      stampede_gate_open: gates,
      stampede_shard_epoch: lags.map(({ shard, epoch }) => [{ shard }, epoch]),
      stampede_lag_facts: lags.map(({ shard, facts }) => [{ shard }, facts]),
      stampede_lag_seconds: lags.map(({ shard, seconds }) => [{ shard }, seconds]),
    }
  }

  async function memory(): Promise<Samples> {
    const info = await place.redis.info('memory')
    const bytes = (name: string) => Number(new RegExp(`^${name}:(\\d+)`, 'm').exec(info)?.[1])
    return {
      stampede_redis_memory_bytes: [[{}, bytes('used_memory')]],
      stampede_redis_memory_limit_bytes: [[{}, bytes('maxmemory')]],
    }
  }

  async function ledger(): Promise<Samples> {
    const parked = await database
      .query<{ count: number }>('SELECT count(*)::int FROM parked_facts')
      .then(({ rows }) => rows[0]!.count)
      .catch(() => undefined)
    if (parked === undefined) return { stampede_postgres_up: [[{}, 0]] }
    return { stampede_postgres_up: [[{}, 1]], stampede_parked_facts: [[{}, parked]] }
  }

  async function jobs(): Promise<Samples> {
    const counts = await queues.counts()
    return { stampede_jobs: counts.map(({ queue, state, count }) => [{ queue, state }, count]) }
  }
  return [shards, memory, ledger, jobs]
}
