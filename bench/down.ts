import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:net'
import { fileURLToPath } from 'node:url'
import { environmentOf } from '../src/config.ts'
import type { Bench } from './bench.ts'
import { type Target, target } from './targets.ts'

export type DownReport = { targets: Target[]; differences: string[] }

const main = fileURLToPath(new URL('../src/cli/main.ts', import.meta.url))
const id = '83ff2693-cf4c-4ea8-a2c7-f3bb22244a1d'
const why = ['--reason', 'a rehearsal']
const patienceMs = 15_000

/** Which stores a verb cannot do without; `none`: it asks neither. Where they are up it need not succeed. */
const verbs: Record<'redis' | 'postgres' | 'both' | 'none', string[][]> = {
  both: [
    ...[['status'], ['doctor'], ['drain'], ['reconcile'], ['replay'], ['rebuild', '--all']],
    ...[
      ['pause', '--intake', ...why],
      ['resume', '--flush', ...why],
      ['coupon', 'show', 'X'],
    ],
    ...[
      ['coupon', 'release', 'X', ...why],
      ['coupon', 'void', 'X', ...why],
    ],
    ['coupon', 'rollback', id, ...why],
  ],
  postgres: [
    ...[
      ['parked', 'list'],
      ['parked', 'show', '0/1-1/0'],
      ['parked', 'retry', ...why],
    ],
    ...[
      ['parked', 'discard', '0/1-1/0', ...why],
      ['jobs', 'list'],
      ['jobs', 'show', id],
    ],
    ...[
      ['jobs', 'cancel', id, ...why],
      ['jobs', 'retry', id, ...why],
      ['books', 'list'],
    ],
    ...[
      ['books', 'create', '--name', 'x'],
      ['books', 'open', id, ...why],
      ['books', 'warm', id],
    ],
    ...[
      ['books', 'pause', id, ...why],
      ['books', 'close', id, ...why],
    ],
    ...[['books', 'archive', id, ...why], ['keys', 'create', 'x'], ['migrate']],
  ],
  redis: [
    ['queues', 'list'],
    ['queues', 'failed'],
    ['queues', 'retry'],
    ['queues', 'clean'],
  ],
  none: [['config', 'print'], ['--help']],
}

/**
 * Every verb of `npm run stampede` with Redis away, with PostgreSQL away, with both: refused connections,
 * and connections on which nobody says a word. How long until the operator knows?
 */
export async function down({ urls, say }: Bench): Promise<DownReport> {
  const mute = createServer(() => {}).listen(0, '127.0.0.1')
  await once(mute, 'listening')
  const address = mute.address()
  const silent = `127.0.0.1:${typeof address === 'object' && address?.port}`
  const differences: string[] = []
  const slowest = { ms: 0, what: '' }

  async function ask(
    verb: string[],
    away: string,
    redis: string,
    postgres: string,
  ): Promise<number> {
    const begun = performance.now()
    const settings = { REDIS_URL: redis, DATABASE_URL: postgres, JWT_SECRET: 'x'.repeat(32) }
    const env = environmentOf(settings) as NodeJS.ProcessEnv
    const child = spawn(process.execPath, [main, ...verb], { env })
    let said = ''
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (some) => (said += some))
    const timer = setTimeout(() => child.kill('SIGKILL'), patienceMs)
    const [code] = await once(child, 'close')
    clearTimeout(timer)
    const ms = performance.now() - begun
    const what = `${verb.slice(0, 2).join(' ')}, ${away}`
    if (ms > slowest.ms) Object.assign(slowest, { ms, what })
    if (code === 69 && !/does not answer|DOWN|no answer|connection/.test(said))
      differences.push(`${what}: 69, and says ${said.slice(0, 100)}`)
    return code ?? -1
  }

  const ways = { refused: '127.0.0.1:1', silent }
  for (const [needs, all] of Object.entries(verbs))
    for (const verb of all)
      for (const [way, host] of Object.entries(ways)) {
        const [redis, postgres] = [`redis://${host}`, `postgres://a@${host}/a`]
        const outages = {
          redis: [redis, urls.postgres],
          postgres: [urls.redis, postgres],
          both: [redis, postgres],
        } as const
        for (const [away, its] of Object.entries(outages)) {
          const code = await ask(verb, `${away} ${way}`, ...its)
          const isDown = needs === 'both' || needs === away || (away === 'both' && needs !== 'none')
          if (isDown !== (code === 69))
            differences.push(`${verb.join(' ')} with ${away} ${way} ended with ${code}`)
        }
      }
  mute.close()
  const seconds = slowest.ms / 1000
  say(`slowest: ${slowest.what}, ${seconds.toFixed(1)} s`)
  return {
    differences,
    targets: [target('slowest answer of a verb with a store away, s', seconds, 'at most', 3)],
  }
}
