import { inTime } from '../deadline.ts'
import { decodeEntry } from '../journal/entry.ts'
import type { Database } from '../ledger/database.ts'
import { lastReconciled } from '../ledger/reconciled.ts'
import type { Samples, Source } from '../metrics.ts'
import type { Queues } from '../queues.ts'
import { keys } from '../store/keys.ts'
import type { Gate, Place } from '../store/place.ts'

const silentMs = 800

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
  /** Needs no answer of anybody: it is there also while everything else is silent. */
  const gates = (): Samples => ({
    stampede_redis_up: [[{}, place.connected ? 1 : 0]],
    stampede_gate_open: place.gates.map(gateOf),
  })

  async function shards(): Promise<Samples> {
    const asked = place.gates.map(({ shard }) => lagOf(place, shard).catch(() => undefined))
    const lags = (await Promise.all(asked)).filter((lag) => lag !== undefined)
    return {
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
      stampede_redis_memory_limit_bytes: [[{}, bytes('maxmemory') || bytes('total_system_memory')]],
    }
  }

  async function ledger(): Promise<Samples> {
    const asked = Promise.all([
      database.query<{ parked: number; failed: number }>(
        `SELECT (SELECT count(*) FROM parked_facts)::int AS parked,
           (SELECT count(*) FROM jobs WHERE state = 'failed')::int AS failed`,
      ),
      database.query<{ shard: number; intake: string; flush: string }>(
        'SELECT shard, intake, flush FROM shards ORDER BY shard',
      ),
      lastReconciled(database),
    ])
    // A silent PostgreSQL is down, and that must be told before the scrape gives this source up.
    const found = await inTime(asked, silentMs, () => new Error('silent')).catch(() => undefined)
    if (!found) return { stampede_postgres_up: [[{}, 0]] }
    const [{ rows: counts }, { rows }, last] = found
    const reconciled: Samples = last
      ? {
          stampede_reconcile_differences: [[{}, last.differences]],
          stampede_undersold_codes: [[{}, last.undersold]],
          stampede_reconcile_age_seconds: [[{}, last.seconds]],
        }
      : {}
    return {
      ...reconciled,
      stampede_postgres_up: [[{}, 1]],
      stampede_parked_facts: [[{}, counts[0]!.parked]],
      stampede_failed_jobs: [[{}, counts[0]!.failed]],
      stampede_intake_open: rows.map(({ shard, intake }) => [{ shard }, intake === 'open' ? 1 : 0]),
      stampede_flush_running: rows.map(({ shard, flush }) => [
        { shard },
        flush === 'running' ? 1 : 0,
      ]),
    }
  }

  async function jobs(): Promise<Samples> {
    const counts = await queues.counts()
    return { stampede_jobs: counts.map(({ queue, state, count }) => [{ queue, state }, count]) }
  }
  return [gates, shards, memory, ledger, jobs]
}
