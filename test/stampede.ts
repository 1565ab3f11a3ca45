import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { environmentOf } from '../src/config.ts'
import type { World } from './world.ts'

export const main = fileURLToPath(new URL('../src/cli/main.ts', import.meta.url))

/** The ops command as somebody types it in this environment: how it ended, what it said, and how long it took. */
export async function typed(
  { REDIS_URL, DATABASE_URL }: Pick<World['settings'], 'REDIS_URL' | 'DATABASE_URL'>,
  args: string[],
  more: Record<string, string> = {},
) {
  const begun = performance.now()
  const env = environmentOf({ REDIS_URL, DATABASE_URL, ...more }) as NodeJS.ProcessEnv
  const child = spawn(process.execPath, [main, ...args], { env })
  let out = ''
  let err = ''
  child.stdout.on('data', (some) => (out += some))
  child.stderr.on('data', (some) => (err += some))
  const [code] = await once(child, 'close')
  return { code: code as number | null, out, err, ms: performance.now() - begun }
}

/** The same of an operator of this world, with its object where --json asks for it. */
export async function stampede({ settings }: Pick<World, 'settings'>, ...args: string[]) {
  const { code, out, err } = await typed(settings, args)
  const said = args.includes('--json') && out ? JSON.parse(out) : undefined
  return { code, out, err, said }
}
