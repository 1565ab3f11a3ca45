import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import pg from 'pg'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { environmentOf } from '../src/config.ts'
import { scratchDir } from '../src/embedded/leftovers.ts'
import { freePort } from '../src/embedded/ports.ts'
import { type PrivatePostgres, startPostgres } from '../src/embedded/postgres.ts'
import { makeApiKey } from '../src/http/tokens.ts'
import { openDatabase } from '../src/ledger/database.ts'
import { getTableColumns, getTableName, is, PgTable } from '../src/ledger/drizzle.ts'
import * as schema from '../src/ledger/schema.ts'
import { scriptNames } from '../src/store/lua.ts'
import { couponStates } from '../src/store/record.ts'
import { verbs } from '../src/store/verbs.ts'
import { openProcesses } from './processes.ts'
import { until } from './world.ts'

/**
 * docs/deploying.md, command by command: the first steps, a backup, and the restore drill, on a
 * PostgreSQL of this file's own. What systemd would do to it is done by the test.
 */
const root = resolve(import.meta.dirname, '..')
const page = readFileSync(join(root, 'docs/deploying.md'), 'utf8')
type Block = { of: string; lines: string[] }
const blocks: Block[] = [...page.matchAll(/```(sh|sql)\n(.*?)```/gs)].map(([, of, text]) => ({
  of: of!,
  lines: text!.split('\n').filter((line) => line !== ''),
}))

const dir = scratchDir('deploying')
const postgresDir = join(dir, 'postgres')
const backup = join(dir, 'backup')
const password = join(dir, 'password')
let server: PrivatePostgres
let port: number
let house: Awaited<ReturnType<typeof openProcesses>>
let variables: Record<string, string>

const start = () => startPostgres({ dir: postgresDir, port, database: 'stampede' })

beforeAll(async () => {
  mkdirSync(backup, { recursive: true })
  writeFileSync(password, 'a long password\n')
  port = await freePort()
  server = await start()
  // Where its owner may write, who is not root.
  const archive = join(server.place, 'data-archive')
  mkdirSync(archive)
  const data = join(server.place, 'data')
  variables = { PGDATA: data, ARCHIVE: archive, BACKUP: backup, PASSWORD: password }
  await shell(`chown --reference=${data} ${archive}`)
  house = await openProcesses({ databaseUrl: server.url })
})
afterAll(async () => {
  await house?.close()
  await server?.stop()
  if (server) rmSync(server.place, { recursive: true, force: true })
  rmSync(dir, { recursive: true, force: true })
})

const filled = (line: string) =>
  Object.entries(variables).reduce(
    (text, [name, value]) => text.replaceAll(`$${name}`, value),
    line,
  )

async function shell(line: string): Promise<{ code: number; said: string }> {
  const urls = house ? { REDIS_URL: house.redisUrl, DATABASE_URL: house.databaseUrl } : {}
  const env = { ...environmentOf(urls), ...variables }
  // As npm would run it, without the second that npm takes.
  const stampede = `${process.execPath} src/cli/main.ts`
  const command = line
    .replace('npm run stampede --', stampede)
    .replace('npm run migrate', `${stampede} migrate`)
  const child = spawn('bash', ['-c', command], { cwd: root, env: env as NodeJS.ProcessEnv })
  let said = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (some) => (said += some))
  const [code] = await once(child, 'close')
  return { code, said }
}

/** What some commands say where all goes as the page says. */
const says: Record<string, RegExp> = {
  'npm run migrate': /^The schema is up to date\.$/m,
  'npm run stampede -- doctor': /^(?:(?!refusal).*\n)+$/,
  'npm run stampede -- admin create': /^you@example\.com is an administrator now/m,
  'npm run stampede -- config print': /^DATABASE_URL/m,
  'npm run stampede -- pause --intake': /^intake is stopped \(it was open\)/m,
  'npm run stampede -- accept-loss': /facts are lacking/,
  'npm run stampede -- drain': /^drained at .*, equal$/m,
  'npm run stampede -- reconcile': / equal: /,
  'npm run stampede -- resume --intake': /^intake is open \(it was stopped\)/m,
}

/** A command of a block of sh; `systemctl` is the test's own server. */
async function type(line: string, fine = [0]): Promise<string> {
  const [, verb] = /^systemctl (\w+) postgresql$/.exec(line) ?? []
  if (verb === 'stop' || verb === 'restart') await server.stop()
  if (verb === 'start' || verb === 'restart') server = await start()
  if (verb) return ''
  const { code, said } = await shell(line)
  expect(fine, `${line}\n${said}`).toContain(code)
  const [, expected] = Object.entries(says).find(([words]) => line.startsWith(words)) ?? []
  if (line.startsWith('npm ')) expect(expected, line).toBeDefined()
  if (expected) expect(said, line).toMatch(expected)
  return said
}

/** A block of sql in one session, and of psql's own commands the two that the page uses. */
async function psql(lines: string[]): Promise<void> {
  const client = new pg.Client({ connectionString: server.url })
  await client.connect()
  try {
    for (const line of lines.map(filled)) {
      const [, sql, file] = /^(.*?) \\g \([^)]*\) (\S+)$/.exec(line) ?? []
      if (line.startsWith('\\!')) await type(line.slice(2))
      else {
        const { rows } = await client.query({ text: sql ?? line, rowMode: 'array' })
        if (file) writeFileSync(file, `${rows[0]![0]}\n`)
      }
    }
  } finally {
    await client.end()
  }
}

/** Runs the page's blocks up to the one that begins with `first`, and that one. */
let at = 0
async function upTo(first: string, fine?: number[]): Promise<string> {
  let said = ''
  for (let isLast = false; !isLast; at++) {
    const { of, lines } = blocks[at]!
    isLast = lines[0]!.startsWith(first)
    if (of === 'sql') await psql(lines)
    else for (const line of lines) said = await type(line, isLast ? fine : undefined)
  }
  return said
}

test('deploying.md: first steps, backup and the restore drill, in their order', {
  timeout: 150_000,
}, async () => {
  // `doctor` has notes to make on the settings of these servers.
  const settings = await upTo('npm run migrate', [0, 3])
  expect(settings).toContain('DATABASE_URL')
  expect(settings).not.toContain(new URL(server.url).password)

  house.startWorker()
  const { base } = await house.startApi()
  const database = openDatabase(server.url, 2, 'test')
  const { key, ...stored } = makeApiKey()
  await database.query(
    `INSERT INTO api_keys (key_id, name, secret_hash, created_by)
     SELECT $1, 'test', $2, user_id FROM users`,
    [stored.key_id, stored.secret_hash],
  )
  const post = async (path: string, body: object) => {
    const headers = {
      authorization: `Bearer ${key}`,
      'content-type': 'application/json',
      durability: 'postgres',
    }
    const sent = { method: 'POST', headers, body: JSON.stringify(body) }
    const reply = await fetch(`${base}/api/v1/${path}`, sent)
    // biome-ignore lint/suspicious/noExplicitAny: it is looked into below
    return { status: reply.status, body: (await reply.json()) as any }
  }
  const serves = (user: string) =>
    until(
      async () => (await post('coupons/assign', { book_id: book, user_id: user })).status === 200,
      `a coupon for ${user}`,
      30_000,
    )
  const made = await post('books', { name: 'Drill' })
  const book: string = made.body.book_id
  await post(`books/${book}/codes/generate`, { count: 200 })
  await serves('before the backup')

  await upTo('ALTER SYSTEM')
  await upTo('systemctl restart')
  await serves('with an archive')
  await upTo('SELECT pg_backup_start')
  await serves('after the backup')
  await upTo('SELECT pg_create_restore_point')
  const held = async () =>
    (await database.query('SELECT user_id FROM coupons ORDER BY user_id')).rows.map(
      ({ user_id }) => user_id,
    )
  const good = await held()
  await database.query("UPDATE coupons SET user_id = 'mallory'")
  await serves('after the mishap')

  await upTo('npm run stampede -- pause')
  await upTo('systemctl stop')
  // On its way there it answers questions already, from what it has replayed so far.
  const isOnItsWay = async () =>
    (await database.query('SELECT pg_is_in_recovery() AS still')).rows[0].still
  await until(async () => !(await isOnItsWay()), 'the restored PostgreSQL is where it should be')
  // What was changed by hand is as it was; what came since is not there yet.
  expect(await held()).toEqual(good)
  const said = await upTo('npm run stampede -- accept-loss', [3])
  expect(said).toMatch(/1 facts are lacking/)
  expect(said).toMatch(/the journal still has 1 entries that follow/i)
  await until(async () => {
    const ready = await fetch(`${base}/readyz`)
    return ready.status === 503 && /old backup/.test(await ready.text())
  }, '/readyz says why nothing is served')
  expect((await post('coupons/assign', { book_id: book, user_id: 'early' })).status).toBe(503)

  expect(await upTo('npm run stampede -- accept-loss --yes')).toMatch(/intake/)
  expect(at).toBe(blocks.length)
  expect(await held()).toEqual([...good, 'after the mishap'].sort())
  await serves('restored')
  await database.end()
})

test('diagrams.md names tables and columns as they are', () => {
  const tables = new Map(
    Object.values(schema)
      .filter((one) => is(one, PgTable))
      .map((table) => [
        getTableName(table as PgTable),
        Object.values(getTableColumns(table as PgTable)).map(({ name }) => name),
      ]),
  )
  const [, drawing] = /```mermaid\nerDiagram\n(.*?)```/s.exec(
    readFileSync(join(root, 'docs/diagrams.md'), 'utf8'),
  )!
  const related = [...drawing!.matchAll(/^ {2}(\w+) \S+--\S+ (\w+) :/gm)].flatMap(([, a, b]) => [
    a!,
    b!,
  ])
  const drawn = [...drawing!.matchAll(/^ {2}(\w+) \{(.*?)\}/gms)]
  expect(related.length).toBeGreaterThan(15)
  expect(drawn.length).toBeGreaterThan(6)
  for (const name of related) expect([...tables.keys()]).toContain(name)
  for (const [, name, body] of drawn)
    for (const [, column] of body!.matchAll(/(?:int|bigint|text|uuid|timestamptz) (\w+)/g))
      expect(tables.get(name!), name).toContain(column)
})

test('the pictures name scripts, files, states and verbs that there are', () => {
  const text = (file: string) => readFileSync(join(root, file), 'utf8')
  const drawings = ['docs/diagrams.md', 'docs/deploying.md', 'ARCHITECTURE.md'].flatMap((file) =>
    [...text(file).matchAll(/```mermaid\n(.*?)```/gs)].map(([, drawing]) => drawing!),
  )
  const all = drawings.join('\n')
  const kinds = ['flowchart', 'erDiagram', 'stateDiagram-v2', 'sequenceDiagram']
  for (const kind of kinds) expect(all).toMatch(new RegExp(`^${kind}\\b`, 'm'))
  // GitHub would draw nothing: a semicolon ends a statement, and a title with a comma needs quotes.
  const broken = /;|^ *subgraph [^"]*,/
  expect(all.split('\n').filter((line) => broken.test(line))).toEqual([])
  const scripts = [...all.matchAll(/EVALSHA (\w+)|(\w+)\.lua/g)].map(([, a, b]) => a ?? b)
  expect(scripts.length).toBeGreaterThan(10)
  for (const script of scripts) expect(scriptNames).toContain(script)
  const files = [...all.matchAll(/\b(?:src|workers)\/[\w./]+/g)].map(([file]) => file)
  expect(files.length).toBeGreaterThan(5)
  expect(files.filter((file) => !existsSync(join(root, file)))).toEqual([])

  const states = drawings.find((drawing) => drawing.startsWith('stateDiagram'))!
  const edges = [...states.matchAll(/^ {2}(\S+) --> (\S+?)(?:: (.*))?$/gm)]
  const drawn = new Set(edges.flatMap(([, from, to]) => [from!, to!]).filter((it) => it !== '[*]'))
  expect([...drawn].sort()).toEqual([...couponStates, 'VOID'].sort())
  const firstWords = edges.map(([, , , label]) => label?.split(/\W/)[0])
  const changed = Object.keys(verbs).filter((verb) => verb !== 'assignCode')
  expect(changed.filter((verb) => !firstWords.includes(verb))).toEqual([])
})
