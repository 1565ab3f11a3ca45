import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { environmentOf, readConfig } from '../src/config.ts'
import { startNode, tail } from '../src/embedded/keep.ts'
import { scratchDir, sweep } from '../src/embedded/leftovers.ts'
import { freePort, httpUrl } from '../src/embedded/ports.ts'
import { startPostgres } from '../src/embedded/postgres.ts'
import { waitUntilReady } from '../src/embedded/ready.ts'
import { startRedis } from '../src/embedded/redis.ts'
import { step } from '../src/embedded/steps.ts'
import { migrate } from '../src/ledger/migrate.ts'

/** Whatever was started, in that order; it is stopped in the reverse one. */
export type Running = {
  name: string
  stop(deadlineMs: number): Promise<void>
  /** The end of its log, for whoever has to say what went wrong. */
  log?(): string
}

const host = '127.0.0.1'
/** Redis and PostgreSQL outlive a killed bench by this much: the worker is still writing. */
const graceSeconds = 6
const stopMs = 5_000
/** The stores' data is thrown away with their directory: they need not write it down first. */
const storeStopMs = 0

export type Installation = Awaited<ReturnType<typeof openInstallation>>

/**
 * A whole installation of its own, as `npm start` would make it: a Redis with its append-only file
 * synced every second, a PostgreSQL that syncs every commit, one API process, one worker process.
 * `running` gets what has been started, so that it can be stopped even if the rest fails.
 */
export async function openInstallation(running: Running[]) {
  await sweep()
  const dir = scratchDir('bench')
  running.push({
    name: 'directory',
    stop: async () => rmSync(dir, { recursive: true, force: true }),
  })
  const logs = join(dir, 'logs')
  mkdirSync(logs)

  const hostOf = ({ url }: { url: string }) => new URL(url).host
  let redis = await step(
    'redis',
    () => startRedis({ dir: join(dir, 'redis'), durable: true, graceSeconds }),
    hostOf,
  )
  running.push({ name: 'redis', stop: () => redis.stop(storeStopMs) })
  const postgres = await step(
    'postgres',
    () =>
      startPostgres({
        ...{ dir: join(dir, 'postgres'), database: 'stampede', graceSeconds, behind: true },
      }),
    hostOf,
  )
  running.push({ name: 'postgres', stop: () => postgres.stop(storeStopMs) })
  await migrate(postgres.url, readConfig(['SHARDS']).SHARDS)

  const port = await freePort()
  const http = httpUrl(host, port)
  const env = environmentOf({
    REDIS_URL: redis.url,
    QUEUE_REDIS_URL: '',
    DATABASE_URL: postgres.url,
    JWT_SECRET: randomBytes(32).toString('hex'),
    HOST: host,
    PORT: `${port}`,
  })
  async function main(name: string, path: string) {
    const file = fileURLToPath(new URL(`../${path}`, import.meta.url))
    const log = join(logs, `${name}.log`)
    const behind = path.startsWith('workers/')
    const life = await startNode({ file, dir: join(dir, name), log, env, behind })
    running.push({ name, stop: life.stop, log: () => tail(logs, name) })
    // Nothing is started again here: a process that dies has failed the bench.
    const dead = () => life.child.exitCode !== null || life.child.signalCode !== null
    return { ...life, deaths: () => (dead() ? 3 : 0), kill: () => {} }
  }
  let worker = await step('worker', () => main('worker', 'workers/main.ts'), pidOf)
  let api = await step('api', () => main('api', 'src/server.ts'), pidOf)
  await waitUntilReady(http, api, logs, () => false)

  return {
    http,
    redis: redis.url,
    postgres: postgres.url,
    /** kill -9 of Redis, and the same again on what its disk has. */
    async restartRedis(): Promise<void> {
      const { child, port: same } = redis
      child.kill('SIGKILL')
      await once(child, 'exit')
      redis = await startRedis({
        ...{ dir: join(dir, 'redis'), port: same, durable: true, graceSeconds },
      })
    },
    /** kill -9 of the worker; resolves once another one has been started in its place. */
    async killWorker(): Promise<void> {
      const { child } = worker
      child.kill('SIGKILL')
      await once(child, 'exit')
      worker = await main('next-worker', 'workers/main.ts')
    },
    /** kill -9 of the API; resolves once another one serves at the same address. */
    async killApi(): Promise<void> {
      const { child } = api
      child.kill('SIGKILL')
      await once(child, 'exit')
      api = await main('next-api', 'src/server.ts')
      await waitUntilReady(http, api, logs, () => false)
    },
    /** The root of each process tree. */
    pids: {
      api: api.child.pid!,
      worker: worker.child.pid!,
      redis: redis.pid,
      postgres: postgres.pid,
    },
  }
}

const pidOf = ({ child }: { child: { pid?: number } }) => `pid ${child.pid}`

export async function stopAll(running: Running[]): Promise<void> {
  for (const { name, stop } of running.toReversed())
    await stop(stopMs).catch((error: Error) => console.error(`${name}: ${error.message}`))
}
