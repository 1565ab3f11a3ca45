import { setTimeout as sleep } from 'node:timers/promises'
import { Worker } from 'bullmq'
import closeWithGrace from 'close-with-grace'
import type { Logger } from 'pino'
import { ConfigError, type WorkerConfig, workerConfig } from '../src/config.ts'
import { endAbandoned, openDatabase } from '../src/ledger/database.ts'
import { sweepImportsOnce } from '../src/ledger/imports.ts'
import { countOnce } from '../src/ledger/minutes.ts'
import { forgetCreations } from '../src/ledger/once.ts'
import { watchPresence } from '../src/ledger/presence.ts'
import { beat, forgetProcesses } from '../src/ledger/processes.ts'
import { installationId, shardRows } from '../src/ledger/shards.ts'
import { openLog } from '../src/log.ts'
import type { Samples } from '../src/metrics.ts'
import {
  type FlushJob,
  openQueues,
  queueNames,
  type RowJob,
  type Telemetry,
  workerOptions,
} from '../src/queues.ts'
import { openFitness } from '../src/recovery/fitness.ts'
import { shutGatesOnce } from '../src/recovery/gate.ts'
import { gauges } from '../src/recovery/gauges.ts'
import { pushOnce } from '../src/recovery/push.ts'
import { healOnce, recoverOnce } from '../src/recovery/recover.ts'
import { Place } from '../src/store/place.ts'
import { openStore } from '../src/store/store.ts'
import { version } from '../src/version.ts'
import { Counts } from './counts.ts'
import { settleEndedOnce } from './distribute.ts'
import { jobOnce, sweepJobsOnce, type WithOps } from './jobs.ts'
import { listen } from './listen.ts'
import { reconcileOnce } from './reconcile.ts'
import { flushShards } from './shards.ts'

/** How often each sweep looks. */
const recoverMs = 100
const watchMs = 500
const pushMs = 1_000
const jobsMs = 2_000
const abandonedMs = 1_000
const healMs = 10_000
const forgetMs = 600_000
const importsMs = 15_000
const reconcileMs = 5_000
const countMs = 1_000
const jobsAtOnce = 2
const stopMs = 8_000
/** BullMQ, told to close while its connection is down, waits for ever: it is left behind then. */
const closeMs = 5_000

type Settings = Pick<
  WorkerConfig,
  | 'REDIS_URL'
  | 'QUEUE_REDIS_URL'
  | 'DATABASE_URL'
  | 'DATABASE_POOL'
  | 'REDIS_MANAGED'
  | 'BACKLOG_FACTS'
> & {
  /** Left out: never. */
  RECONCILE_MINUTES?: number
}

/**
 * A worker process: BullMQ says when to flush and which job to do, sweeps find what BullMQ lost, and
 * shut gates are looked after. Any number of these may run; PostgreSQL decides who was first.
 */
export async function startWorker(config: Settings, log: Logger, telemetry?: Telemetry) {
  const database = openDatabase(config.DATABASE_URL, config.DATABASE_POOL, 'worker')
  const shardCount = (await shardRows(database)).length
  const place = new Place(config.REDIS_URL, shardCount, 'worker', await installationId(database))
  const queueUrl = config.QUEUE_REDIS_URL ?? config.REDIS_URL
  const queues = openQueues(queueUrl, telemetry)
  const presence = watchPresence(config.DATABASE_URL, database, log)
  const fitness = openFitness(place, database, { managed: config.REDIS_MANAGED === '1', log })
  const store = openStore(place, { backlog: 0 }, () => {})
  // A distribution stands back long before clients have to.
  const half = { backlog: Math.floor(config.BACKLOG_FACTS / 2) }
  const giver = openStore(place, half, (shard) => queues.nudge(shard))
  const distributor = { database, store: giver }
  const counts = new Counts()
  const minutes = config.RECONCILE_MINUTES ?? 0
  const interval = (): Samples => ({ stampede_reconcile_interval_seconds: [[{}, minutes * 60]] })
  const stopBeat = beat(database, 'worker', version)
  const shards = flushShards(place, database, fitness.tight, log, counts)
  const stopping = new AbortController()

  const withOps: WithOps = async (work) => {
    const own = openDatabase(config.DATABASE_URL, 4, 'reconcile')
    return work({ redis: place.redis, database: own }).finally(() => own.end())
  }

  const options = workerOptions(queueUrl)
  const flushWorker = new Worker<FlushJob>(
    queueNames.flush,
    async ({ data }) => shards.byNudge(data.shard, () => stopping.signal.aborted),
    { ...options, concurrency: place.gates.length },
  )
  const jobWorker = new Worker<RowJob>(
    queueNames.jobs,
    ({ data }) => jobOnce(data.job_id, { database, store }, withOps, distributor),
    { ...options, concurrency: jobsAtOnce, telemetry },
  )
  for (const worker of [flushWorker, jobWorker]) {
    worker.on('error', (error) => log.warn(`BullMQ: ${error.message}`))
    worker.on('failed', (_, error) => log.error({ err: error }, 'a job failed and will come again'))
  }

  /** Does `work` every `ms` until the worker stops; a failure is logged and the next turn tries again. */
  async function every(ms: number, what: string, work: () => Promise<unknown>): Promise<void> {
    while (!stopping.signal.aborted) {
      await work().catch((error: Error) => log.warn({ err: error }, `${what} failed`))
      await sleep(ms, undefined, { signal: stopping.signal }).catch(() => {})
    }
  }
  const loops = [
    every(recoverMs, 'looking after shut gates', () =>
      recoverOnce(place, { database, store }, log, fitness, (cause, ms) =>
        counts.recovered(cause, ms),
      ),
    ),
    every(watchMs, 'looking at open gates', () => shutGatesOnce(place, database)),
    every(shards.sweepMs, 'the flush sweep', async () => place.connected && shards.bySweep()),
    every(pushMs, 'pushing books and loads', async () =>
      place.gates.some((gate) => gate.open) ? pushOnce({ database, store }) : 0,
    ),
    every(healMs, 'looking at policies', async () => {
      if (place.connected) await healOnce(place, database, log)
    }),
    every(abandonedMs, 'ending abandoned transactions', () => endAbandoned(database)),
    every(jobsMs, 'the job sweep', () => sweepJobsOnce(database, queues)),
    every(jobsMs, 'settling distributions', () => settleEndedOnce(distributor)),
    every(importsMs, 'removing staged files', () => sweepImportsOnce(database)),
    every(reconcileMs, 'reconciling', async () => {
      if (minutes === 0 || !place.connected) return
      await withOps((ops) => reconcileOnce(ops, minutes, log))
    }),
    // Nothing, unless an older version flushed or there were facts before there were minutes.
    every(countMs, 'counting facts into minutes', async () => {
      while (!stopping.signal.aborted && (await countOnce(database)) > 0);
    }),
    every(forgetMs, 'forgetting old keys and processes', () =>
      Promise.all([forgetCreations(database), forgetProcesses(database)]),
    ),
  ]

  return {
    place,
    flushes: counts.flushes,
    /** What its /metrics tells. */
    sources: [() => counts.samples(), interval, ...gauges(place, database, queues)],
    /** Ends the flush in progress and starts no other. What is not flushed is in the journal. */
    async stop(): Promise<void> {
      stopping.abort()
      const closed = Promise.all([flushWorker.close(), jobWorker.close()]).then(() => true)
      const late = sleep(closeMs, false, { ref: false })
      const [inTime] = await Promise.all([Promise.race([closed, late]), ...loops])
      if (!inTime) for (const worker of [flushWorker, jobWorker]) void worker.disconnect()
      await queues.close()
      await stopBeat()
      place.close()
      presence.close()
      await database.end()
    },
  }
}

async function main(): Promise<void> {
  const config = workerConfig()
  const log = openLog('worker', config.LOG_LEVEL)
  const tracing = config.OTEL_EXPORTER_OTLP_ENDPOINT
    ? (await import('../src/tracing.ts')).startTracing('stampede-worker', config, log)
    : undefined
  const worker = await startWorker(config, log, tracing?.telemetry).catch((error: Error) => {
    log.fatal(`PostgreSQL has no shards to work for: ${error.message}. Is it there, and migrated?`)
    process.exit(69)
  })
  log.info('working')
  const at = { host: config.HOST, port: config.METRICS_PORT }
  if (at.port !== undefined) await listen({ ...at, port: at.port }, worker.sources, log)
  closeWithGrace({ delay: stopMs, logger: log }, async ({ err }) => {
    if (err) log.fatal({ err }, 'unexpected error')
    await worker.stop()
    await tracing?.stop()
  })
}

if (import.meta.main)
  await main().catch((error: Error) => {
    if (!(error instanceof ConfigError)) throw error
    console.error(error.message)
    process.exit(78)
  })
