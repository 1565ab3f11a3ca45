import { readConfig } from './config.ts'

/** What a failpoint that was reached does: the process dies, the line fails, or time stands still. */
const modes: Record<string, (name: string) => void> = {
  kill: () => void process.kill(process.pid, 'SIGKILL'),
  throw: (name) => {
    throw new Error(`failpoint ${name}`)
  },
  /** Until somebody sends SIGCONT. */
  freeze: () => void process.kill(process.pid, 'SIGSTOP'),
}

/**
 * A named line at which a test may have this process killed, stopped or made to throw:
 * `FAILPOINT=flush.after-commit:kill:3` at the third pass, and at that one only. Without the variable
 * it is an empty function.
 */
export const failpoint: (name: string) => void = armed(readConfig(['FAILPOINT']).FAILPOINT)

function armed(order: string | undefined): (name: string) => void {
  if (!order) return () => {}
  const [wanted, mode, count] = order.split(':') as [string, string, string | undefined]
  let passes = 0
  return (name) => {
    if (name === wanted && ++passes === Number(count ?? 1)) modes[mode]!(name)
  }
}
