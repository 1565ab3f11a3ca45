import { spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { chownSync, existsSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import pg from 'pg'
import { commandOf, end, isAlive } from './leftovers.ts'
import { NoPostgres, type Owner } from './postgres-home.ts'

export const environment = { LC_ALL: 'C', TZ: 'UTC' } // and no PG* variable of the user's

/** Of the superuser; random, made once. */
export function password(place: string, owner?: Owner): string {
  const path = join(place, 'password')
  if (!existsSync(path)) {
    writeFileSync(path, randomBytes(24).toString('hex'), { mode: 0o600 })
    if (owner) chownSync(path, owner.uid, owner.gid)
  }
  return readFileSync(path, 'utf8').trim()
}

/** Makes the cluster under another name: one that was killed halfway is never taken for whole. */
export function initialize(
  bin: string,
  major: number,
  place: string,
  owner?: Owner,
  fast = false,
): void {
  const data = join(place, 'data')
  const version = join(data, 'PG_VERSION')
  if (existsSync(version)) {
    const made = Number(readFileSync(version, 'utf8'))
    if (made === major) return
    throw new NoPostgres(`${data} is of PostgreSQL ${made}, and this machine offers ${major}.`)
  }
  const partial = join(place, 'data.new')
  rmSync(partial, { recursive: true, force: true })
  password(place, owner)
  // Version 17 brings C.UTF-8 itself; minimal images and macOS lack it.
  const locale =
    major >= 17
      ? ['--locale=C', '--locale-provider=builtin', '--builtin-locale=C.UTF-8']
      : ['--locale=C']
  const args = [
    ...['-D', partial, '-U', 'stampede', `--pwfile=${join(place, 'password')}`],
    ...['--auth=scram-sha-256', '--encoding=UTF8', ...locale, ...(fast ? ['--no-sync'] : [])],
  ]
  const options = { ...owner, env: environment, cwd: place, encoding: 'utf8' } as const
  const run = spawnSync(join(bin, 'initdb'), args, options)
  if (run.status !== 0) throw new Error(`initdb failed: ${run.stderr || run.stdout || run.error}`)
  renameSync(partial, data)
}

/** PostgreSQL trusts the pid in this file, which in a container is soon somebody else's. */
export async function clearPidFile(data: string): Promise<void> {
  const path = join(data, 'postmaster.pid')
  if (!existsSync(path)) return
  const pid = Number(readFileSync(path, 'utf8').split('\n')[0])
  if (pid > 0 && isAlive(pid) && commandOf(pid).includes(data)) await end(pid, 'SIGINT', 5_000)
  rmSync(path, { force: true })
}

export async function createDatabase(admin: string, name: string): Promise<void> {
  const client = new pg.Client({ connectionString: admin })
  await client.connect()
  try {
    const found = await client.query('SELECT 1 FROM pg_database WHERE datname = $1', [name])
    if (found.rowCount === 0) await client.query(`CREATE DATABASE ${client.escapeIdentifier(name)}`)
  } finally {
    await client.end()
  }
}
