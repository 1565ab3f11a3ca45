import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { rmSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { environmentOf } from '../src/config.ts'
import { leash } from '../src/embedded/leash.ts'
import { scratchDir } from '../src/embedded/leftovers.ts'
import { freePort } from '../src/embedded/ports.ts'
import { startRedis } from '../src/embedded/redis.ts'
import { makeDatabase } from './house.ts'
import { until } from './world.ts'

const main = (path: string) => fileURLToPath(new URL(`../${path}`, import.meta.url))
const secret = 'a secret of at least 32 characters'

export type Process = { child: ChildProcess; kill(): Promise<void>; stop(): Promise<number | null> }

/** API and worker as the processes they are in production, to be killed by pid. `databaseUrl`: whose it is. */
export async function openProcesses({
  shards = 2,
  databaseUrl,
}: {
  shards?: number
  databaseUrl?: string
} = {}) {
  const dir = scratchDir('redis')
  const port = await freePort()
  let redis = await startRedis({ dir, durable: true, port })
  const database = databaseUrl
    ? { url: databaseUrl, drop: async () => {} }
    : await makeDatabase(shards)
  const all: Process[] = []

  function run(path: string, more: Record<string, string>): Process {
    const ours = environmentOf({
      REDIS_URL: redis.url,
      QUEUE_REDIS_URL: '',
      DATABASE_URL: database.url,
      JWT_SECRET: secret,
      LOG_LEVEL: 'warn',
      HOST: '127.0.0.1',
      OTEL_EXPORTER_OTLP_ENDPOINT: '',
    })
    const env = { ...ours, ...more } as NodeJS.ProcessEnv
    const child = spawn(process.execPath, [main(path)], {
      env,
      stdio: ['ignore', 'inherit', 'inherit'],
    })
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
    async close() {
      await Promise.all(all.map((one) => one.kill()))
      await database.drop()
      await redis.stop()
      rmSync(dir, { recursive: true, force: true })
    },
  }
}
