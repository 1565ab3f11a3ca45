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
  // One of them made a shard anew, which this process' API would find out by its next call.
  for (const { shard } of world.house.place.gates) world.house.place.shut(shard, 'a test')
  await world.ready()
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
        .replace('{redemption_id}', '00000000-0000-4000-8000-000000000000')
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
  expect((await post('parked/retry', {})).body).toEqual({ retried: [], more: false })
  const none = await world.call('POST', 'ops/parked/discard', {
    as: world.admin,
    body: { fact: '0/1-1/0', reason: 'a test' },
  })
  expect(none.body.code).toBe('fact-not-parked')
  expect((await get('jobs')).body.jobs).toEqual([])
  const { deeds } = (await get('audit?limit=2')).body
  expect(deeds).toMatchObject([
    { actor: `user:${id}`, action: 'resume', target: 'flush', reason: 'a test' },
    { actor: `user:${id}`, action: 'resume', target: 'intake', reason: 'a test' },
  ])
  const older = (await get(`audit?limit=1&before=${deeds[1].audit_id}`)).body.deeds
  expect(older).toMatchObject([{ action: 'pause', target: 'intake' }])
  const more = { kind: 'assign', book: variables.BOOK, fact: {} }
  for (const n of [1, 2, 3])
    await world.database.query(
      `INSERT INTO parked_facts (shard, epoch, n, i, reason, fact) VALUES (0, 9, $1, 0, 'a test', $2)`,
      [n, { ...more, epoch: 9, n, fact: { i: 0 } }],
    )
  const [some, rest] = [
    (await post('parked/retry', { limit: 2 })).body,
    (await post('parked/retry', { limit: 2, after: '0/9-2/0' })).body,
  ]
  const names = ({ retried }: typeof some) => retried.map(({ name }: { name: string }) => name)
  expect([names(some), some.more]).toEqual([['0/9-1/0', '0/9-2/0'], true])
  expect([names(rest), rest.more]).toEqual([['0/9-3/0'], false])
  await world.database.query('DELETE FROM parked_facts')
  expect(
    (await world.call('POST', 'ops/intake', { as: token, body: { state: 'open' } })).status,
  ).toBe(422)
})

/** What the audit log says of the newest deeds, the oldest first. */
async function newest(limit: number): Promise<string[]> {
  const { body } = await world.call('GET', `ops/audit?limit=${limit}`, { as: world.admin })
  return body.deeds
    .map((deed: Record<string, string>) => `${deed.action} ${deed.target} ${deed.reason}`)
    .reverse()
}

test('a book is held, opened, closed and archived over HTTP, on record', async () => {
  const { token } = await world.signUp('operator')
  const book = await world.makeBook({}, 1)
  const post = (verb: string, as = token) =>
    world.call('POST', `ops/books/${book}/${verb}`, { as, body: { reason: verb } })
  const paused = { before: 'active', now: 'paused', in_force: true }
  expect((await post('pause')).body).toEqual(paused)
  expect((await post('open')).body).toMatchObject({ now: 'active', in_force: true })
  expect((await post('close')).body.closes_at).not.toBeNull()
  expect((await post('archive', world.admin)).body.archived_at).not.toBeNull()
  expect((await post('open')).body.code).toBe('book-archived')
  const at = `book:${book}`
  const said = [`pause ${at} pause`, `resume ${at} open`]
  expect(await newest(4)).toEqual([
    ...said,
    `books.close ${at} close`,
    `books.archive ${at} archive`,
  ])
})

test('a coupon is released, made void, and its redemption undone over HTTP, on record', async () => {
  const { token, id } = await world.signUp('operator')
  await world.makeBook({}, ['HTTP-1'])
  const give = (body = { user_id: 'ned' }) =>
    world.call('POST', 'coupons/assign/HTTP-1', { as: world.service, body })
  await give()
  const used = await world.call('POST', 'coupons/redeem/HTTP-1', {
    ...{ as: world.service, body: { user_id: 'ned' } },
  })
  const post = (path: string, as = token) =>
    world.call('POST', `ops/${path}`, { as, body: { reason: 'a test' } })
  expect((await post('coupons/HTTP-1/release')).body.code).toBe('coupon-redeemed')
  const undo = `redemptions/${used.body.redemption_id}/rollback`
  expect((await post(undo)).body).toMatchObject({ code: 'HTTP-1', durable: true })
  expect((await post(undo)).body.code).toBe('already-rolled-back')
  expect((await post('coupons/HTTP-1/release')).status).toBe(200)
  const done = await post('coupons/HTTP-1/void', world.admin)
  expect(done.body).toMatchObject({ code: 'HTTP-1', durable: true })
  expect((await give()).body.code).toBe('coupon-not-found')
  const { facts } = (await world.call('GET', 'ops/coupons/HTTP-1', { as: token })).body
  expect(facts.slice(2).map((fact: Record<string, string>) => [fact.kind, fact.actor])).toEqual([
    ...['rollback', 'release'].map((kind) => [kind, `user:${id}`]),
    ['void', `user:${world.adminId}`],
  ])
  const deeds = ['release', 'void'].flatMap((verb) =>
    [`${verb}.request`, verb].map((action) => `coupon.${action} coupon:HTTP-1 a test`),
  )
  expect(await newest(4)).toEqual(deeds)
})

test('what administrators write to books and keys stands in the audit log, with a reason if given', async () => {
  const as = world.admin
  const book = await world.makeBook()
  const change = { name: 'Renamed', reason: 'typo' }
  expect((await world.call('PATCH', `books/${book}`, { as, body: change })).status).toBe(200)
  expect((await world.call('DELETE', `books/${book}?reason=over`, { as })).status).toBe(204)
  // There is nothing to be done any more, and so nothing to be recorded.
  expect((await world.call('DELETE', `books/${book}`, { as })).status).toBe(204)
  const made = await world.call('POST', 'api-keys', {
    as,
    body: { name: 'till', reason: 'shop 7' },
  })
  const { key_id } = made.body
  expect((await world.call('DELETE', `api-keys/${key_id}`, { as })).status).toBe(204)
  expect(await newest(5)).toEqual([
    `books.create book:${book} null`,
    `books.update book:${book} typo`,
    `books.archive book:${book} over`,
    `keys.create key:${key_id} shop 7`,
    `keys.revoke key:${key_id} null`,
  ])
  const { deeds } = (await world.call('GET', 'ops/audit?limit=4', { as })).body
  expect(deeds.at(-1)).toMatchObject({ detail: { name: 'Renamed' } })
  expect(deeds[0].actor).toBe(`user:${world.adminId}`)
})
