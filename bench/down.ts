import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, rmSync, writeFileSync } from 'node:fs'
import { createServer as createHttpServer } from 'node:http'
import { type AddressInfo, createServer, type Server } from 'node:net'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Command } from 'commander'
import { environmentOf } from '../src/config.ts'
import { scratchDir } from '../src/embedded/leftovers.ts'
import type { Bench } from './bench.ts'
import { type Target, target } from './targets.ts'

export type DownReport = { targets: Target[]; differences: string[] }

const cli = fileURLToPath(new URL('../src/cli', import.meta.url))
const patienceMs = 15_000

type Needs = 'redis' | 'postgres' | 'both' | 'none'
export type Asked = Partial<Record<Needs, string[]>>

/**
 * Which stores a verb cannot do without; `none`: it asks neither. Where they are up it need not succeed:
 * that there is no such book, say, is found out before Redis is asked. Words in capitals are filled in.
 */
export const verbs: Asked = {
  both: [
    ...['status', 'doctor', 'drain', 'reconcile', 'replay', 'accept-loss', 'queues retry WHY'],
    ...['rebuild --all', 'rebuild --shard 0', 'pause --intake WHY', 'resume --intake WHY'],
    ...['books open ID WHY', 'books pause ID WHY', 'coupon show X', 'coupon release X WHY'],
    ...['coupon void X WHY', 'coupon rollback ID WHY'],
  ],
  postgres: [
    ...['parked list', 'parked show 0/1-1/0', 'parked retry WHY', 'parked discard 0/1-1/0 WHY'],
    ...['jobs list', 'jobs show ID', 'jobs cancel ID WHY', 'jobs retry ID WHY'],
    ...['books list', 'books create --name x', 'books warm ID', 'books close ID WHY'],
    ...['books archive ID WHY', 'keys create x', 'keys revoke 0123456789abcdef WHY', 'migrate'],
    ...['resume --flush WHY', 'rebuild --book ID', 'admin create EMAIL', 'verify-certificate FILE'],
    'simulate --book ID --users 1 --time 1ms --url URL',
  ],
  redis: ['queues list', 'queues failed', 'queues clean'],
  none: ['config print', '--help'],
}

type Define = (program: Command) => void
/** Every verb that `--help` shows, as commander has them. */
export async function verbsOfHelp(): Promise<string[]> {
  const program = new Command()
  for (const file of readdirSync(cli))
    if (file !== 'main.ts')
      for (const [name, define] of Object.entries<Define>(await import(join(cli, file))))
        if (/Verbs?$/.test(name)) define(program)
  return program.commands.flatMap((of) =>
    of.commands.length > 0 ? of.commands.map((one) => `${of.name()} ${one.name()}`) : [of.name()],
  )
}

async function listening(server: Server): Promise<string> {
  await once(server.listen(0, '127.0.0.1'), 'listening')
  return `127.0.0.1:${(server.address() as AddressInfo).port}`
}

/**
 * Every verb of `npm run stampede` with Redis away, with PostgreSQL away, with both: refused connections,
 * and connections on which nobody says a word. How long until the operator knows?
 */
export async function down(
  { urls, say }: Pick<Bench, 'urls' | 'say'>,
  asked = verbs,
): Promise<DownReport> {
  const mute = createServer(() => {})
  // What rehearses asks an API first: this one is there, and refuses everybody.
  const api = createHttpServer((_, reply) => reply.writeHead(503).end('{}'))
  const [silent, url] = [await listening(mute), `http://${await listening(api)}`]
  const dir = scratchDir('down')
  const file = join(dir, 'certificate.json')
  writeFileSync(file, '{"signature":""}')
  const filled: Record<string, string[]> = {
    ...{ ID: ['83ff2693-cf4c-4ea8-a2c7-f3bb22244a1d'], WHY: ['--reason', 'a rehearsal'] },
    ...{ EMAIL: ['you@example.com'], FILE: [file], URL: [url] },
  }
  const differences: string[] = []
  const slowest = { ms: 0, what: '' }

  async function ask(verb: string, away: string, redis: string, postgres: string): Promise<number> {
    const begun = performance.now()
    const settings = { REDIS_URL: redis, DATABASE_URL: postgres, JWT_SECRET: 'x'.repeat(32) }
    const env = environmentOf(settings) as NodeJS.ProcessEnv
    const words = verb.split(' ').flatMap((word) => filled[word] ?? [word])
    const child = spawn(process.execPath, [join(cli, 'main.ts'), ...words], { env })
    child.stdin.on('error', () => {}) // only who wants a password reads it
    child.stdin.end('a long password\n')
    let said = ''
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (some) => (said += some))
    const timer = setTimeout(() => child.kill('SIGKILL'), patienceMs)
    const [code] = await once(child, 'close')
    clearTimeout(timer)
    const ms = performance.now() - begun
    const what = `${verb}, ${away}`
    if (ms > slowest.ms) Object.assign(slowest, { ms, what })
    if (code === 69 && !/does not answer|DOWN|no answer|connection/.test(said))
      differences.push(`${what}: 69, and says ${said.slice(0, 100)}`)
    return code ?? -1
  }

  const ways = { refused: '127.0.0.1:1', silent }
  for (const [needs, all] of Object.entries(asked))
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
            differences.push(`${verb} with ${away} ${way} ended with ${code}`)
        }
      }
  mute.close()
  api.close()
  rmSync(dir, { recursive: true, force: true })
  const seconds = slowest.ms / 1000
  say(`slowest: ${slowest.what}, ${seconds.toFixed(1)} s`)
  return {
    differences,
    targets: [target('slowest answer of a verb with a store away, s', seconds, 'at most', 3)],
  }
}
