import { readdirSync, readFileSync } from 'node:fs'

/** CPU time used so far, in microseconds: by process trees, by this process, by the machine. */
export type CpuTimes = { of: Record<string, number>; own: number; machine: number; at: number }

/** Linux counts in hundredths of a second for programs, whatever its own clock is. */
const tickMicros = 10_000

type Process = { parent: number; micros: number }

/**
 * Every process: its own time and that of its children that have ended, so that the sum over a
 * living tree misses nobody and counts nobody twice.
 */
function processes(): Map<number, Process> {
  const found = new Map<number, Process>()
  for (const name of readdirSync('/proc').filter((entry) => /^\d+$/.test(entry))) {
    try {
      const stat = readFileSync(`/proc/${name}/stat`, 'utf8')
      const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
      const ticks = fields.slice(11, 15).reduce((sum, value) => sum + Number(value), 0)
      found.set(Number(name), { parent: Number(fields[1]), micros: ticks * tickMicros })
    } catch {
      // It ended between the listing and the reading; its parent counts it now.
    }
  }
  return found
}

function isWithin(all: Map<number, Process>, pid: number, root: number): boolean {
  for (let at = pid; at > 1; at = all.get(at)?.parent ?? 0) if (at === root) return true
  return false
}

/** The trees below these processes; undefined where there is no /proc to ask. */
export function cpuTimes(roots: Record<string, number>): CpuTimes | undefined {
  if (process.platform !== 'linux') return undefined
  const all = processes()
  const of = Object.fromEntries(
    Object.entries(roots).map(([name, root]) => {
      const tree = [...all].filter(([pid]) => isWithin(all, pid, root))
      return [name, tree.reduce((sum, [, { micros }]) => sum + micros, 0)]
    }),
  )
  // user nice system idle iowait irq softirq: all but the two in the middle is work.
  const total = readFileSync('/proc/stat', 'utf8').split('\n')[0]!.split(/\s+/).slice(1, 8)
  const busy = total.reduce((sum, value, i) => (i === 3 || i === 4 ? sum : sum + Number(value)), 0)
  const { user, system } = process.cpuUsage()
  return { of, own: user + system, machine: busy * tickMicros, at: performance.now() }
}

export type CpuUse = {
  /** Microseconds per request of each process tree. */
  perRequest: Record<string, number>
  /** What else ran here meanwhile, in percent of one core: a quiet machine is a precondition. */
  others: number
}

export function cpuUse(
  before: CpuTimes | undefined,
  after: CpuTimes | undefined,
  requests: number,
): CpuUse | undefined {
  if (!before || !after) return undefined
  const used = Object.entries(after.of).map(
    ([name, micros]) => [name, Math.max(0, micros - before.of[name]!)] as const,
  )
  const ours = used.reduce((sum, [, micros]) => sum + micros, after.own - before.own)
  const elapsed = (after.at - before.at) * 1000
  const others = after.machine - before.machine - ours
  return {
    perRequest: Object.fromEntries(used.map(([name, micros]) => [name, micros / requests])),
    others: Math.max(0, (100 * others) / elapsed),
  }
}

/** How many cores each process tree had meanwhile, this process, and everything else of the machine. */
export function coresUsed(before: CpuTimes, after: CpuTimes): Record<string, number> {
  const elapsed = (after.at - before.at) * 1000
  const used = Object.entries(after.of).map(
    ([name, micros]) => [name, micros - before.of[name]!] as const,
  )
  const own = after.own - before.own
  const others = used.reduce((left, [, micros]) => left - micros, after.machine - before.machine)
  const all = [...used, ['load', own] as const, ['others', Math.max(0, others - own)] as const]
  return Object.fromEntries(all.map(([name, micros]) => [name, micros / elapsed]))
}
