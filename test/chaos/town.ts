import { type ChildProcess, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { closeSync, mkdirSync, openSync, readFileSync, rmSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Redis } from 'ioredis'
import { environmentOf, type Variable } from '../../src/config.ts'
import { leash } from '../../src/embedded/leash.ts'
import { scratchDir } from '../../src/embedded/leftovers.ts'
import { freePort } from '../../src/embedded/ports.ts'
import { createTokens, makeApiKey } from '../../src/http/tokens.ts'
import { openAccounts } from '../../src/ledger/accounts.ts'
import { openDatabase } from '../../src/ledger/database.ts'
import { migrate } from '../../src/ledger/migrate.ts'
import { openProxy } from './proxy.ts'
import { type Cluster, openMemory } from './servers.ts'

const root = resolve(import.meta.dirname, '../..')
const secret = 'a secret of at least 32 characters'

export type Environment = Partial<Record<Variable, string>>
export type TownOptions = {
  cluster: Cluster
  shards?: number
  appendfsync?: 'everysec' | 'always'
  /** More arguments of redis-server. */
  redisExtra?: string[]
  /** Where Redis keeps its files; left out: in the scratch directory. */
  redisDir?: string
  /** Put a fault proxy between API and Redis, and between worker and PostgreSQL. */
  proxied?: boolean
  /** More settings of every process. */
  env?: Environment
}

/** One API or worker process. It keeps its address when it is started again. */
export type Life = {
  name: string
  base: string
  pid(): number
  alive(): boolean
  /** Starts it, or starts it again; `source`: a copy of the code to run. */
  start(more?: Environment, source?: string): void
  kill(): Promise<void>
  /** SIGTERM; resolves to the exit code. */
  stop(): Promise<number | null>
  signal(signal: NodeJS.Signals): void
  exited(): Promise<unknown>
}

export type Town = Awaited<ReturnType<typeof openTown>>

/** Two API and two worker processes over a Redis and a database of their own, to be broken. */
export async function openTown(options: TownOptions) {
  const { cluster, shards = 4 } = options
  const dir = scratchDir('chaos')
  const logs = join(dir, 'logs')
  mkdirSync(logs)
  const memory = await openMemory({
    dir: options.redisDir ?? join(dir, 'redis'),
    appendfsync: options.appendfsync,
    extra: options.redisExtra,
  })
  const databaseName = `chaos_${randomBytes(5).toString('hex')}`
  const databaseUrl = await cluster.create(databaseName)
  await migrate(databaseUrl, shards)
  const proxies = options.proxied
    ? { redis: await openProxy(memory.port), postgres: await openProxy(cluster.port) }
    : undefined
  const through = (url: string, port: number | undefined) =>
    port === undefined ? url : url.replace(/:\d+(?=\/|$)/, `:${port}`)
  const settings = {
    QUEUE_REDIS_URL: '',
    JWT_SECRET: secret,
    LOG_LEVEL: 'info',
    HOST: '127.0.0.1',
    FAILPOINT: '',
    // The crowd goes on asking for codes that it has no longer: a shop's limit would stop it.
    LIMIT_CODE_KEY: '1000000/60',
    ...options.env,
  }
  const lives: Life[] = []

  async function make(name: string, path: string, own: Environment): Promise<Life> {
    const port = await freePort()
    let child: ChildProcess | undefined
    const alive = () => !!child && child.exitCode === null && child.signalCode === null
    const end = async (signal: NodeJS.Signals) => {
      if (!alive()) return child?.exitCode ?? null
      const gone = once(child!, 'exit')
      child!.kill('SIGCONT')
      child!.kill(signal)
      await gone
      return child!.exitCode
    }
    const life: Life = {
      name,
      base: `http://127.0.0.1:${port}`,
      pid: () => child!.pid!,
      alive,
      start(more = {}, source = root) {
        const log = openSync(join(logs, `${name}.log`), 'a')
        const env = environmentOf({ ...settings, ...own, PORT: String(port), ...more })
        child = spawn(process.execPath, [join(source, path)], { env, stdio: ['ignore', log, log] })
        closeSync(log)
        leash(child, 'TERM')
      },
      kill: async () => void (await end('SIGKILL')),
      stop: () => end('SIGTERM'),
      signal: (signal) => void child!.kill(signal),
      exited: () => (alive() ? once(child!, 'exit') : Promise.resolve()),
    }
    lives.push(life)
    return life
  }
  const apiEnv = { REDIS_URL: through(memory.url, proxies?.redis.port), DATABASE_URL: databaseUrl }
  const workerEnv = {
    REDIS_URL: memory.url,
    DATABASE_URL: through(databaseUrl, proxies?.postgres.port),
  }
  const apis = [
    await make('api-1', 'src/server.ts', apiEnv),
    await make('api-2', 'src/server.ts', apiEnv),
  ] as const
  const workers = [
    await make('worker-1', 'workers/main.ts', workerEnv),
    await make('worker-2', 'workers/main.ts', workerEnv),
  ] as const
  const redis = new Redis(memory.url, { maxRetriesPerRequest: 1, retryStrategy: () => 100 })
  redis.on('error', () => {})
  const database = openDatabase(databaseUrl, 4, 'chaos')

  return {
    ...{
      dir,
      shards,
      memory,
      cluster,
      proxies,
      apis,
      workers,
      lives,
      redis,
      database,
      databaseUrl,
    },
    ...(await makePrincipals(database)),
    log: (name: string) => readFileSync(join(logs, `${name}.log`), 'utf8'),
    startAll(more?: Environment): void {
      for (const life of lives) life.start(more)
    },
    async close(): Promise<void> {
      await Promise.all(lives.map((life) => life.kill()))
      redis.disconnect()
      await database.end()
      proxies?.redis.close()
      proxies?.postgres.close()
      await cluster.drop(databaseName).catch(() => {})
      await memory.close()
      rmSync(dir, { recursive: true, force: true })
    },
  }
}

/** An API key that acts for any user, and an administrator's token. */
async function makePrincipals(database: ReturnType<typeof openDatabase>) {
  const login = { email: 'chaos@example.com', password: 'password', role: 'admin' as const }
  const admin = await openAccounts(database).createUser({ name: 'Chaos', ...login })
  if ('problem' in admin) throw new Error(admin.problem)
  const { key, ...stored } = makeApiKey()
  await database.query(
    'INSERT INTO api_keys (key_id, name, secret_hash, created_by) VALUES ($1, $2, $3, $4)',
    [stored.key_id, 'chaos', stored.secret_hash, admin.user_id],
  )
  return { service: key, admin: await createTokens(secret).issue(admin) }
}

/** Waits until `holds`, looking often; throws with `what` when it does not within `ms`. */
export async function until(
  holds: () => boolean | Promise<boolean>,
  what: string,
  ms = 30_000,
): Promise<void> {
  const deadline = performance.now() + ms
  while (!(await holds())) {
    if (performance.now() > deadline) throw new Error(`not within ${ms} ms: ${what}`)
    await sleep(20)
  }
}
