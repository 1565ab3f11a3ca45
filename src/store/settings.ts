import type { Redis } from 'ioredis'
import { keys } from './keys.ts'

/** What Redis says of itself. Undefined: it does not say, as managed ones do of some things. */
export type RedisSettings = {
  version: string | undefined
  role: string | undefined
  policy: string | undefined
  appendOnly: string | undefined
  appendFsync: string | undefined
  noFsyncOnRewrite: string | undefined
  lastWrite: string | undefined
  lastRewrite: string | undefined
  memory: number | undefined
  /** maxmemory, or all that the machine has where there is none. */
  memoryLimit: number | undefined
  /** Shards beyond the ones that PostgreSQL lists: they are of another installation, or forgotten. */
  strayShards: number[]
  /** Its clock, and ours at the same moment, in ms. */
  now: number
  ours: number
}

/** More shards than this there cannot be: see SHARDS in src/config.ts. */
const shardsMax = 64

/** Asks Redis for everything that the checklist wants to know of it. */
export async function redisSettings(redis: Redis, shards: number): Promise<RedisSettings> {
  const beyond = Array.from({ length: shardsMax - shards }, (_, s) => shards + s)
  const sent = Date.now()
  const [time, info, config, present] = await Promise.all([
    redis.time().then((clock) => ({ clock, ours: (sent + Date.now()) / 2 })),
    redis.info(),
    // Refused by managed ones, and to users that lack the right.
    configOf(redis).catch(() => new Map<string, string>()),
    Promise.all(beyond.map((shard) => redis.exists(keys.meta(shard)))),
  ])
  const field = (name: string) =>
    new RegExp(`^${name}:(.*?)\\r?$`, 'm').exec(info)?.[1] || undefined
  const bytes = (name: string) => Number(field(name)) || undefined
  const [seconds, micros] = time.clock
  return {
    version: field('redis_version'),
    role: field('role'),
    policy: field('maxmemory_policy'),
    appendOnly: { 0: 'no', 1: 'yes' }[field('aof_enabled') ?? ''],
    appendFsync: config.get('appendfsync'),
    noFsyncOnRewrite: config.get('no-appendfsync-on-rewrite'),
    lastWrite: field('aof_last_write_status'),
    lastRewrite: field('aof_last_bgrewrite_status'),
    memory: bytes('used_memory'),
    memoryLimit: bytes('maxmemory') ?? bytes('total_system_memory'),
    strayShards: beyond.filter((_, s) => present[s]),
    now: Number(seconds) * 1000 + Number(micros) / 1000,
    ours: time.ours,
  }
}

async function configOf(redis: Redis): Promise<Map<string, string>> {
  const flat = (await redis.config('GET', '*appendfsync*')) as string[]
  const pairs = new Map<string, string>()
  for (let f = 0; f < flat.length; f += 2) pairs.set(flat[f]!, flat[f + 1]!)
  return pairs
}
