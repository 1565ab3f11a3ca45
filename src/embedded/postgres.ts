import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, openSync, readFileSync } from 'node:fs'
import { totalmem } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { standBack } from '../priority.ts'
import { leash } from './leash.ts'
import { forget, reclaim, record } from './leftovers.ts'
import { freePort } from './ports.ts'
import {
  clearPidFile,
  createDatabase,
  environment,
  initialize,
  password,
} from './postgres-cluster.ts'
import { type Owner, postgresBinaries, postgresOwner, postgresPlace } from './postgres-home.ts'

export interface PostgresOptions {
  /** Its own directory: data, password, log. */
  dir: string
  port?: number
  /** For tests: smaller, made and stopped without waiting for the disk. */
  fast?: boolean
  /** Created if absent. */
  database?: string
  log?: string
  /** Seconds it stays after this process was killed, for those who still need it. */
  graceSeconds?: number
  /** It shares its machine with those whom buyers wait for: see src/priority.ts. */
  behind?: boolean
}

export interface PrivatePostgres {
  url: string
  port: number
  pid: number
  child: ChildProcess
  /** Where the files really are: not in `dir` when root keeps that one to itself. */
  place: string
  stop(deadlineMs?: number): Promise<void>
}

const recoveryMs = 120_000 // after a crash it reads its log first

/**
 * A quarter of the memory that we may have, as its manual says, and 1 GB at most: a million codes, half of them
 * assigned, are 600 MB. What does not fit is written out and read again, page by page, by whoever reads next.
 */
function buffersMb(): number {
  const all = Math.min(totalmem(), process.constrainedMemory() || Number.POSITIVE_INFINITY)
  return Math.max(128, Math.floor(Math.min(all / 4, 2 ** 30) / 2 ** 20))
}

/** Two cores, shared with Redis and Node. */
const settings = {
  listen_addresses: '127.0.0.1',
  unix_socket_directories: '',
  max_connections: '100',
  shared_buffers: `${buffersMb()}MB`,
  effective_cache_size: `${2 * buffersMb()}MB`,
  work_mem: '16MB',
  maintenance_work_mem: '128MB',
  max_wal_size: '2GB',
  checkpoint_timeout: '15min',
  random_page_cost: '1.1',
  jit: 'off',
  // Parallel queries need more of /dev/shm than a container's 64 MB, and a core we have not got.
  max_parallel_workers_per_gather: '0',
  max_parallel_maintenance_workers: '0',
  timezone: 'UTC',
  log_timezone: 'UTC',
}

/** What makes a commit last stays on: without it the service would refuse to serve. */
const fastSettings = {
  // Tests open several installations at once, each with the pools of all its processes.
  max_connections: '300',
  shared_buffers: '128MB',
  effective_cache_size: '1GB',
  wal_level: 'minimal',
  max_wal_senders: '0',
}

/** What `pg_ctl -w` waits for: our process, and its word that recovery is over. */
function isReady(data: string, pid: number): boolean {
  try {
    const lines = readFileSync(join(data, 'postmaster.pid'), 'utf8').split('\n')
    return Number(lines[0]) === pid && lines[7]?.trim() === 'ready'
  } catch {
    return false // not written yet
  }
}

async function stop(
  child: ChildProcess,
  dir: string,
  fast = false,
  deadlineMs = 5_000,
): Promise<void> {
  if (child.exitCode === null && child.signalCode === null) {
    const gone = once(child, 'exit')
    child.kill(fast ? 'SIGQUIT' : 'SIGINT') // "fast": ends sessions and writes a checkpoint
    const force = setTimeout(() => child.kill('SIGQUIT'), deadlineMs)
    const last = setTimeout(() => child.kill('SIGKILL'), deadlineMs + 1_000)
    await gone
    clearTimeout(force)
    clearTimeout(last)
  }
  forget(dir)
}

async function attempt(
  options: PostgresOptions,
  { bin, place, owner }: { bin: string; place: string; owner: Owner | undefined },
  port: number,
): Promise<PrivatePostgres> {
  const data = join(place, 'data')
  const all = { ...settings, ...(options.fast ? fastSettings : {}), port: `${port}` }
  const flags = Object.entries(all).flatMap(([name, value]) => ['-c', `${name}=${value}`])
  const path = options.log ?? join(place, 'postgres.log')
  const log = openSync(path, 'a', 0o600)
  const child = spawn(join(bin, 'postgres'), ['-D', data, ...flags], {
    ...owner,
    stdio: ['ignore', log, log],
    cwd: place,
    env: environment,
    detached: true, // Ctrl-C is for us: we stop it when its clients are gone
  })
  closeSync(log)
  let failure: Error | undefined
  child.once('error', (error) => {
    failure = error
  })
  leash(child, 'INT', options.graceSeconds)
  if (child.pid) record(child.pid, place)
  if (child.pid && options.behind) standBack(child.pid)

  const until = performance.now() + recoveryMs
  while (child.pid && child.exitCode === null && child.signalCode === null) {
    if (isReady(data, child.pid)) {
      const stopped = (deadlineMs?: number) => stop(child, place, options.fast, deadlineMs)
      const url = `postgres://stampede:${password(place, owner)}@127.0.0.1:${port}`
      return { url: `${url}/postgres`, port, pid: child.pid, child, place, stop: stopped }
    }
    if (performance.now() > until) break
    await sleep(10)
  }
  await stop(child, place, true)
  const tail = readFileSync(path, 'utf8').trimEnd().split('\n').slice(-8).join('\n')
  throw failure ?? new Error(`PostgreSQL did not start on port ${port}:\n${tail}`)
}

/** A PostgreSQL of our own on 127.0.0.1; never one that was found on 5432. */
export async function startPostgres(options: PostgresOptions): Promise<PrivatePostgres> {
  const owner = postgresOwner()
  const { bin, major } = postgresBinaries(owner)
  const place = postgresPlace(options.dir, owner)
  await reclaim(place, 'SIGINT')
  initialize(bin, major, place, owner, options.fast)
  await clearPidFile(join(place, 'data'))
  for (let clashes = 0; ; clashes++) {
    try {
      const port = options.port ?? (await freePort())
      const server = await attempt(options, { bin, place, owner }, port)
      if (options.database) {
        await createDatabase(server.url, options.database)
        server.url = server.url.replace(/postgres$/, options.database)
      }
      return server
    } catch (error) {
      if (clashes === 4 || !/in use|could not bind/i.test((error as Error).message)) throw error
      if (options.port) await sleep(250) // ours may still be letting go of it
    }
  }
}
