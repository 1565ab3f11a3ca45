import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { environmentOf } from '../src/config.ts'
import { adminLogin, demoLogins, demoPassword } from '../src/embedded/demo.ts'
import { leash } from '../src/embedded/leash.ts'
import { scratchDir } from '../src/embedded/leftovers.ts'
import type { Running } from '../src/embedded/running.ts'
import { problemCodes, problemStatus } from '../src/problems.ts'
import { keys } from '../src/store/keys.ts'

/** What README.md and ARCHITECTURE.md say, held against what is: on a real `npm start` of its own. */
vi.setConfig({ testTimeout: 60_000 })
const root = resolve(import.meta.dirname, '..')
const text = (file: string) => readFileSync(join(root, file), 'utf8')
const readme = text('README.md')
const dir = scratchDir('readme')
const shown = 'http://127.0.0.1:8000'

/** The fenced blocks of README in a language, without the fences. */
const blocks = (language: string): string[] =>
  [...readme.matchAll(new RegExp(`^\`\`\`${language}\\n([\\s\\S]*?)^\`\`\`$`, 'gm'))].map(
    ([, block]) => block!,
  )
/** The lines of the table whose head begins with this column. */
function table(column: string, of = readme): string[] {
  const lines = of.split('\n')
  const head = lines.findIndex((line) => line.startsWith(`| ${column} |`))
  const rest = lines.slice(head + 2)
  return rest.slice(
    0,
    rest.findIndex((line) => !line.startsWith('|')),
  )
}

let child: ChildProcess
let output = ''
let base: string

beforeAll(async () => {
  const main = join(root, 'src/embedded/start.ts')
  const none = { REDIS_URL: '', DATABASE_URL: '', JWT_SECRET: '' }
  const env = environmentOf({
    ...none,
    HOST: '127.0.0.1',
    PORT: '0',
    DATA_DIR: join(dir, '.stampede'),
  })
  child = spawn(process.execPath, [main], { env, stdio: ['ignore', 'pipe', 'pipe'] })
  leash(child, 'TERM')
  for (const stream of [child.stdout!, child.stderr!]) stream.on('data', (some) => (output += some))
  while (!/^ready .*\n$/m.test(output)) {
    if (child.exitCode !== null) throw new Error(`npm start ended:\n${output}`)
    await sleep(20)
  }
  const running = readFileSync(join(dir, '.stampede/run.json'), 'utf8')
  base = (JSON.parse(running) as Running).http
})
afterAll(async () => {
  child.kill('SIGTERM')
  await once(child, 'exit')
  rmSync(dir, { recursive: true, force: true })
})

type Json = Record<string, unknown>
async function call(method: string, path: string, as?: string, body?: Json) {
  const response = await fetch(`${base}${path}`, {
    method,
    headers: {
      ...(as ? { authorization: `Bearer ${as}` } : {}),
      ...(body ? { 'content-type': 'application/json' } : {}),
    },
    body: body ? JSON.stringify(body) : undefined,
  })
  const reply = await response.text()
  const isJson = /json/.test(response.headers.get('content-type') ?? '')
  return { status: response.status, body: (isJson ? JSON.parse(reply) : {}) as Json }
}

describe('README', () => {
  test('has fewer than 200 lines', () => {
    expect(readme.split('\n').length - 1).toBeLessThan(200)
  })

  test('and docs/api.md show every route with who may call it and what it is for', async () => {
    const logIn = async (email: string, password: string) =>
      `${(await call('POST', '/api/v1/auth/login', undefined, { email, password })).body.access_token}`
    const admin = await logIn(adminLogin.email, adminLogin.password)
    const callers: [string, string | undefined][] = [
      ['nobody', undefined],
      ['user', await logIn(demoLogins[1]!.email, demoPassword)],
      ['key', `${(await call('POST', '/api/v1/api-keys', admin, { name: 'test' })).body.key}`],
      ['admin', admin],
    ]
    const words: Record<string, string> = {
      'nobody user key admin': 'everyone',
      'user key admin': 'signed in',
      'user admin': 'users, admins',
      'key admin': 'keys, admins',
      admin: 'admins',
    }
    const uuid = '00000000-0000-4000-8000-000000000000'
    const values: Record<string, string> = { code: 'NONE', key_id: '0'.repeat(16), user_id: 'me' }

    const { paths } = (await call('GET', '/openapi.json')).body as {
      paths: Record<string, Record<string, { summary: string }>>
    }
    const rows: string[] = []
    for (const [path, methods] of Object.entries(paths))
      for (const [name, { summary }] of Object.entries(methods)) {
        const method = name.toUpperCase()
        const at = path.replaceAll(/\{(\w+)\}/g, (_, hole) => values[hole] ?? uuid)
        const may: string[] = []
        for (const [who, token] of callers) {
          const body = ['POST', 'PUT', 'PATCH'].includes(method) ? {} : undefined
          const { status } = await call(method, at, token, body)
          if (status !== 401 && status !== 403) may.push(who)
        }
        // Operators' routes have a page of their own.
        if (path.startsWith('/api/v1/ops/')) continue
        rows.push(`| ${method} | ${path} | ${words[may.join(' ')]} | ${summary} |`)
      }
    expect(rows.length).toBeGreaterThan(30)
    expect(table('Method', text('docs/api.md')).join('\n')).toBe(rows.join('\n'))
    expect(table('Method').filter((row) => !rows.includes(row))).toEqual([])
    expect(table('Method').length).toBeGreaterThan(10)
  })

  test('lists every problem by its status', () => {
    const byStatus = Object.groupBy(problemCodes, (code) => String(problemStatus(code)))
    const rows = Object.entries(byStatus).map(
      ([status, codes]) => `| ${status} | ${codes!.map((code) => `\`${code}\``).join(', ')} |`,
    )
    expect(table('Status').join('\n')).toBe(rows.join('\n'))
  })

  test.each(['README.md', 'ARCHITECTURE.md', 'CHANGELOG.md'])('%s names what exists', (file) => {
    const links = [...text(file).matchAll(/\]\(([^)]+)\)/g)].map(([, link]) => link!)
    const local = links.filter((link) => !/^(https?:|#)/.test(link))
    expect(local.filter((link) => !existsSync(join(root, link.split('#')[0]!)))).toEqual([])
    const named = [...text(file).matchAll(/\b(?:src|workers|lua|test|bench|docs)\/[\w./-]+\.\w+/g)]
    expect(named.map(([path]) => path).filter((path) => !existsSync(join(root, path)))).toEqual([])
    const { scripts } = JSON.parse(text('package.json'))
    const runs = [...text(file).matchAll(/npm run (\w+)/g)].map(([, script]) => script!)
    expect(runs.filter((script) => !(script in scripts))).toEqual([])
  })

  test('shows the steps that npm start takes', () => {
    const steps = (from: string) =>
      from
        .split('\n')
        .filter((line) => /^\w+ +.*\(.*s\)$|^ready /.test(line))
        .map((line) =>
          line.replace(/\([\d.]+ m?s\)$/, '(time)').replace(/127\.0\.0\.1:\d+/, 'address'),
        )
    const transcript = blocks('console').find((block) => block.startsWith('$ npm start'))!
    const own = transcript.slice(transcript.search(/^redis +127/m))
    expect(steps(own)).toEqual(steps(output))
  })
})

/** Ids, tokens, times and codes differ from run to run; all the rest must be as README prints it. */
const masked = (reply: string) =>
  reply
    .replaceAll(/eyJ[\w.-]+/g, '<jwt>')
    .replaceAll(/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/g, '<id>')
    .replaceAll(/\d{4}-\d\d-\d\dT[\d:.]+Z/g, '<time>')
    .replaceAll(/"(request_id|lock_token)":"[\w-]+"/g, '"$1":"<token>"')
    .replaceAll(/SUMMER-\w+-2026/g, 'SUMMER-<code>')
    .replaceAll(/VIP-\w+/g, 'VIP-<code>')

const isHere = (program: string) => spawnSync(program, ['--version']).error === undefined

/** Runs a script as a reader would paste it, but against our service and beside its data. */
function run(script: string): string {
  const env = environmentOf({})
  if (!isHere('psql')) {
    // What the script needs of psql -Atc, for machines that have none.
    writeFileSync(
      join(dir, 'psql'),
      `#!/usr/bin/env node
const { Client } = require('${join(root, 'node_modules/pg')}')
const [url, , sql] = process.argv.slice(2)
const client = new Client({ connectionString: url })
client.connect()
  .then(() => client.query({ text: sql, rowMode: 'array' }))
  .then(({ rows }) => { for (const row of rows) console.log(row.join('|')); return client.end() })
`,
      { mode: 0o755 },
    )
    env.PATH = `${dir}:${env.PATH}`
  }
  const done = spawnSync('bash', ['-e'], {
    cwd: dir,
    env,
    input: script.replaceAll(shown, base),
    encoding: 'utf8',
  })
  expect(done.stderr).toBe('')
  expect(done.status).toBe(0)
  return done.stdout.replaceAll(base, shown)
}

describe.skipIf(!isHere('curl') || !isHere('bash'))('README, copied into a shell', () => {
  test('its curls are answered as it prints', () => {
    const [block] = blocks('console').filter((some) => some.startsWith('$ curl'))
    const lines = block!.trimEnd().split('\n')
    const commands = lines.filter((line) => line.startsWith('$ ')).map((line) => line.slice(2))
    expect(commands).toHaveLength(2)
    const replies = commands.map((command) => masked(run(command)))
    expect(replies).toEqual(lines.filter((line) => !line.startsWith('$ ')).map(masked))
  })

  test('its script locks, is refused, redeems, and finds it all in the ledger', () => {
    const [script] = blocks('bash')
    const [replies] = blocks('text')
    expect(masked(run(script!))).toBe(masked(replies!))
  })
})

describe('ARCHITECTURE', () => {
  const architecture = text('ARCHITECTURE.md')

  test('names every key of the store', () => {
    const { all: _, ...named } = keys
    const patterns = Object.values(named).map((key) => key(3, '<>' as never).split('<')[0]!)
    expect(patterns.filter((pattern) => !architecture.includes(`\`${pattern}`))).toEqual([])
  })

  test('names every table', () => {
    const folder = 'src/ledger/migrations'
    const files = readdirSync(join(root, folder)).filter((file) => file.endsWith('.sql'))
    const sql = files.map((file) => text(join(folder, file))).join('\n')
    const tables = [...sql.matchAll(/^CREATE TABLE (\w+)/gm)].map(([, name]) => name!)
    expect(tables.length).toBeGreaterThan(10)
    expect(tables.filter((name) => !new RegExp(`\\b${name}\\b`).test(architecture))).toEqual([])
  })
})
