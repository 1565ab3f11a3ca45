import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { environmentOf } from '../src/config.ts'
import type { World } from './world.ts'

export const main = fileURLToPath(new URL('../src/cli/main.ts', import.meta.url))
export const why = ['--reason', 'a test']

/** Somebody who types commands at a world, and buys from its book. */
export function operator(at: () => { world: World; book: string }) {
  async function stampede(args: string[], more: Record<string, string> = {}) {
    const { REDIS_URL, DATABASE_URL } = at().world.settings
    const begun = performance.now()
    const env = environmentOf({ REDIS_URL, DATABASE_URL, ...more }) as NodeJS.ProcessEnv
    const child = spawn(process.execPath, [main, ...args], { env })
    let out = ''
    let err = ''
    child.stdout.on('data', (some) => (out += some))
    child.stderr.on('data', (some) => (err += some))
    const [code] = await once(child, 'close')
    return { code: code as number, out, err, ms: performance.now() - begun }
  }

  /** What a verb answers with --json. */
  async function asked(...args: string[]) {
    const { code, out, err } = await stampede([...args, '--json'])
    return { code, err, ...(out ? JSON.parse(out) : {}) }
  }

  const assign = (user = 'u') =>
    at().world.call('POST', 'coupons/assign', {
      as: at().world.service,
      body: { book_id: at().book, user_id: user },
    })
  return { stampede, asked, assign }
}
