import { once } from 'node:events'
import { cpSync, mkdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import pg from 'pg'
import { freePort } from '../../src/embedded/ports.ts'
import { type PrivatePostgres, startPostgres } from '../../src/embedded/postgres.ts'
import { createDatabase } from '../../src/embedded/postgres-cluster.ts'
import { type PrivateRedis, type RedisOptions, startRedis } from '../../src/embedded/redis.ts'

/** A server that is killed and started again at the same address. */
type Startable = { child: PrivateRedis['child']; stop(deadlineMs?: number): Promise<void> }

function reviving<S extends Startable>(first: S, start: () => Promise<S>) {
  let server = first
  async function kill(signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    const { child } = server
    if (child.exitCode !== null || child.signalCode !== null) return
    const gone = once(child, 'exit')
    child.kill(signal)
    await gone
  }
  return {
    kill,
    alive: () => server.child.exitCode === null && server.child.signalCode === null,
    signal: (signal: NodeJS.Signals) => void server.child.kill(signal),
    async start(): Promise<void> {
      server = await start()
    },
    async close(): Promise<void> {
      server.child.kill('SIGCONT')
      await kill()
      await server.stop(0)
    },
  }
}

/** A PostgreSQL that may be killed, frozen, copied and put back, always at the same address. */
export type Cluster = Awaited<ReturnType<typeof openCluster>>

export async function openCluster(dir: string) {
  const options = { dir, fast: true, port: await freePort() }
  const postgres: PrivatePostgres = await startPostgres(options)
  const { url, place, port } = postgres
  const life = reviving(postgres, () => startPostgres(options))
  const data = join(place, 'data')
  const copy = join(place, 'copy')
  const inDatabase = (name: string) => url.replace(/postgres$/, name)

  return {
    ...life,
    port,
    urlOf: inDatabase,
    async create(name: string): Promise<string> {
      await createDatabase(url, name)
      return inDatabase(name)
    },
    async drop(name: string): Promise<void> {
      const client = new pg.Client({ connectionString: url })
      await client.connect()
      await client.query(`DROP DATABASE IF EXISTS "${name}" WITH (FORCE)`)
      await client.end()
    },
    /** A backup, as a copy of the stopped cluster's files. */
    async backUp(): Promise<void> {
      await life.kill('SIGINT')
      rmSync(copy, { recursive: true, force: true })
      cpSync(data, copy, { recursive: true, preserveTimestamps: true })
      await own(copy, data)
      await life.start()
    },
    async restore(): Promise<void> {
      await life.kill()
      rmSync(data, { recursive: true, force: true })
      cpSync(copy, data, { recursive: true, preserveTimestamps: true })
      await own(data, copy)
      await life.start()
    },
  }
}

/** A copy made by root belongs to root; PostgreSQL insists on owning its files. */
async function own(made: string, like: string): Promise<void> {
  const { chownSync, chmodSync, readdirSync, statSync } = await import('node:fs')
  const { uid, gid } = statSync(join(like, 'PG_VERSION'))
  for (const name of ['', ...(readdirSync(made, { recursive: true }) as string[])])
    chownSync(join(made, name), uid, gid)
  chmodSync(made, 0o700)
}

/** A Redis that may be killed, frozen and robbed of its files, always at the same address. */
export type Memory = Awaited<ReturnType<typeof openMemory>>

export async function openMemory(wanted: Omit<RedisOptions, 'durable' | 'port'>) {
  const options = { ...wanted, durable: true, port: await freePort() }
  const redis = await startRedis(options)
  return {
    ...reviving(redis, () => startRedis(options)),
    url: redis.url,
    port: redis.port,
    /** Where the append-only file is. */
    files: join(options.dir, 'appendonlydir'),
    /** Removes everything it has written. It must not be running. */
    forget(): void {
      rmSync(join(options.dir, 'appendonlydir'), { recursive: true, force: true })
      rmSync(join(options.dir, 'dump.rdb'), { force: true })
      mkdirSync(options.dir, { recursive: true })
    },
  }
}
