import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { environmentOf } from '../src/config.ts'
import type { Bench } from './bench.ts'

const main = fileURLToPath(new URL('../src/cli/main.ts', import.meta.url))

/** `stampede reconcile`, as an operator types it: what does not end with 0 is a difference. */
export async function reconciled({ urls }: Bench, ...more: string[]): Promise<string[]> {
  const child = spawn(process.execPath, [main, 'reconcile', '--json', ...more], {
    env: environmentOf({
      REDIS_URL: urls.redis,
      DATABASE_URL: urls.postgres,
    }) as NodeJS.ProcessEnv,
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  let said = ''
  child.stdout.on('data', (some) => (said += some))
  const [code] = await once(child, 'close')
  return code === 0 ? [] : [`reconcile ended with ${code}: ${said.slice(0, 500)}`]
}
