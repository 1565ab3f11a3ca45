import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { ConfigError, environmentOf, isStartedByNpm, startConfig } from '../config.ts'
import { migrate } from '../ledger/migrate.ts'
import type { AclUser } from './acl.ts'
import { seedDemo } from './demo.ts'
import { type Kept, keep, startNode } from './keep.ts'
import { choosePort, freePort, httpUrl } from './ports.ts'
import { startPostgres } from './postgres.ts'
import { NoPostgres } from './postgres-home.ts'
import { waitUntilReady } from './ready.ts'
import { startRedis } from './redis.ts'
import { giveBackDirectory, openDirectory, writeRunning } from './running.ts'
import { secret } from './secret.ts'
import { CannotStart, say, step } from './steps.ts'
import { welcome } from './welcome.ts'

/**
 * `npm start`: brings Redis, PostgreSQL, the worker and the API up, keeps them up, and takes them
 * down in reverse order. Killed itself, it leaves a leash on each of them.
 */
type Config = ReturnType<typeof startConfig>

/** What runs, in the order of its start; the deadlines leave a second of the promised ten. */
const running: { name: string; kept: Kept; deadlineMs: number }[] = []
/** Redis and PostgreSQL outlive a killed supervisor by this much: the worker is still writing. */
const graceSeconds = 6
let dataDir: string | undefined
let stopping = false

function hold(name: string, kept: Kept, deadlineMs: number): void {
  running.push({ name, kept, deadlineMs })
  if (stopping) throw new CannotStart('stopped while starting')
}

/** Redis for the operator, and for each process with the rights that are its own. */
type Redis = Record<'url' | AclUser, string>

async function ownRedis(dir: string, logs: string): Promise<Redis> {
  const own = { dir: join(dir, 'redis'), log: join(logs, 'redis.log'), graceSeconds }
  const password = secret(dir, 'redis')
  const users = {
    api: secret(dir, 'redis-api'),
    worker: secret(dir, 'redis-worker'),
    queue: secret(dir, 'redis-queue'),
    limit: secret(dir, 'redis-limit'),
  }
  let urls: Redis | undefined
  let port: number | undefined
  const start = async () => {
    const redis = await startRedis({ ...own, port, password, users, durable: true })
    port = redis.port
    const { url, urlOf } = redis
    const its = { api: urlOf('api'), worker: urlOf('worker'), queue: urlOf('queue') }
    urls = { url, ...its, limit: urlOf('limit') }
    return redis
  }
  hold('redis', await keep('redis', start, say), 1_500)
  return urls!
}

async function ownPostgres(dir: string, logs: string): Promise<string> {
  const log = join(logs, 'postgres.log')
  const own = { dir: join(dir, 'postgres'), log, graceSeconds, behind: true }
  let url = ''
  let port: number | undefined
  const start = async () => {
    const postgres = await startPostgres({ ...own, port, database: 'stampede' })
    port = postgres.port
    url = postgres.url
    return postgres
  }
  hold('postgres', await keep('postgres', start, say), 1_500)
  return url
}

const hostOf = (url: string) => new URL(url).host

async function start(config: Config): Promise<string> {
  const dir = openDirectory(config.DATA_DIR)
  dataDir = dir
  const logs = join(dir, 'logs')
  const port = await choosePort(config.HOST, config.PORT)
  const http = httpUrl(config.HOST, port)
  const metricsPort = config.METRICS_PORT ?? (await freePort())

  const given = config.REDIS_URL
  const redis = given
    ? { url: given, api: given, worker: given, queue: given, limit: given }
    : await step(
        'redis',
        () => ownRedis(dir, logs),
        ({ url }) => hostOf(url),
      )
  const postgres =
    config.DATABASE_URL ?? (await step('postgres', () => ownPostgres(dir, logs), hostOf))
  const migrated = () => 'the schema is up to date'
  await step('migrate', () => migrate(postgres, config.SHARDS), migrated)

  const env = environmentOf({
    QUEUE_REDIS_URL: config.QUEUE_REDIS_URL ?? redis.queue,
    LIMIT_REDIS_URL: config.LIMIT_REDIS_URL ?? redis.limit,
    DATABASE_URL: postgres,
    JWT_SECRET: config.JWT_SECRET ?? secret(dir, 'jwt'),
    HOST: config.HOST,
    PORT: `${port}`,
    METRICS_PORT: `${metricsPort}`,
  })
  const room = (name: 'api' | 'worker', file: string, deadlineMs: number) => {
    const path = fileURLToPath(new URL(`../../${file}`, import.meta.url))
    const options = {
      file: path,
      dir: join(dir, 'run', name),
      log: join(logs, `${name}.log`),
      behind: name === 'worker',
      env: environmentOf({ REDIS_URL: redis[name] }, env),
    }
    return async () => {
      const kept = await keep(name, () => startNode(options), say)
      hold(name, kept, deadlineMs)
      return kept
    }
  }
  const worker = room('worker', 'workers/main.ts', 2_500)
  await step('worker', worker, () => `${httpUrl(config.HOST, metricsPort)}/metrics`)
  const api = room('api', 'src/server.ts', 3_000)
  const serve = async () => waitUntilReady(http, await api(), logs, () => stopping)
  await step('api', serve, () => http)

  const demo = !config.DATABASE_URL // known passwords have no place in somebody's real database
  if (demo)
    await step(
      'demo',
      () => seedDemo(dir, http, postgres),
      (text) => text,
    )
  writeRunning(dir, { pid: process.pid, http, redis: redis.url, postgres })
  welcome(config.HOST, http, dir, demo)
  return http
}

/** Clients before servers, so that what was accepted is also written. */
async function stop(exitCode: number): Promise<never> {
  stopping = true
  for (const { name, kept, deadlineMs } of running.toReversed()) {
    await kept.stop(deadlineMs).catch((error: Error) => say(`${name}: ${error.message}`))
  }
  if (dataDir) giveBackDirectory(dataDir)
  process.exit(exitCode)
}

let firstSignalAt: number | undefined

function onSignal(signal: string, starting: Promise<unknown>): void {
  const now = performance.now()
  if (firstSignalAt === undefined) {
    firstSignalAt = now
    stopping = true
    say(`${signal}: stopping (once more: kill)`)
    // A step in progress notices `stopping`; should it hang, the leashes end what it started.
    const patience = new Promise((resolve) => setTimeout(resolve, 3_000))
    void Promise.race([starting.catch(() => {}), patience]).then(() => stop(0))
  } else if (now - firstSignalAt > 500 && signal !== 'npm is gone') {
    // Sooner it is the same Ctrl-C, which the terminal and npm both pass on.
    for (const { kept } of running) kept.kill()
    if (dataDir) giveBackDirectory(dataDir)
    process.exit(1)
  }
}

/** npm passes SIGTERM on to its shell, which dies of it and tells nobody: but then we are adopted. */
function watchParent(starting: Promise<unknown>): void {
  const parent = process.ppid
  const watch = setInterval(() => {
    if (process.ppid === parent) return
    clearInterval(watch)
    onSignal('npm is gone', starting)
  }, 200)
  watch.unref()
}

async function main(): Promise<void> {
  // The terminal went away, or `npm start | head`: what runs need not stop for that.
  for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {})
  process.on('uncaughtException', (error) => {
    console.error(error)
    void stop(1)
  })
  const config = startConfig()
  const starting = start(config)
  if (isStartedByNpm()) watchParent(starting)
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(signal, () => onSignal(signal, starting))
  }
  const http = await starting
  say(`ready ${http}`)
}

main().catch((error: Error) => {
  if (firstSignalAt !== undefined) return // onSignal stops everything
  const expected = [CannotStart, ConfigError, NoPostgres].some((kind) => error instanceof kind)
  const denied = ['EACCES', 'EPERM', 'EROFS', 'ENOSPC'].includes(`${'code' in error && error.code}`)
  console.error(expected || denied ? error.message : error)
  const code = error instanceof ConfigError ? 78 : error instanceof NoPostgres ? 69 : 1
  return stop(error instanceof CannotStart ? error.exitCode : code)
})
