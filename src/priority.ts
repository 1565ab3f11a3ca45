import { readdirSync, writeFileSync } from 'node:fs'
import { constants, setPriority } from 'node:os'

/** A third of what each of the others has where all want the same core, and all that nobody else wants. */
const behind = 5
/** Linux takes one such word of an ordinary user in a tenth of a second. */
const againMs = 200

/**
 * Lets a process that was started in a session of its own, and whatever it starts, stand behind the others
 * of this machine; what begins a session for itself, as PostgreSQL's back ends do, only where sessions do not
 * count. Nobody who buys at `redis` level waits for it: the journal keeps what was sold until
 * PostgreSQL has it. Where it cannot be done it is not done.
 */
export function standBack(pid: number): void {
  lower(pid, behind)
  // Linux shares its cores among sessions first, and then niceness counts within one alone: sched(7), autogroup.
  const session = () => writeFileSync(`/proc/${pid}/autogroup`, `${behind}`)
  if (!managed(session)) setTimeout(() => managed(session), againMs).unref()
}

/** Lets this process stand behind all others of its session, and of the machine where sessions do not count. */
export function standLast(): void {
  lower(process.pid, constants.priority.PRIORITY_LOW)
}

/** All threads of a process: Linux knows a niceness for each. */
function lower(pid: number, niceness: number): void {
  managed(() => setPriority(pid, niceness))
  managed(() => {
    for (const thread of readdirSync(`/proc/${pid}/task`))
      managed(() => setPriority(Number(thread), niceness))
  })
}

function managed(what: () => void): boolean {
  try {
    what()
    return true
  } catch {
    return false
  }
}
