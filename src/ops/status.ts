import type { Redis } from 'ioredis'
import { inTime } from '../deadline.ts'
import { decodeEntry } from '../journal/entry.ts'
import type { Database } from '../ledger/database.ts'
import { type ProcessRow, processRows } from '../ledger/processes.ts'
import { shardRows } from '../ledger/shards.ts'
import { keys } from '../store/keys.ts'
import { answerOf, type Ops } from './ops.ts'

/** Longer than this nobody waits for either store: what did not answer is the answer. */
const patienceMs = 2_000
/** Facts that wait longer than this for the ledger are a problem. */
const lagSeconds = 5
const memoryShare = 0.8
/** The rate of assignments is taken over this long. */
const rateMs = 500

export type ShardStatus = {
  shard: number
  epoch: number
  phase: string
  intake: string
  flush: string
  /** Facts in the journal that the ledger does not have, and for how long the oldest has waited. */
  lag: number
  oldest_seconds: number
  /** At the present rate, and with a flush that stands still; null: nothing comes. */
  seconds_until_backlog: number | null
}

export type Status = {
  /** What somebody should look at, the most urgent first; empty: all is well. */
  problems: string[]
  redis: { up: boolean; memory: number | null; memory_limit: number | null; reason: string | null }
  postgres: { up: boolean; reason: string | null }
  processes: Omit<ProcessRow, 'process_id'>[]
  shards: ShardStatus[]
  parked_facts: number | null
  failed_jobs: number | null
}

/**
 * How the installation is, from both stores' own word; what does not answer within 2 s is a problem
 * like another. `backlog`: BACKLOG_FACTS, the facts a shard may be ahead of the ledger.
 */
export async function status({ redis, database }: Ops, backlog: number): Promise<Status> {
  const [memory, ledger] = await Promise.all([
    asked(answerOf(redis, ofRedis(redis))),
    asked(ofPostgres(database)),
  ])
  const shards = await shardsOf(redis, ledger, memory, backlog)
  const found = {
    redis: {
      ...{ up: 'value' in memory, reason: 'why' in memory ? memory.why : null },
      memory: 'value' in memory ? memory.value.used : null,
      memory_limit: 'value' in memory ? memory.value.limit : null,
    },
    postgres: { up: 'value' in ledger, reason: 'why' in ledger ? ledger.why : null },
    processes: 'value' in ledger ? ledger.value.processes : [],
    shards,
    parked_facts: 'value' in ledger ? ledger.value.parked : null,
    failed_jobs: 'value' in ledger ? ledger.value.failed : null,
  }
  return { problems: problemsOf(found), ...found }
}

type Answer<T> = { value: T } | { why: string }

/** The answer, or why there is none. */
const asked = <T>(answer: Promise<T>): Promise<Answer<T>> =>
  inTime(answer, patienceMs, () => new Error(`no answer in ${patienceMs} ms`)).then(
    (value) => ({ value }),
    (error: Error) => ({ why: error.message || String(error) }),
  )

async function ofRedis(redis: Redis) {
  const info = await redis.info()
  const bytes = (name: string) => Number(new RegExp(`^${name}:(\\d+)`, 'm').exec(info)?.[1] ?? 0)
  return { used: bytes('used_memory'), limit: bytes('maxmemory') || bytes('total_system_memory') }
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
  redis: Redis,
  ledger: Answer<Ledger>,
  memory: Answer<unknown>,
  backlog: number,
): Promise<ShardStatus[]> {
  if (!('value' in ledger)) return []
  const { rows } = ledger.value
  const unknown = rows.map((row) => ({ ...row, lag: 0, oldest: 0, perSecond: 0, seen: false }))
  const seen =
    'value' in memory ? await asked(Promise.all(rows.map(({ shard }) => look(redis, shard)))) : null
  const looks = seen && 'value' in seen ? seen.value : unknown
  return rows.map(({ shard, epoch, phase, intake, flush }, r) => {
    const { lag, oldest, perSecond } = looks[r]!
    const left = perSecond > 0 ? Math.round(Math.max(0, backlog - lag) / perSecond) : null
    return {
      ...{ shard, epoch, phase, intake, flush, lag },
      ...{ oldest_seconds: oldest, seconds_until_backlog: left },
    }
  })
}

/** A shard in Redis, looked at twice, so that there is a rate. */
async function look(redis: Redis, shard: number) {
  const read = async () =>
    (await redis.hmget(keys.meta(shard), 'epoch', 'watermark', 'facts', 'flushed')).map(Number) as [
      number,
      number,
      number,
      number,
    ]
  const [, , before] = await read()
  const begun = performance.now()
  await new Promise((resolve) => setTimeout(resolve, rateMs))
  const [epoch, watermark, facts, flushed] = await read()
  const perSecond = ((facts - before) / (performance.now() - begun)) * 1000
  const next = `${epoch}-${watermark + 1}`
  const [[entry], [seconds, micros]] = await Promise.all([
    redis.xrange(keys.journal(shard), next, next),
    redis.time(),
  ])
  const oldest = entry
    ? Math.max(0, Number(seconds) + Number(micros) / 1e6 - decodeEntry(...entry).at / 1000)
    : 0
  return { lag: facts - flushed, oldest, perSecond }
}

function problemsOf(found: Omit<Status, 'problems'>): string[] {
  const { redis, postgres, processes, shards, parked_facts, failed_jobs } = found
  const list: string[] = []
  if (!postgres.up) list.push(`PostgreSQL does not answer: ${postgres.reason}`)
  if (!redis.up) list.push(`Redis does not answer: ${redis.reason}`)
  if (postgres.up && !processes.some(({ kind, alive }) => kind === 'worker' && alive))
    list.push('no worker is alive: nothing reaches the ledger, and nobody recovers a shard')
  if (postgres.up && !processes.some(({ kind, alive }) => kind === 'api' && alive))
    list.push('no API process is alive')
  for (const { kind, alive, host, pid, seen_at } of processes)
    if (!alive)
      list.push(`${kind} ${pid} on ${host} has been silent since ${seen_at.toISOString()}`)
  for (const { shard, phase, lag, oldest_seconds, flush } of shards) {
    if (phase !== 'active') list.push(`shard ${shard} does not serve: it is ${phase}`)
    if (oldest_seconds > lagSeconds && flush === 'running')
      list.push(
        `shard ${shard}: ${lag} facts wait for the ledger, the oldest for ${Math.round(oldest_seconds)} s`,
      )
  }
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
