import { readdirSync, writeFileSync } from 'node:fs'
import { constants, setPriority } from 'node:os'

/** A tenth of a core where somebody else wants all of it, and all that nobody else wants. */
const behind = 10

/**
 * Lets a process that was started in a session of its own, and whatever it starts, stand behind the others
 * of this machine. For what buyers do not wait for: the journal keeps what was sold until PostgreSQL has
 * it. Where it cannot be done it is not done.
 */
export function standBack(pid: number): void {
  try {
    lower(pid, behind)
    // Linux shares its cores among sessions first, and then niceness counts within one alone: sched(7), autogroup.
    writeFileSync(`/proc/${pid}/autogroup`, `${behind}`)
  } catch {}
}

/** Lets this process alone stand behind everybody, as one that has all the time in the world. */
export function standLast(): void {
  try {
    lower(process.pid, constants.priority.PRIORITY_LOW)
  } catch {}
}

/** All threads of a process: Linux knows a niceness for each. */
function lower(pid: number, niceness: number): void {
  setPriority(pid, niceness)
  if (process.platform !== 'linux') return
  for (const thread of readdirSync(`/proc/${pid}/task`)) setPriority(Number(thread), niceness)
}
