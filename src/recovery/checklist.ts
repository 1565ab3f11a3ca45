import { newest, type PostgresSettings } from '../ledger/settings.ts'
import type { RedisSettings } from '../store/settings.ts'

/**
 * What has to be set how, for our promises to hold. `refusal`: a promise would be void, so nothing is
 * served; `warning`: one is weaker; `note`: as it was chosen, and what that costs.
 */
export type Verdict = 'fine' | 'note' | 'warning' | 'refusal'
export type Item = {
  of: 'redis' | 'postgres' | 'clock' | 'shards'
  setting: string
  value: string
  verdict: Verdict
  /** What to do about it, or what it means; '' where all is well. */
  remedy: string
}

/** Above this the journal's growth in an outage of PostgreSQL may not fit any more. */
const memoryShareMax = 0.8
const clockWarnMs = 500
/** From here on an Idempotency-Key may be looked for in the wrong day, and not be found. */
const clockRefuseMs = 3_600_000

/** Makes items of one kind: fine unless `verdict` says otherwise. */
const items =
  (of: Item['of']) =>
  (
    setting: string,
    value: string | undefined,
    verdict: Verdict | false | undefined,
    remedy: string,
  ): Item => ({
    of,
    setting,
    value: value ?? 'hidden',
    verdict: verdict || 'fine',
    remedy: verdict ? remedy : '',
  })

const hidden =
  'let this user run INFO and CONFIG GET, or set REDIS_MANAGED=1: then only `postgres` durability is promised'

/**
 * Redis. `managed`: it belongs to a provider that hides settings, and only `postgres` durability is
 * promised; then what weakens the other level alone is no reason to refuse.
 */
export function judgeRedis(found: RedisSettings, managed: boolean): Item[] {
  const make = items('redis')
  /** An item whose value a managed Redis may hide, and no other. */
  const item: typeof make = (setting, value, verdict, remedy) =>
    value === undefined
      ? make(setting, value, managed ? 'note' : 'refusal', hidden)
      : make(setting, value, verdict, remedy)
  const { version, role, policy, memoryLimit } = found
  const share = memoryShare(found)
  return [
    item(
      'version',
      version,
      Number.parseInt(version ?? '', 10) < 7 && 'refusal',
      'use Redis 7.0 or later, or Valkey',
    ),
    item('role', role, role !== 'master' && 'refusal', 'REDIS_URL must name the master'),
    item(
      'maxmemory-policy',
      policy,
      policy !== 'noeviction' && 'refusal',
      'set it to noeviction, or Redis drops coupons when it is full',
    ),
    make(
      'used_memory',
      `${Math.round(share * 100)} % of ${memoryLimit ?? 'an unknown number of'} bytes`,
      share > memoryShareMax && 'warning',
      'raise maxmemory, or give the machine more: when it is full, everything is refused',
    ),
    ...judgeFile(found, managed, item),
  ]
}

/** Of the memory that Redis may use, how much it does: 0 to 1; 0 where it does not say. */
export const memoryShare = ({ memory, memoryLimit }: RedisSettings): number =>
  memory && memoryLimit ? memory / memoryLimit : 0

/** What becomes of an answer at `redis` durability when Redis or its machine goes down. */
function judgeFile(found: RedisSettings, managed: boolean, item: ReturnType<typeof items>): Item[] {
  const { appendOnly, appendFsync, noFsyncOnRewrite, lastWrite, lastRewrite } = found
  const policies: Record<string, [Verdict | false, remedy: string]> = {
    always: [false, ''],
    everysec: [
      'note',
      'a power failure loses up to 2 s of what was answered at `redis` durability; `always` loses nothing and is slower',
    ],
    no: [
      'warning',
      'set it to everysec: now a power failure loses all that the kernel had yet to write (some 30 s) of what was answered at `redis` durability',
    ],
  }
  return [
    item(
      'appendonly',
      appendOnly,
      appendOnly !== 'yes' && (managed ? 'warning' : 'refusal'),
      'set it to yes, or a restart of Redis forgets the sale',
    ),
    item('appendfsync', appendFsync, ...(policies[appendFsync ?? ''] ?? [false, ''])),
    item(
      'no-appendfsync-on-rewrite',
      noFsyncOnRewrite,
      noFsyncOnRewrite !== 'no' && 'warning',
      'set it to no: while Redis rewrites its file, nothing is synced',
    ),
    item(
      'aof_last_write_status',
      lastWrite ?? 'unknown',
      lastWrite === 'err' && 'refusal',
      'Redis cannot write its append-only file: is its disk full?',
    ),
    item(
      'aof_last_bgrewrite_status',
      lastRewrite ?? 'unknown',
      lastRewrite === 'err' && 'warning',
      'Redis could not rewrite its append-only file, which grows until it can: see its log',
    ),
  ]
}

/**
 * PostgreSQL. `begun`: this process has served under the schema already, so a newer one is that of a
 * rolling upgrade: migrations leave room for the version before them.
 */
export function judgePostgres(found: PostgresSettings, begun: boolean): Item[] {
  const item = items('postgres')
  const { version, standby, fsync, fullPageWrites, synchronousCommit, migration } = found
  const lost = 'set it to on, or what was answered at `postgres` durability may be lost'
  return [
    item(
      'version',
      found.versionText,
      version < 140_000 && 'refusal',
      'use PostgreSQL 14 or later',
    ),
    item(
      'role',
      standby ? 'standby' : 'primary',
      standby && 'refusal',
      'DATABASE_URL must name the primary',
    ),
    item('fsync', fsync, fsync !== 'on' && 'refusal', lost),
    item('full_page_writes', fullPageWrites, fullPageWrites !== 'on' && 'refusal', lost),
    item('synchronous_commit', synchronousCommit, synchronousCommit === 'off' && 'refusal', lost),
    migration > newest.when
      ? item(
          'migrations',
          `newer than ${newest.tag}`,
          begun ? 'note' : 'refusal',
          'start the version that made them: this one does not know what they changed',
        )
      : item(
          'migrations',
          migration === newest.when ? newest.tag : `older than ${newest.tag}`,
          migration < newest.when && 'refusal',
          'run `npm run migrate`',
        ),
  ]
}

export function judgeClocks(redis: RedisSettings, postgres: PostgresSettings): Item[] {
  const ahead = { redis: redis.now - redis.ours, postgres: postgres.now - postgres.ours }
  return Object.entries(ahead).map(([name, ms]) => {
    const off = Math.abs(ms)
    return items('clock')(
      `of ${name}`,
      `${Math.round(off)} ms ${ms < 0 ? 'behind' : 'ahead of'} ours`,
      off > clockRefuseMs ? 'refusal' : off > clockWarnMs && 'warning',
      'keep all machines on time (NTP): locks, opening times and logins go by these clocks',
    )
  })
}

/** `served`: how many shards this process was started for. */
export function judgeShards(
  served: number,
  { strayShards }: RedisSettings,
  { shards }: PostgresSettings,
): Item[] {
  const item = items('shards')
  const stray = strayShards.filter((shard) => shard >= shards)
  return [
    item(
      'in PostgreSQL',
      `${shards}, served ${served}`,
      shards < served ? 'refusal' : shards > served && 'warning',
      shards < served ? 'does DATABASE_URL name another installation?' : 'restart this process',
    ),
    item(
      'in Redis alone',
      stray.join(', ') || 'none',
      stray.length > 0 && 'refusal',
      'REDIS_URL and DATABASE_URL must name the same installation, and no other may use this Redis',
    ),
  ]
}

/** One line for people: whose setting, its value, and what to do. */
export const itemText = ({ of, setting, value, remedy }: Item): string =>
  `${of} ${setting} is ${value}${remedy && `: ${remedy}`}`
