import { randomInt } from 'node:crypto'
import { createServer } from 'node:net'
import { CannotStart } from './steps.ts'

/** Below those that Linux (32768) and macOS (49152) give to whoever connects to somebody. */
const [lowest, count] = [20_000, 12_000]

/**
 * A port of 127.0.0.1 that was free a moment ago. One that the kernel picks would be of those that it
 * gives to outgoing connections too, and be taken until somebody listens, or while it is restarted.
 */
export async function freePort(): Promise<number> {
  for (let attempt = 0; attempt < 100; attempt++) {
    const port = lowest + randomInt(count)
    if (await isFree(port, '127.0.0.1')) return port
  }
  throw new CannotStart(`no port of 100 from ${lowest} on is free`)
}

/** Whether a server could listen there now. */
export function isFree(port: number, host: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = createServer()
    probe.once('error', () => resolve(false))
    probe.listen(port, host, () => probe.close(() => resolve(true)))
  })
}

/** The port asked for, or any for 0. A taken one is an expected reason not to start. */
export async function choosePort(host: string, port: number): Promise<number> {
  if (port === 0) return freePort()
  if (await isFree(port, host)) return port
  for (let next = port + 1; next < Math.min(port + 100, 65_536); next++) {
    if (!(await isFree(next, host))) continue
    throw new CannotStart(`port ${port} is taken; ${next} is free: PORT=${next} npm start`)
  }
  throw new CannotStart(`port ${port} is taken; choose another: PORT=... npm start`)
}

/** Where a client of this machine finds what listens there. */
export function httpUrl(host: string, port: number): string {
  const reachable = { '0.0.0.0': '127.0.0.1', '::': '[::1]' }[host]
  return `http://${reachable ?? (host.includes(':') ? `[${host}]` : host)}:${port}`
}
