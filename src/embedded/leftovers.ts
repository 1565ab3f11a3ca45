import { execFileSync } from 'node:child_process'
import {
  chmodSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { hostname, tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'

/** Beside the data of every private server: who it is and who started it. */
interface Server {
  pid: number
  parent: number
  dir: string
  started: string
  host: string
}
const recordName = 'server.json'
const scratch = 'stampede-test-'

/** A new directory for one test run or file; `sweep` removes it if nobody else did. */
export function scratchDir(name: string): string {
  const dir = realpathSync(mkdtempSync(join(tmpdir(), `${scratch}${name}-`)))
  chmodSync(dir, 0o711) // PostgreSQL's user has to reach what root keeps in it
  return dir
}

export function record(pid: number, dir: string): void {
  const started = new Date().toISOString()
  const server: Server = { pid, parent: process.pid, dir, started, host: hostname() }
  writeFileSync(join(dir, recordName), `${JSON.stringify(server)}\n`)
}

export function forget(dir: string): void {
  rmSync(join(dir, recordName), { force: true })
}

export function readRecord(dir: string): Server | undefined {
  try {
    return JSON.parse(readFileSync(join(dir, recordName), 'utf8')) as Server
  } catch {
    return undefined // none, half written, or another user's
  }
}

export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return !/^\d+ \(.*\) Z/s.test(stat(pid))
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}

function stat(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/stat`, 'utf8')
  } catch {
    return '' // macOS, or gone
  }
}

function ps(pid: number, column: string): string {
  try {
    const args = ['-ww', '-o', `${column}=`, '-p', `${pid}`]
    return execFileSync('ps', args, { stdio: ['ignore', 'pipe', 'ignore'] })
      .toString()
      .trim()
  } catch {
    return ''
  }
}

/** The command line of a process, '' if there is none: a pid alone may be somebody else's by now. */
export function commandOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ').trim()
  } catch {
    return process.platform === 'linux' ? '' : ps(pid, 'command')
  }
}

function parentOf(pid: number): number {
  const fields = stat(pid)
    .replace(/^.*\) /s, '')
    .split(' ')
  return Number(fields[1] ?? ps(pid, 'ppid'))
}

/** The recorded server, if that very process still runs. */
export function runningIn(dir: string): Server | undefined {
  const server = readRecord(dir)
  if (!server || server.host !== hostname()) return undefined
  return isAlive(server.pid) && commandOf(server.pid).includes(dir) ? server : undefined
}

/** Its parent died: the kernel gave the server to another one. */
export const isOrphan = (server: Server): boolean => parentOf(server.pid) !== server.parent

/** Ends a process that is not our child; returns when it is gone. */
export async function end(pid: number, signal: NodeJS.Signals, deadlineMs: number): Promise<void> {
  const until = performance.now() + deadlineMs
  for (let next: NodeJS.Signals = signal; isAlive(pid); next = 'SIGKILL') {
    try {
      process.kill(pid, next)
    } catch {
      return // gone in between
    }
    while (isAlive(pid) && (next === 'SIGKILL' || performance.now() < until)) await sleep(20)
  }
}

/**
 * Makes `dir` free for a new server: ends one whose parent died. Throws if its parent still lives,
 * because two servers on one directory destroy it.
 */
export async function reclaim(dir: string, signal: NodeJS.Signals): Promise<void> {
  const server = runningIn(dir)
  if (server && !isOrphan(server)) {
    throw new Error(`${dir} is in use by process ${server.pid}, started by ${server.parent}`)
  }
  if (server) await end(server.pid, signal, 5_000)
  forget(dir)
}

function list(dir: string): string[] {
  try {
    return readdirSync(dir).map((name) => join(dir, name))
  } catch {
    return [] // another user's, or gone
  }
}

/** Ends the servers that killed test runs left behind, and removes their scratch directories. */
export async function sweep(): Promise<void> {
  for (const top of list(realpathSync(tmpdir()))) {
    if (!top.includes('/stampede-')) continue
    const dirs = [top, ...list(top)]
    const servers = dirs.map(readRecord).filter((server) => server !== undefined)
    for (const dir of dirs) {
      const server = runningIn(dir)
      if (server && isOrphan(server)) await end(server.pid, 'SIGINT', 3_000)
    }
    const deserted = servers.every(
      (server) => server.host === hostname() && !isAlive(server.parent),
    )
    const hourOld =
      Date.now() - (statSync(top, { throwIfNoEntry: false })?.mtimeMs ?? 0) > 3_600_000
    // Without a record it may be just being filled; only our own scratch is ever removed.
    if (top.includes(`/${scratch}`) && deserted && (servers.length > 0 || hourOld)) {
      rmSync(top, { recursive: true, force: true })
    }
  }
}
