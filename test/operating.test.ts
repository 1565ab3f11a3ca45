import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { environmentOf } from '../src/config.ts'
import { scratchDir } from '../src/embedded/leftovers.ts'
import { openWorld, type World } from './world.ts'

/** docs/operating.md, command by command, as an operator would type it. */
const root = resolve(import.meta.dirname, '..')
const page = readFileSync(join(root, 'docs/operating.md'), 'utf8')
const commands = [...page.matchAll(/```sh\n(.*?)```/gs)].flatMap(([, block]) =>
  block!.split('\n').filter((line) => line !== ''),
)

let world: World
let variables: Record<string, string>
const dir = scratchDir('operating')

beforeAll(async () => {
  world = await openWorld({ shards: 2 })
  const book = await world.makeBook({ max_assignments_per_user: 2 }, 400)
  const given = await world.call('POST', 'coupons/assign', {
    as: world.service,
    body: { book_id: book, user_id: 'somebody' },
  })
  variables = { BOOK: book, CODE: given.body.coupons[0].code }
})
afterAll(() => world.close())

async function run(command: string): Promise<{ code: number; said: string }> {
  const prefix = 'npm run stampede -- '
  expect(command.startsWith(prefix), command).toBe(true)
  const typed = command
    .slice(prefix.length)
    .replaceAll(/\$([A-Z]+)/g, (_, name: string) => variables[name]!)
  // As a shell parts it: quotes hold a reason together.
  const words = [...typed.matchAll(/"([^"]*)"|(\S+)/g)].map(([, quoted, word]) => quoted ?? word!)
  const args = words.map((word) => (word === 'drained.json' ? join(dir, word) : word))
  if (args[0] === 'simulate') args.push('--url', world.base)
  const { REDIS_URL, DATABASE_URL } = world.settings
  const env = environmentOf({ REDIS_URL, DATABASE_URL }) as NodeJS.ProcessEnv
  const child = spawn(process.execPath, [join(root, 'src/cli/main.ts'), ...args], { env })
  let said = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (some) => (said += some))
  const [code] = await once(child, 'close')
  return { code, said }
}

test('operating.md: every command does what the page says, in its order', {
  timeout: 120_000,
}, async () => {
  expect(commands.length).toBeGreaterThan(20)
  for (const command of commands) {
    const { code, said } = await run(command)
    // The settings of the test's servers earn a note or a warning, never a refusal.
    const fine = command.endsWith('-- doctor') ? [0, 3] : [0]
    expect(fine, `${command}\n${said}`).toContain(code)
    expect(said, command).not.toMatch(/^refusal/m)
  }
})

test('operating.md lists every route of the operators, and who may call it', async () => {
  const { paths } = (await world.call('GET', '/openapi.json')).body as {
    paths: Record<string, Record<string, { summary: string }>>
  }
  const callers = {
    viewers: (await world.signUp('viewer')).token,
    operators: (await world.signUp('operator')).token,
    admins: world.admin,
  }
  const rows: string[] = []
  for (const [path, methods] of Object.entries(paths)) {
    if (!path.startsWith('/api/v1/ops/')) continue
    for (const [method, { summary }] of Object.entries(methods)) {
      const at = path
        .replace('{code}', 'NONE')
        .replace('{shard}', '63')
        .replace('{entry}', '1-1')
        .replace('{i}', '0')
        .replace(/{(job|book)_id}/, '00000000-0000-4000-8000-000000000000')
      const may: string[] = []
      for (const [who, as] of Object.entries(callers)) {
        const body = method === 'post' ? {} : undefined
        if ((await world.call(method.toUpperCase(), at, { as, body })).status !== 403) may.push(who)
      }
      rows.push(`| ${method.toUpperCase()} | ${path} | ${may.join(', ')} | ${summary} |`)
    }
  }
  expect(rows.length).toBeGreaterThan(10)
  expect(page.split('\n').filter((line) => /^\| (GET|POST) /.test(line))).toEqual(rows)
})

test("the operators' routes do what the verbs do", async () => {
  const { token, id } = await world.signUp('operator')
  const post = (path: string, body: object) =>
    world.call('POST', `ops/${path}`, { as: token, body: { reason: 'a test', ...body } })
  const get = (path: string) => world.call('GET', `ops/${path}`, { as: token })
  expect((await get('status')).body.shards).toHaveLength(2)
  const stopped = await post('intake', { state: 'stopped' })
  expect(stopped.body).toEqual({ before: 'open', now: 'stopped', in_force: true })
  expect((await post('intake', { state: 'open' })).body.now).toBe('open')
  expect((await post('flush', { state: 'running' })).status).toBe(200)
  expect((await get(`coupons/${variables.CODE}`)).body.facts).not.toEqual([])
  expect((await get('coupons/NOSUCH')).body.code).toBe('coupon-not-found')
  expect((await get('parked')).body).toEqual({ facts: [] })
  expect((await get('parked/0/1-1/0')).body.code).toBe('fact-not-parked')
  const parked = { kind: 'assign', book: variables.BOOK, fact: { code: 'PARKED', user: 'pat' } }
  await world.database.query(
    `INSERT INTO parked_facts (shard, epoch, n, i, reason, fact) VALUES (0, 9, 9, 0, 'a test', $1)`,
    [parked],
  )
  expect((await get('parked/0/9-9/0')).body).toMatchObject({ name: '0/9-9/0', reason: 'a test' })
  expect((await get('parked')).body.facts).toMatchObject([{ name: '0/9-9/0', code: 'PARKED' }])
  await world.database.query('DELETE FROM parked_facts')
  expect((await post('parked/retry', {})).body).toEqual({ retried: [] })
  const none = await world.call('POST', 'ops/parked/discard', {
    as: world.admin,
    body: { fact: '0/1-1/0', reason: 'a test' },
  })
  expect(none.body.code).toBe('fact-not-parked')
  const nowhere = await world.call('POST', 'ops/shards/63/rebuild', {
    as: world.admin,
    body: { reason: 'a test' },
  })
  expect(nowhere.body.code).toBe('shard-not-found')
  expect((await get('jobs')).body.jobs).toEqual([])
  const { deeds } = (await get('audit?limit=2')).body
  expect(deeds).toMatchObject([
    { actor: `user:${id}`, action: 'resume', target: 'flush', reason: 'a test' },
    { actor: `user:${id}`, action: 'resume', target: 'intake', reason: 'a test' },
  ])
  const older = (await get(`audit?limit=1&before=${deeds[1].audit_id}`)).body.deeds
  expect(older).toMatchObject([{ action: 'pause', target: 'intake' }])
  expect(
    (await world.call('POST', 'ops/intake', { as: token, body: { state: 'open' } })).status,
  ).toBe(422)
})
