import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, rmSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { Redis } from 'ioredis'
import { expect } from 'vitest'
import { environmentOf } from '../src/config.ts'
import { leash } from '../src/embedded/leash.ts'
import { scratchDir } from '../src/embedded/leftovers.ts'
import { freePort } from '../src/embedded/ports.ts'
import { startRedis } from '../src/embedded/redis.ts'
import { createTokens } from '../src/http/tokens.ts'
import { openAccounts } from '../src/ledger/accounts.ts'
import { type Database, openDatabase } from '../src/ledger/database.ts'
import { installationId } from '../src/ledger/shards.ts'
import { keys } from '../src/store/keys.ts'
import { Place } from '../src/store/place.ts'
import { openStore } from '../src/store/store.ts'
import { makeDatabase } from './house.ts'
import { until } from './world.ts'

const main = (path: string) => fileURLToPath(new URL(`../${path}`, import.meta.url))
const secret = 'a secret of at least 32 characters'

export type Process = { child: ChildProcess; kill(): Promise<void>; stop(): Promise<number | null> }

/** Resolves once the process has been killed by its failpoint. */
export const killed = ({ child }: { child: ChildProcess }) =>
  until(() => child.signalCode === 'SIGKILL', 'it was killed at its failpoint', 20_000)

/** Resolves once the process has been stopped by its failpoint; SIGCONT lets it go on. */
export const frozen = ({ child }: { child: ChildProcess }) =>
  until(
    () => /^\d+ \(.*\) T/s.test(readFileSync(`/proc/${child.pid}/stat`, 'utf8')),
    'it was frozen at its failpoint',
    20_000,
  )

/** API and worker as the processes they are in production, to be killed by pid. `databaseUrl`: whose it is. */
export async function openProcesses({
  shards = 2,
  databaseUrl,
  told,
}: {
  shards?: number
  databaseUrl?: string
  /** Gets whatever API and worker print; left out: it is printed. */
  told?: (text: string) => void
} = {}) {
  const dir = scratchDir('redis')
  const port = await freePort()
  let redis = await startRedis({ dir, durable: true, port })
  const database = databaseUrl
    ? { url: databaseUrl, drop: async () => {} }
    : await makeDatabase(shards)
  const all: Process[] = []

  const environment = (more: Record<string, string>) => {
    const ours = environmentOf({
      REDIS_URL: redis.url,
      QUEUE_REDIS_URL: '',
      DATABASE_URL: database.url,
      JWT_SECRET: secret,
      LOG_LEVEL: 'warn',
      HOST: '127.0.0.1',
      OTEL_EXPORTER_OTLP_ENDPOINT: '',
    })
    return { ...ours, ...more } as NodeJS.ProcessEnv
  }

  function run(path: string, more: Record<string, string>): Process {
    const child = spawn(process.execPath, [main(path)], {
      env: environment(more),
      stdio: ['ignore', told ? 'pipe' : 'inherit', told ? 'pipe' : 'inherit'],
    })
    for (const stream of [child.stdout, child.stderr])
      stream?.setEncoding('utf8').on('data', (text) => told?.(text))
    leash(child, 'TERM')
    const gone = once(child, 'exit')
    const end = async (signal: 'SIGKILL' | 'SIGTERM') => {
      if (child.exitCode === null && child.signalCode === null) child.kill(signal)
      await gone
      return child.exitCode
    }
    const started = {
      child,
      kill: async () => void (await end('SIGKILL')),
      stop: () => end('SIGTERM'),
    }
    all.push(started)
    return started
  }

  return {
    redis,
    /** kill -9 of Redis, and the same again on its data: nothing is lost, because AOF has it. */
    async restartRedis() {
      redis.child.kill('SIGKILL')
      await once(redis.child, 'exit')
      redis = await startRedis({ dir, durable: true, port })
    },
    redisUrl: redis.url,
    databaseUrl: database.url,
    secret,
    startWorker: (env: Record<string, string> = {}) => run('workers/main.ts', env),
    /** An API process that serves; `base` is where. */
    async startApi(env: Record<string, string> = {}): Promise<Process & { base: string }> {
      const port = await freePort()
      const api = run('src/server.ts', { PORT: String(port), ...env })
      const base = `http://127.0.0.1:${port}`
      await until(
        async () => (await fetch(`${base}/readyz`).catch(() => undefined))?.ok === true,
        'the API serves',
        30_000,
      )
      return { ...api, base }
    },
    /** The ops command as an operator runs it: how it ended, and what it said. `begun`: gets it meanwhile. */
    async cli(
      args: string[],
      env: Record<string, string> = {},
      begun: (child: ChildProcess) => void = () => {},
    ) {
      const child = spawn(process.execPath, [main('src/cli/main.ts'), ...args], {
        env: environment(env),
      })
      begun(child)
      let out = ''
      for (const stream of [child.stdout, child.stderr]) stream.on('data', (some) => (out += some))
      const [code, signal] = await once(child, 'close')
      return { code, signal, out }
    },
    async close() {
      await Promise.all(all.map((one) => one.kill()))
      await database.drop()
      await redis.stop()
      rmSync(dir, { recursive: true, force: true })
    },
  }
}

/** An administrator's token, of an account that is made for it. */
export async function signIn(database: Database, secret: string): Promise<string> {
  const login = { email: 'admin@example.com', password: 'password', role: 'admin' as const }
  const admin = await openAccounts(database).createUser({ name: 'Admin', ...login })
  if ('problem' in admin) throw new Error(admin.problem)
  return createTokens(secret).issue(admin)
}

/** The same with what tests of them do: an administrator's requests, and looks into both stores. */
export async function openTown({
  shards = 2,
  told,
}: {
  shards?: number
  told?: (text: string) => void
} = {}) {
  const town = await openProcesses({ shards, ...(told ? { told } : {}) })
  const database = openDatabase(town.databaseUrl, 4, 'test')
  const redis = new Redis(town.redis.url)
  const token = await signIn(database, town.secret)

  async function post(base: string, path: string, body: unknown, headers = {}) {
    const response = await fetch(`${base}/api/v1/${path}`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', authorization: `Bearer ${token}`, ...headers },
      body: JSON.stringify(body),
    })
    // biome-ignore lint/suspicious/noExplicitAny: tests look into whatever came
    return { status: response.status, body: (await response.json()) as any }
  }

  async function makeBook(base: string, count: number): Promise<string> {
    const { body } = await post(base, 'books', { name: 'Sale', owner_id: 'o' })
    const made = await post(base, `books/${body.book_id}/codes/generate`, { count })
    expect(made.status).toBe(200)
    return body.book_id
  }

  async function level(): Promise<void> {
    await until(async () => {
      for (let shard = 0; shard < shards; shard++) {
        const [n, watermark] = await redis.hmget(keys.meta(shard), 'n', 'watermark')
        if (n !== watermark) return false
      }
      return true
    }, 'the ledger is level')
  }

  async function shardOf(book: string): Promise<number> {
    const { rows } = await database.query('SELECT shard FROM books WHERE book_id = $1', [book])
    return rows[0].shard
  }

  /** Assigns one after the other, each in an entry of its own, without an API on the way. */
  async function assignMany(book: string, count: number): Promise<void> {
    const place = new Place(town.redis.url, shards, 'test', await installationId(database))
    const shard = await shardOf(book)
    await until(() => place.connected, 'it is connected')
    const [epoch, n] = await redis.hmget(keys.meta(shard), 'epoch', 'n')
    place.open(shard, { epoch: Number(epoch), n: Number(n), calls: 0, memory: '' })
    const store = openStore(place, { backlog: count }, () => {})
    const rest = { count: '1', codes: '', key: '', hash: '', context: '{"actor":"a test"}' }
    for (let user = 0; user < count; user++) {
      const { ok } = await store.assign({ shard, book }, { user: `user-${user}`, ...rest })
      expect(ok).toBe(true)
    }
    place.close()
  }

  async function close(): Promise<void> {
    redis.disconnect()
    await database.end()
    await town.close()
  }
  return {
    ...{ ...town, database, redis, token, close },
    ...{ post, makeBook, shardOf, assignMany, level },
  }
}
export type Town = Awaited<ReturnType<typeof openTown>>
