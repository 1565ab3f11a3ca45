import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { environmentOf } from '../src/config.ts'
import type { World } from './world.ts'

export const main = fileURLToPath(new URL('../src/cli/main.ts', import.meta.url))

/** The ops command as an operator of this world types it: how it ended, what it said, and its object with --json. */
export async function stampede({ settings }: Pick<World, 'settings'>, ...args: string[]) {
  const { REDIS_URL, DATABASE_URL } = settings
  const env = environmentOf({ REDIS_URL, DATABASE_URL }) as NodeJS.ProcessEnv
  const child = spawn(process.execPath, [main, ...args], { env })
  let out = ''
  let err = ''
  child.stdout.on('data', (some) => (out += some))
  child.stderr.on('data', (some) => (err += some))
  const [code] = await once(child, 'close')
  const said = args.includes('--json') && out ? JSON.parse(out) : undefined
  return { code: code as number | null, out, err, said }
}
