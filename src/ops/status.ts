import { setTimeout as sleep } from 'node:timers/promises'
import type { Redis } from 'ioredis'
import { inTime } from '../deadline.ts'
import { decodeEntry } from '../journal/entry.ts'
import type { Database } from '../ledger/database.ts'
import { type ProcessRow, processRows } from '../ledger/processes.ts'
import { shardRows } from '../ledger/shards.ts'
import { type Item, itemText } from '../recovery/checklist.ts'
import { judge, withoutMemory } from '../recovery/judge.ts'
import { keys } from '../store/keys.ts'
import { connection, doctor } from './doctor.ts'
import { answerOf, type Ops } from './ops.ts'

/** Longer than this nobody waits for either store: what did not answer is the answer. */
const patienceMs = 2_000
/** Facts that wait longer than this for the ledger are a problem. */
const lagSeconds = 5
const memoryShare = 0.8
/** The rates of assignments and of memory are taken over this long. */
const rateMs = 500

export type ShardStatus = {
  shard: number
  epoch: number
  phase: string
  intake: string
  flush: string
  /** null: unknown. */
  serves: boolean | null
  /** Why it does not serve, in the words of /readyz, or why that is unknown. */
  reason: string | null
  /** Facts in the journal that the ledger does not have, and for how long the oldest has waited; null: unknown. */
  lag: number | null
  oldest_seconds: number | null
  /** At the present rate, and with a flush that stands still; null: nothing comes, or it is unknown. */
  seconds_until_backlog: number | null
}

export type Status = {
  /** What somebody should look at, the most urgent first; empty: all is well. */
  problems: string[]
  redis: {
    up: boolean
    memory: number | null
    memory_limit: number | null
    /** At the present rate; null: it does not grow, or it is unknown. */
    seconds_until_full: number | null
    reason: string | null
  }
  postgres: { up: boolean; reason: string | null }
  processes: Omit<ProcessRow, 'process_id'>[]
  shards: ShardStatus[]
  parked_facts: number | null
  failed_jobs: number | null
}

/** `backlog`: BACKLOG_FACTS, the facts a shard may be ahead of the ledger; `managed`: REDIS_MANAGED. */
export type Limits = { backlog: number; managed: boolean }

/**
 * How the installation is, from both stores' own word; what does not answer within 2 s is a problem
 * like another.
 */
export async function status(ops: Ops, { backlog, managed }: Limits): Promise<Status> {
  const { redis, database } = ops
  const [memory, ledger, checklist] = await Promise.all([
    asked(answerOf(redis, memoryOf(redis))),
    asked(ofPostgres(database)),
    asked(doctor(ops, managed)),
  ])
  const [shards, growth] = await Promise.all([
    shardsOf(ops, ledger, memory, backlog),
    'value' in memory ? growthOf(redis, memory.value) : null,
  ])
  const found = {
    redis: {
      ...{ up: 'value' in memory, reason: 'why' in memory ? memory.why : null },
      memory: 'value' in memory ? memory.value.used : null,
      memory_limit: 'value' in memory ? memory.value.limit : null,
      seconds_until_full: growth,
    },
    postgres: { up: 'value' in ledger, reason: 'why' in ledger ? ledger.why : null },
    processes: 'value' in ledger ? ledger.value.processes : [],
    shards,
    parked_facts: 'value' in ledger ? ledger.value.parked : null,
    failed_jobs: 'value' in ledger ? ledger.value.failed : null,
  }
  return { problems: problemsOf(found, 'value' in checklist ? checklist.value : []), ...found }
}

type Answer<T> = { value: T } | { why: string }

/** The answer, or why there is none. */
const asked = <T>(answer: Promise<T>): Promise<Answer<T>> =>
  inTime(answer, patienceMs, () => new Error(`no answer in ${patienceMs} ms`)).then(
    (value) => ({ value }),
    (error: Error) => ({ why: error.message || String(error) }),
  )

type Memory = { used: number; limit: number | null; at: number }

async function memoryOf(redis: Redis): Promise<Memory> {
  const info = await redis.info()
  const bytes = (name: string) => Number(new RegExp(`^${name}:(\\d+)`, 'm').exec(info)?.[1] ?? 0)
  const limit = bytes('maxmemory') || bytes('total_system_memory') || null
  return { used: bytes('used_memory'), limit, at: performance.now() }
}

/** Seconds until Redis is full, if it goes on growing as it does now. */
async function growthOf(redis: Redis, before: Memory): Promise<number | null> {
  await sleep(rateMs)
  const again = await asked(memoryOf(redis))
  if (!('value' in again) || again.value.limit === null) return null
  const { used, limit, at } = again.value
  const perSecond = ((used - before.used) / (at - before.at)) * 1000
  return perSecond > 0 ? Math.round(Math.max(0, limit - used) / perSecond) : null
}

async function ofPostgres(database: Database) {
  const [rows, processes, counts] = await Promise.all([
    shardRows(database),
    processRows(database),
    database.query<{ parked: number; failed: number }>(
      `SELECT (SELECT count(*) FROM parked_facts)::int AS parked,
         (SELECT count(*) FROM jobs WHERE state = 'failed')::int AS failed`,
    ),
  ])
  return {
    ...{ rows, ...counts.rows[0]! },
    processes: processes.map(({ process_id: _, ...shown }) => shown),
  }
}

type Ledger = Awaited<ReturnType<typeof ofPostgres>>

async function shardsOf(
  ops: Ops,
  ledger: Answer<Ledger>,
  memory: Answer<unknown>,
  backlog: number,
): Promise<ShardStatus[]> {
  if (!('value' in ledger)) return []
  const { rows } = ledger.value
  const looks = await Promise.all(
    rows.map(async ({ shard }) =>
      'why' in memory
        ? { ...unknown, serves: null, reason: memory.why }
        : lookAt(ops, rows.length, shard),
    ),
  )
  return rows.map(({ shard, epoch, phase, intake, flush }, r) => {
    const { serves, reason, lag, oldest, perSecond } = looks[r]!
    const left = lag !== null && perSecond ? Math.max(0, backlog - lag) / perSecond : null
    return {
      ...{ shard, epoch, phase, intake, flush, serves, reason, lag },
      oldest_seconds: oldest,
      seconds_until_backlog: left === null ? null : Math.round(left),
    }
  })
}

type Look = { lag: number | null; oldest: number | null; perSecond: number | null }
const unknown: Look = { lag: null, oldest: null, perSecond: null }

/** A shard by the word of both stores: whether it may serve, and how far the ledger has followed. */
async function lookAt({ redis, database }: Ops, shards: number, shard: number) {
  const [verdict, look] = await Promise.all([
    asked(judge(withoutMemory(redis, shards), database, shard)),
    asked(ratesOf(redis, shard)),
  ])
  const found = 'value' in look ? look.value : unknown
  if ('why' in verdict) return { ...found, serves: null, reason: verdict.why }
  if (verdict.value.is !== 'level') return { ...found, serves: false, reason: verdict.value.why }
  return { ...found, serves: true, reason: 'why' in look ? look.why : null }
}

/** The journal of a shard, looked at twice, so that there is a rate. */
async function ratesOf(redis: Redis, shard: number): Promise<Look> {
  const read = async () =>
    await redis.hmget(keys.meta(shard), 'epoch', 'watermark', 'facts', 'flushed')
  const before = await read()
  const begun = performance.now()
  await sleep(rateMs)
  const meta = await read()
  // Redis has lost it, or never had it: what it has is not nothing, but unknown.
  if (before.includes(null) || meta.includes(null)) return unknown
  const [epoch, watermark, facts, flushed] = meta.map(Number) as [number, number, number, number]
  const perSecond = ((facts - Number(before[2])) / (performance.now() - begun)) * 1000
  const next = `${epoch}-${watermark + 1}`
  const [[entry], [seconds, micros]] = await Promise.all([
    redis.xrange(keys.journal(shard), next, next),
    redis.time(),
  ])
  const oldest = entry
    ? Math.max(0, Number(seconds) + Number(micros) / 1e6 - decodeEntry(...entry).at / 1000)
    : 0
  return { lag: facts - flushed, oldest, perSecond: Math.max(0, perSecond) }
}

function problemsOf(found: Omit<Status, 'problems'>, checklist: Item[]): string[] {
  const { redis, postgres, processes, shards, parked_facts, failed_jobs } = found
  const list: string[] = []
  if (!postgres.up) list.push(`PostgreSQL does not answer: ${postgres.reason}`)
  if (!redis.up) list.push(`Redis does not answer: ${redis.reason}`)
  // Of all clocks this one may be the wrong one.
  for (const item of checklist)
    if (item.verdict === 'refusal' && item.setting !== connection && item.of !== 'clock')
      list.push(`nothing is served: ${itemText(item)}`)
  for (const { shard, serves, reason } of redis.up ? shards : [])
    if (reason)
      list.push(
        `shard ${shard} ${serves === false ? 'does not serve' : 'could not be looked at'}: ${reason}`,
      )
  if (postgres.up && !processes.some(({ kind, alive }) => kind === 'worker' && alive))
    list.push('no worker is alive: nothing reaches the ledger, and nobody recovers a shard')
  if (postgres.up && !processes.some(({ kind, alive }) => kind === 'api' && alive))
    list.push('no API process is alive')
  for (const { kind, alive, host, pid, seen_at } of processes)
    if (!alive)
      list.push(`${kind} ${pid} on ${host} has been silent since ${seen_at.toISOString()}`)
  for (const { shard, lag, oldest_seconds, flush } of shards)
    if (oldest_seconds !== null && oldest_seconds > lagSeconds && flush === 'running')
      list.push(
        `shard ${shard}: ${lag} facts wait for the ledger, the oldest for ${Math.round(oldest_seconds)} s`,
      )
  const paused = shards.filter(({ flush }) => flush === 'paused')
  if (paused.length > 0)
    list.push(`the flush is paused on ${names(paused)}: stampede resume --flush --reason ...`)
  const stopped = shards.filter(({ intake }) => intake === 'stopped')
  if (stopped.length > 0)
    list.push(`intake is stopped on ${names(stopped)}: stampede resume --intake --reason ...`)
  if (parked_facts) list.push(`${parked_facts} facts are parked: stampede parked list`)
  if (failed_jobs) list.push(`${failed_jobs} jobs have failed: stampede jobs list --state failed`)
  if (redis.memory && redis.memory_limit && redis.memory / redis.memory_limit > memoryShare)
    list.push(
      `Redis uses ${Math.round((100 * redis.memory) / redis.memory_limit)} % of its memory: raise maxmemory`,
    )
  return list
}

const names = (shards: readonly ShardStatus[]) =>
  `shard${shards.length > 1 ? 's' : ''} ${shards.map(({ shard }) => shard).join(', ')}`
