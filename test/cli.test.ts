import { spawn, spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { Command } from 'commander'
import pg from 'pg'
import { afterAll, beforeAll, expect, inject, test } from 'vitest'
import { verbs } from '../src/cli/main.ts'
import { environmentOf } from '../src/config.ts'
import { scratchDir } from '../src/embedded/leftovers.ts'
import { openAccounts } from '../src/ledger/accounts.ts'
import { openDatabase } from '../src/ledger/database.ts'

const root = resolve(import.meta.dirname, '..')
const main = join(root, 'src/cli/main.ts')
const name = `t_${randomBytes(6).toString('hex')}`
const here = new URL(inject('postgres'))
here.pathname = name
/** Where no `npm start` runs. */
const scratch = scratchDir('cli')
const nowhere = 'postgres://someone@127.0.0.1:1/none'

async function admin(sql: string): Promise<void> {
  const client = new pg.Client({ connectionString: inject('postgres') })
  await client.connect()
  await client.query(sql)
  await client.end()
}
beforeAll(() => admin(`CREATE DATABASE ${name}`))
afterAll(() => admin(`DROP DATABASE ${name} WITH (FORCE)`))

/** Runs the ops command as an operator would; `input` is what they pipe into it. */
async function stampede(
  args: string[],
  { url = here.href, input = '', shards = '3', redis = '', dir = scratch, uid = NaN } = {},
) {
  const settings = { DATABASE_URL: url, SHARDS: shards, REDIS_URL: redis, DATA_DIR: dir }
  const child = spawn(process.execPath, [main, ...args], {
    env: environmentOf(settings) as NodeJS.ProcessEnv,
    ...(uid ? { uid } : {}),
  })
  child.stdin.on('error', () => {}) // it may end before it has read
  child.stdin.end(input)
  let out = ''
  let err = ''
  child.stdout.on('data', (chunk) => {
    out += chunk
  })
  child.stderr.on('data', (chunk) => {
    err += chunk
  })
  const [code] = await once(child, 'close')
  return { code, out, err }
}

test('it runs as what package.json installs: by a link to its file', () => {
  const { bin } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
  const link = join(scratch, 'stampede')
  symlinkSync(join(root, bin.stampede), link)
  const env = { PATH: dirname(process.execPath) }
  const { status, stdout } = spawnSync(link, ['--help'], { env, encoding: 'utf8' })
  expect([status, stdout]).toEqual([0, expect.stringMatching(/^Example:\n {2}\$ /)])
})

test('migrate makes the schema and the shards, and may be run again', async () => {
  expect(await stampede(['migrate'])).toEqual({
    code: 0,
    out: 'The schema is up to date.\n',
    err: '',
  })
  const again = await stampede(['--json', 'migrate'])
  expect([again.code, JSON.parse(again.out)]).toEqual([0, { migrated: true }])
  const database = openDatabase(here.href, 1, 'test')
  const { rows } = await database.query('SELECT shard FROM shards ORDER BY shard')
  await database.end()
  expect(rows.map(({ shard }) => shard)).toEqual([0, 1, 2])
})

test('admin create makes an administrator who can log in', async () => {
  const args = ['admin', 'create', 'ada@example.com', '--name', 'Ada', '--json']
  const made = await stampede(args, { input: 'enchantress\nsecond line\n' })
  expect(made.code).toBe(0)
  const database = openDatabase(here.href, 1, 'test')
  const user = await openAccounts(database).logIn('ada@example.com', 'enchantress')
  await database.end()
  expect(user).toMatchObject({ ...JSON.parse(made.out), name: 'Ada', role: 'admin' })
})

test('admin create refuses a taken address and a short password with 1', async () => {
  const create = (email: string, input: string) =>
    stampede(['admin', 'create', email], { input: `${input}\r\n` })
  expect((await create('bob@example.com', 'long enough')).out).toMatch(/^bob@example.com is an/)
  const taken = await create('Bob@example.com', 'long enough')
  expect([taken.code, taken.err]).toEqual([1, 'E-mail already registered\n'])
  const short = await create('eve@example.com', 'short')
  expect([short.code, short.err]).toEqual([1, 'The password must have 8 to 100 characters.\n'])
})

test('wrong usage ends with 2', async () => {
  const wrong = [
    [],
    ['nonsense'],
    ['migrate', '--fast'],
    ['admin', 'create'],
    ['admin'],
    ['accept-loss', '--shard', 'x'],
  ]
  const ends = await Promise.all(wrong.map((args) => stampede(args)))
  expect(ends.map(({ code }) => code)).toEqual([2, 2, 2, 2, 2, 2])
  const address = await stampede(['admin', 'create', 'not-an-address'])
  expect(address.code).toBe(2)
  expect(address.err).toContain('must be an e-mail address')
})

test('with --json wrong usage is one object, too', async () => {
  const wrong: [args: string[], said: RegExp][] = [
    [['--json'], /^a command is missing/],
    [['nonsense', '--json'], /^unknown command 'nonsense'/],
    [['--json', 'migrate', '--fast'], /^unknown option '--fast'/],
    [['accept-loss', '--json', '--shard', 'x'], /must be the number of a shard/],
    [['pause', '--reason', 'x', '--json'], /^exactly one of/],
  ]
  for (const [i, { code, out, err }] of (
    await Promise.all(wrong.map(([args]) => stampede(args)))
  ).entries()) {
    expect([code, out]).toEqual([2, ''])
    expect(JSON.parse(err)).toEqual({ error: expect.stringMatching(wrong[i]![1]) })
  }
})

test('beside a running npm start its stores are found, and never one of them alone', async () => {
  const dir = scratchDir('run')
  const running = { pid: 1, http: 'http://x', redis: 'redis://127.0.0.1:1', postgres: here.href }
  writeFileSync(join(dir, 'run.json'), JSON.stringify(running))
  const beside = { url: '', dir }
  // Its own number of shards is known to it alone: the default must not add any.
  const migrated = await stampede(['migrate'], { ...beside, shards: '' })
  const create = ['admin', 'create', 'fay@example.com', '--reason', 'first one']
  const made = await stampede(create, { ...beside, input: 'long enough\n' })
  const list = await stampede(['jobs', 'list'], beside)
  expect([migrated, made, list].map(({ code, err }) => [code, err])).toEqual(
    Array.from({ length: 3 }, () => [0, '']),
  )
  const database = openDatabase(here.href, 1, 'test')
  const { rows } = await database.query(
    "SELECT (SELECT count(*)::int FROM shards) AS shards, reason FROM audit_log WHERE reason = 'first one'",
  )
  await database.end()
  expect(rows).toEqual([{ shards: 3, reason: 'first one' }])
  const [one, other, none] = await Promise.all([
    stampede(['jobs', 'list'], { dir }),
    stampede(['jobs', 'list'], { ...beside, redis: 'redis://127.0.0.1:1' }),
    stampede(['jobs', 'list'], { url: '' }),
  ])
  expect([one.code, other.code, none.code]).toEqual([78, 78, 78])
  expect(one.err).toMatch(/^REDIS_URL is not set, and DATABASE_URL is: .*http:\/\/x/)
  expect(other.err).toMatch(/^DATABASE_URL is not set, and REDIS_URL is: .*http:\/\/x/)
  expect(none.err).toMatch(/are not set, and no `npm start` runs here/)
})

test('a PostgreSQL that is down ends with 69, and no secret is shown', async () => {
  const input = 'very secret word'
  const migrate = await stampede(['migrate'], { url: nowhere })
  const create = await stampede(['--json', 'admin', 'create', 'a@example.com'], {
    url: nowhere,
    input,
  })
  expect([migrate.code, create.code]).toEqual([69, 69])
  expect(JSON.parse(create.err).error).toMatch(/^PostgreSQL does not answer: .*ECONNREFUSED/)
  expect(create.err).not.toContain('argon2')
})

test('bad configuration ends with 78 and names the variable', async () => {
  const url = await stampede(['migrate'], { url: 'mysql://somewhere' })
  expect(url.code).toBe(78)
  expect(url.err).toMatch(/^DATABASE_URL/)
  const shards = await stampede(['migrate'], { shards: 'many' })
  expect([shards.code, shards.err.startsWith('SHARDS is "many"')]).toEqual([78, true])
})

test.skipIf(process.getuid?.() !== 0)(
  'a user without a name in /etc/passwd has a number',
  async () => {
    await stampede(['migrate'])
    const uid = 54_321
    const made = await stampede(['keys', 'create', 'till', '--json'], { redis: 'redis://x', uid })
    expect([made.code, made.err]).toEqual([0, ''])
    const database = openDatabase(here.href, 1, 'test')
    const { rows } = await database.query('SELECT actor FROM audit_log WHERE target = $1', [
      `key:${JSON.parse(made.out).key_id}`,
    ])
    await database.end()
    expect(rows).toEqual([{ actor: expect.stringMatching(/^cli:uid:54321@/) }])
  },
)

test('a certificate may come from standard input, where the machine has no file of it', async () => {
  await stampede(['migrate'])
  const input = JSON.stringify({ certificate: { verdict: 'equal', signature: 'x' } })
  const said = await stampede(['verify-certificate', '-'], { redis: 'redis://x', input })
  expect([said.code, said.out]).toEqual([3, expect.stringMatching(/^NOT genuine/)])
})

test('every command of every verb begins its help with an example', async () => {
  const program = new Command('stampede')
  for (const load of Object.values(verbs)) (await load())(program)
  const all: Command[] = []
  const walk = (command: Command) => {
    all.push(command)
    command.commands.forEach(walk)
  }
  program.commands.forEach(walk)
  expect(all.length).toBeGreaterThan(40)
  for (const command of all) {
    let out = ''
    command.configureOutput({ writeOut: (text) => (out += text) })
    command.outputHelp()
    expect(out, command.name()).toMatch(/^Example:\n {2}\$ /)
  }
  const [whole, one] = await Promise.all([stampede(['--help']), stampede(['admin', '--help'])])
  for (const { code, out } of [whole, one])
    expect([code, out]).toEqual([0, expect.stringMatching(/^Example:\n {2}\$ /)])
})
