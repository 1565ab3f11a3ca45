import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, mkdirSync, openSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { standBack } from '../priority.ts'
import { leash } from './leash.ts'
import { forget, reclaim, record } from './leftovers.ts'

/** Something that is kept running until it is stopped. */
export interface Kept {
  /** How often it died by itself. */
  deaths(): number
  stop(deadlineMs: number): Promise<void>
  kill(): void
}

const hasExited = (child: ChildProcess) => child.exitCode !== null || child.signalCode !== null
const wayOf = (child: ChildProcess) => child.signalCode ?? `exit code ${child.exitCode}`

interface Life {
  child: ChildProcess
  stop(deadlineMs: number): Promise<void>
}

/**
 * Starts it, and starts it again whenever it dies by itself: at once after a long life, ever later
 * after short ones.
 */
export async function keep(
  name: string,
  start: () => Promise<Life>,
  say: (line: string) => void,
): Promise<Kept> {
  let life = await start()
  let deaths = 0
  let stopping = false
  const stopped = new AbortController()
  let startedAt = performance.now()
  let waitMs = 0
  let restart: Promise<void> | undefined

  const onExit = (child: ChildProcess) => {
    if (stopping) return
    deaths++
    waitMs =
      performance.now() - startedAt > 60_000 ? 0 : Math.min(Math.max(250, waitMs * 2), 10_000)
    say(`${name} died (${wayOf(child)}), starting it again in ${waitMs} ms`)
    restart = again()
  }
  const again = async () => {
    await sleep(waitMs, undefined, { signal: stopped.signal }).catch(() => {})
    if (stopping) return
    try {
      startedAt = performance.now()
      life = await start()
      say(`${name} runs again, pid ${life.child.pid}`)
      watch()
    } catch (error) {
      waitMs = Math.min(waitMs * 2, 10_000)
      say(`${name} did not start: ${(error as Error).message}; again in ${waitMs} ms`)
      restart = again()
    }
  }
  const watch = () => {
    const { child } = life
    if (hasExited(child)) onExit(child)
    else child.once('exit', () => onExit(child))
  }
  watch()

  return {
    deaths: () => deaths,
    stop: async (deadlineMs) => {
      stopping = true
      stopped.abort()
      const patience = new Promise((resolve) => setTimeout(resolve, deadlineMs).unref())
      await Promise.race([restart, patience]) // a start in progress ends first, so that we see it
      await life.stop(deadlineMs)
    },
    kill: () => {
      stopping = true
      life.child.kill('SIGKILL')
    },
  }
}

/** One of our own processes; its output goes to the log file `log`. */
export async function startNode(options: {
  file: string
  /** Remembers the process, so that the next start finds it if this one is killed. */
  dir: string
  log: string
  env: Record<string, string | undefined>
  /** It shares its machine with those whom buyers wait for: see src/priority.ts. */
  behind?: boolean
}): Promise<Life> {
  mkdirSync(options.dir, { recursive: true, mode: 0o700 })
  await reclaim(options.dir, 'SIGTERM')
  const log = openSync(options.log, 'a', 0o600)
  // The second argument means nothing to the program: it is how `leftovers` knows the process.
  const child = spawn(process.execPath, [options.file, options.dir], {
    stdio: ['ignore', log, log],
    env: options.env,
    detached: true, // Ctrl-C is for us, and we stop the rooms one after the other
  })
  closeSync(log)
  leash(child, 'TERM')
  if (child.pid) record(child.pid, options.dir)
  await once(child, 'spawn') // or throws what went wrong
  if (options.behind) standBack(child.pid!)

  const stop = async (deadlineMs: number) => {
    if (!hasExited(child)) {
      const gone = once(child, 'exit')
      child.kill('SIGTERM')
      const force = setTimeout(() => child.kill('SIGKILL'), deadlineMs)
      await gone
      clearTimeout(force)
    }
    forget(options.dir)
  }
  return { child, stop }
}

/** The end of a log, for whoever has to say why something did not start. */
export function tail(logs: string, name: string, lines = 10): string {
  const text = readFileSync(join(logs, `${name}.log`), 'utf8')
  return text.trimEnd().split('\n').slice(-lines).join('\n')
}
