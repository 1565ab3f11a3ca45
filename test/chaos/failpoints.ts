import { readFileSync } from 'node:fs'
import { type Life, type Town, until } from './town.ts'

const modes = ['kill', 'throw', 'freeze'] as const
export type Failpoint = { point: string; mode: (typeof modes)[number]; order: string }

/**
 * The failpoint of a run: the points in turn, each time in another mode, so that three times as many
 * runs as there are points go through all of it. `pass`: at which pass it acts.
 */
export function failpointOf(run: number, points: readonly string[], pass = 1): Failpoint {
  const point = points[run % points.length]!
  const mode = modes[(run + Math.floor(run / points.length)) % modes.length]!
  return { point, mode, order: `${point}:${mode}:${pass}` }
}

/** For the table: how much of it there is, and how many runs go through each point once. */
export function variantsOf(points: readonly unknown[], perRun = 1): string {
  const variants = points.length * modes.length
  const turn = Math.ceil(points.length / perRun)
  return `${variants} variants, ${perRun} a run; ${turn} runs in a row go through every line`
}

/** Dead, or stopped by a signal. */
function hasEnded(pid: number): boolean {
  try {
    return /^\d+ \(.*\) [TZX]/s.test(readFileSync(`/proc/${pid}/stat`, 'utf8'))
  } catch {
    return true
  }
}

/** Waits until one of the processes has failed at its failpoint: a row that never did shows nothing. */
export async function reached(
  town: Town,
  lives: readonly Life[],
  { point, mode }: Failpoint,
  ms = 25_000,
): Promise<void> {
  const failed = (life: Life) =>
    mode === 'throw' ? town.log(life.name).includes(`failpoint ${point}`) : hasEnded(life.pid())
  await until(() => lives.some(failed), `${point}:${mode} was reached`, ms)
  if (mode === 'kill')
    await Promise.all(lives.map((life) => (hasEnded(life.pid()) ? life.exited() : undefined)))
}

/** What ended runs again: the dead are started without a failpoint, the frozen go on where they were. */
export function revive(lives: readonly Life[]): void {
  for (const life of lives) {
    if (life.alive()) life.signal('SIGCONT')
    else life.start()
  }
}
