import {
  chmodSync,
  closeSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { join } from 'node:path'
import { commandOf, isAlive } from './leftovers.ts'
import { CannotStart } from './steps.ts'

/** run.json: for whoever wants to talk to a running `npm start`. The URLs contain passwords. */
export interface Running {
  pid: number
  http: string
  redis: string
  postgres: string
}

function readRunning(dir: string): Running | undefined {
  try {
    return JSON.parse(readFileSync(join(dir, 'run.json'), 'utf8')) as Running
  } catch {
    return undefined
  }
}

export function writeRunning(dir: string, running: Running): void {
  const partial = join(dir, `run.json.${process.pid}`)
  writeFileSync(partial, `${JSON.stringify(running, null, 2)}\n`, { mode: 0o600 })
  renameSync(partial, join(dir, 'run.json'))
}

const lockPath = (dir: string) => join(dir, 'start.pid')

/** The pid of the `npm start` that has this directory; a recycled pid is some other program. */
function holder(dir: string): number | undefined {
  try {
    const pid = Number(readFileSync(lockPath(dir), 'utf8'))
    const lives = pid > 0 && pid !== process.pid && isAlive(pid)
    return lives && commandOf(pid).includes('embedded/start.ts') ? pid : undefined
  } catch {
    return undefined
  }
}

/**
 * Takes the directory for this process, or says who has it. Two that start in the same moment
 * cannot both create the file.
 */
function takeDirectory(dir: string): number | undefined {
  for (;;) {
    try {
      const file = openSync(lockPath(dir), 'wx', 0o600)
      writeSync(file, `${process.pid}`)
      closeSync(file)
      rmSync(join(dir, 'run.json'), { force: true }) // of one that was killed
      return undefined
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
    }
    const pid = holder(dir)
    if (pid !== undefined) return pid
    rmSync(lockPath(dir), { force: true })
  }
}

const logBytesMax = 20_000_000

/** Logs are appended to; a long one makes room at a start, and the one before it goes. */
function rotate(logs: string): void {
  for (const name of readdirSync(logs).filter((entry) => entry.endsWith('.log'))) {
    const path = join(logs, name)
    if (statSync(path).size > logBytesMax) renameSync(path, `${path}.old`)
  }
}

/** The directory of everything, made and taken for this process. */
export function openDirectory(path: string): string {
  mkdirSync(join(path, 'logs'), { recursive: true, mode: 0o711 })
  const dir = realpathSync(path)
  chmodSync(dir, 0o711) // PostgreSQL's user passes through it when we are root
  const holder = takeDirectory(dir)
  if (holder !== undefined) {
    const at = readRunning(dir)?.http
    const state = at ? `already running at ${at}` : 'already starting'
    throw new CannotStart(`${state}, pid ${holder} (data in ${dir})`)
  }
  rotate(join(dir, 'logs'))
  return dir
}

export function giveBackDirectory(dir: string): void {
  rmSync(join(dir, 'run.json'), { force: true })
  rmSync(lockPath(dir), { force: true })
}
