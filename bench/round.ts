import { type ChildProcess, fork } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { type CpuUse, cpuTimes, cpuUse } from './cpu.ts'
import { type Lag, watchLag } from './lag.ts'
import type { LoadMessage, LoadOrder, LoadResult } from './load.ts'
import type { Stores } from './stores.ts'

/** One run of the load generator and what was seen meanwhile. */
export type Round = Omit<LoadResult, 'is' | 'acknowledged'> & {
  name: string
  perSecond: number
  cpu: CpuUse | undefined
  lag?: Lag
  /** From the last answer until PostgreSQL had everything. */
  levelMs?: number
  factsPerCall?: number
  factsPerFlush?: number
  differences: string[]
}
export type Watch = { stores: Stores; shard: number }

const levelMs = 30_000

/** A file of ours in its own process, which ends with us; its output is ours. */
export function forkFile(name: string): ChildProcess {
  return fork(fileURLToPath(new URL(name, import.meta.url)), [], { serialization: 'advanced' })
}

/** Resolves with the next message that is a `T`; rejects if the process ends before. */
export function heard<T>(child: ChildProcess, is: (message: unknown) => boolean): Promise<T> {
  return new Promise((resolve, reject) => {
    const onMessage = (message: unknown) => {
      if (!is(message)) return
      child.off('message', onMessage)
      child.off('exit', onExit)
      resolve(message as T)
    }
    const onExit = (code: number | null) => reject(new Error(`a child ended with ${code}`))
    child.on('message', onMessage)
    child.once('exit', onExit)
  })
}
const kind = (is: LoadMessage['is']) => (message: unknown) => (message as LoadMessage).is === is

/**
 * Runs one load. With something to watch it lasts until PostgreSQL is level, so that the flushing
 * of what was accepted is in the CPU time too.
 */
export async function runRound(
  name: string,
  order: LoadOrder,
  pids: Record<string, number>,
  watch?: Watch,
): Promise<Round & { acknowledged: Uint8Array }> {
  const child = forkFile('./load.ts')
  try {
    await heard(child, kind('ready'))
    const roots = { ...pids, load: child.pid! }
    const before = cpuTimes(roots)
    const stopLag = watch && watchLag(() => watch.stores.progress(watch.shard))
    const [ended, reported] = [
      heard<{ at: number }>(child, kind('ended')),
      heard<LoadResult>(child, kind('result')),
    ]
    reported.catch(() => {}) // whatever goes wrong is heard of by `ended` first
    child.send(order)
    const { at } = await ended
    const level = watch && (await watch.stores.untilLevel(levelMs)) ? Date.now() - at : undefined
    const lag = await stopLag?.()
    const { is: _, ...result } = await reported
    const cpu = cpuUse(before, cpuTimes(roots), result.answers)
    const perSecond = result.accepted / result.seconds
    return { name, ...result, perSecond, cpu, lag, levelMs: level, differences: [] }
  } finally {
    child.disconnect()
  }
}
