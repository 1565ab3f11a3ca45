import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { parse } from 'yaml'
import { verbs, verbsOfHelp } from '../bench/down.ts'
import { scenarios } from '../bench/options.ts'
import { environmentOf } from '../src/config.ts'
import { scratchDir } from '../src/embedded/leftovers.ts'
import { rows as chaos } from './chaos/rows.ts'
import { openWorld, until, type World } from './world.ts'

/**
 * The guides, command by command, as an operator would type them: what is in a block of sh, and what
 * begins like a command in a sentence. Blocks of deploying.md are run by test/deploying.test.ts.
 */
const root = resolve(import.meta.dirname, '..')
const text = (file: string) => readFileSync(join(root, file), 'utf8')
const page = text('docs/operating.md')
const alerts = text('docs/alerts.md')
const others = [text('docs/security.md'), text('docs/deploying.md').replaceAll(/```.*?```/gs, '')]

/** All that stands between backquotes; `of`: the language of a block, or nothing. */
const codeOf = (markdown: string) =>
  [...markdown.matchAll(/```(\w*)\n(.*?)```|`([^`]+)`/gs)].flatMap(([, of, block, inline]) =>
    block === undefined
      ? [{ of: undefined, line: inline!.replaceAll(/\s+/g, ' ') }]
      : block.split('\n').map((line) => ({ of, line: line.replace(/\s+# .*$/, '') })),
  )
const isCommand = /^(npm run (stampede -- [a-z]|migrate$)|curl )/
const commandsOf = (markdown: string) =>
  codeOf(markdown)
    .filter(({ of, line }) => (of === 'sh' ? line !== '' : !of && isCommand.test(line)))
    .map(({ line }) => line)

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
  const { code } = given.body.coupons[0]
  variables = { BOOK: book, CODE: code, URL: world.base, SHARD: '0' }
})
afterAll(() => world.close())

type Ended = { code: number | string; said: string }

async function run(command: string): Promise<Ended> {
  const typed = command.replaceAll(/\$([A-Z]+)/g, (_, name: string) => variables[name]!)
  const [, path] = /^curl -s http:\/\/127\.0\.0\.1:8000(\/\S*)$/.exec(typed) ?? []
  if (path) return { code: 0, said: await (await fetch(world.base + path)).text() }
  // As a shell parts it: quotes hold a reason together.
  const words = [...typed.matchAll(/"([^"]*)"|(\S+)/g)].map(([, quoted, word]) => quoted ?? word!)
  expect(words.slice(0, 2), command).toEqual(['npm', 'run'])
  const args = words
    .slice(words[2] === 'stampede' ? 4 : 2)
    .map((word) => (word === 'drained.json' ? join(dir, word) : word))
  const { REDIS_URL, DATABASE_URL } = world.settings
  const env = environmentOf({ REDIS_URL, DATABASE_URL, SHARDS: '2' }) as NodeJS.ProcessEnv
  const child = spawn(process.execPath, [join(root, 'src/cli/main.ts'), ...args], { env })
  child.stdin.on('error', () => {}) // most do not read
  child.stdin.end('a password, where one is asked for\n')
  let said = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (some) => (said += some))
  // Whoever has seen enough presses Ctrl-C.
  if (args.includes('--watch')) child.stdout.once('data', () => child.kill('SIGINT'))
  const [code, signal] = await once(child, 'close')
  if (args[1] === 'create' && args[0] === 'books') variables.REHEARSAL = said.split(' ', 1)[0]!
  return { code: code ?? signal, said }
}

const changes = /--(yes|reason)\b| (simulate|replay|admin) /
/** In their order; those that change nothing may be typed at once with their neighbours. */
async function runAll(commands: string[], expected: Expected, seen: Set<string>): Promise<void> {
  const together: string[] = []
  const type = async (command: string) => look(expected, command, await run(command), seen)
  for (const command of [...commands, undefined]) {
    if (command && !changes.test(command)) {
      together.push(command)
      continue
    }
    // More at once on a busy machine, and one waits too long for its connection.
    while (together.length > 0) await Promise.all(together.splice(0, 3).map(type))
    if (command) await type(command)
  }
}

/** How a command ends, and what it says, by its first words: those that fit best count. */
type Expected = Record<string, [ends: (number | string)[], says: RegExp]>

function look(expected: Expected, command: string, { code, said }: Ended, seen: Set<string>) {
  const typed = command.replace(/^npm run (stampede -- )?/, '')
  const fits = Object.keys(expected).filter((words) => typed.startsWith(words))
  const best = fits.toSorted((a, b) => b.length - a.length)[0]
  expect(best, `what ${command} should say`).toBeDefined()
  seen.add(best!)
  const [ends, says] = expected[best!]!
  expect(ends, `${command}\n${said}`).toContain(code)
  expect(said, command).toMatch(says)
}

// The settings of the test's servers earn notes and warnings, never a refusal.
const fit = /^(?:(?!refusal).*\n)+$/
const sale: Expected = {
  doctor: [[0, 3], fit],
  status: [[0], /^all is well\n/],
  'status --watch': [['SIGINT'], /^all is well\n/],
  'books list': [[0], /^\S{36} {2}active {2}codes 400 /m],
  'books pause': [[0], /^book \S+ is paused$/m],
  'books open': [[0], /^book \S+ is open$/m],
  'books create': [[0], /^\S{36} {2}paused {2}counter 2000 {2}Rehearsal$/m],
  'books warm $BOOK': [[3], /^not ready:\n! the book is paused\n$/],
  'books warm $REHEARSAL': [[0], /^ready: \d+ left/],
  'books archive': [[0], /^book \S+ is archived$/m],
  simulate: [[0], /^checked: equal$/m],
  // Of a counter book a code exists from its first assignment on.
  'reconcile --book $REHEARSAL': [[0], / equal: 1 book, \d+ codes, /],
  reconcile: [[0], / equal: 2 books, \d+ codes, /],
  'resume --book': [[0], /^book \S+ is active \(it was stopped\)$/m],
  'drain --book': [[0], /^drained at .*: 1 books, .* equal\nno fact of this book has /],
  'pause --intake': [[0], /^intake is stopped \(it was open\)/],
  'resume --intake': [[0], /^intake is open \(it was stopped\)/],
  'pause --flush': [[0], /^the flush is paused \(it was running\)/],
  'resume --flush': [[0], /^the flush is running \(it was paused\)/],
  'coupon show': [[0], / assign +somebody .*, in the ledger 20.*\nredis {5}{.*\npostgres {2}{/],
  'coupon void': [[0], /^Nothing was changed\. With --yes this code would be out /m],
  'coupon void $CODE --reason "printed in a newspaper" --yes': [
    [0],
    /^void of .*, in the ledger$/m,
  ],
  'parked list': [[0], /^Nothing is parked\.$/m],
  'parked retry': [[0], /^0 fit now, 0 do not$/m],
  'jobs list': [[0], /^There are none\.$/m],
  'queues list': [[0], /^flush +\d+ waiting, .* 1 workers$/m],
  'queues failed': [[0], /^None has failed\.$/m],
  'rebuild --book $BOOK': [[0], /^shard \d \(active\): .*\nNothing was changed: --yes /],
  'rebuild --book $BOOK --flush-first --yes': [[0], /^shard \d: \d+ codes and \d+ coupons in /],
  drain: [[0], /^drained at .*, equal\n/],
  'verify-certificate': [[0], /^genuine: .*, verdict equal$/m],
  replay: [[0], /^shard 0: 0 facts applied, /],
  'admin create': [[0], /^you@example\.com is an operator now/],
}

test('operating.md: every command does what the page says, in its order', {
  timeout: 120_000,
}, async () => {
  const seen = new Set<string>()
  await runAll(commandsOf(page), sale, seen)
  expect([...seen].sort()).toEqual(Object.keys(sale).sort())
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
  await park()
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

test('queues are looked at, tried again and cleaned over HTTP, and a rebuild has its plan', async () => {
  const { token } = await world.signUp('operator')
  const get = (path: string) => world.call('GET', `ops/${path}`, { as: token })
  const post = (path: string, as: string) =>
    world.call('POST', `ops/queues/${path}`, { as, body: { reason: 'a test' } })
  const { queues, over } = (await get('queues')).body
  expect(queues).toMatchObject([
    { queue: 'flush', paused: false, workers: 1 },
    { queue: 'jobs', paused: false, workers: 1 },
  ])
  expect([over, (await get('queues/failed?limit=5')).body]).toEqual([0, { failed: [] }])
  expect((await post('retry', token)).body).toEqual({ retried: 0 })
  expect((await post('clean', world.admin)).body).toEqual({ removed: 0 })
  expect(await newest(2)).toEqual(['queues.retry queues a test', 'queues.clean queues a test'])
  const [of] = (await get(`rebuild?book_id=${variables.BOOK}`)).body.plan
  expect(of).toMatchObject({ phase: 'active', books: expect.any(Number), lag: 0 })
  expect((await get('rebuild?all=true')).body.plan).toHaveLength(2)
  expect((await get(`rebuild?shard=${of.shard}`)).body.plan).toEqual([of])
  expect((await get('rebuild?shard=63')).body.code).toBe('shard-not-found')
  expect((await get(`rebuild?book_id=${crypto.randomUUID()}`)).body.code).toBe('book-not-found')
  expect((await get('rebuild')).body.errors).toMatchObject([{ path: 'shard' }])
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

const alarm: Expected = {
  doctor: sale.doctor!,
  status: [
    [3],
    /^! intake is stopped on shards 0, 1: .*\n! 1 facts are parked: .*\n! 1 jobs have failed: /m,
  ],
  'curl -s http://127.0.0.1:8000/readyz': [[0], /"ready":true,.*"reason":null,"shards":\[/],
  reconcile: [[3], /^PARKED \(1\)$/m],
  'coupon show': [[0], / assign +somebody .*\n.* void .*\nredis {5}VOID\npostgres {2}VOID/],
  replay: sale.replay!,
  'parked list': [[3], /^0\/9-9\/0 {2}assign PARKED of pat, .*: a test$/m],
  'parked retry': sale['parked retry']!,
  'jobs list --state failed': [[0], / reconcile failed .* disk full$/m],
  'queues list': sale['queues list']!,
  'queues failed': sale['queues failed']!,
  'verify-certificate': sale['verify-certificate']!,
  'keys create': [[0], /^sk_\S+\nIt is shown this once\.$/m],
  'accept-loss': [[0], /^PostgreSQL lacks nothing that Redis knows of\.$/m],
  migrate: [[0], /^The schema is up to date\.$/m],
  'rebuild --shard': [[0], /^shard 0: \d+ codes and \d+ coupons in .* epoch \d+$/m],
  'rebuild --book': [[0], /^shard \d: \d+ codes and \d+ coupons in .* epoch \d+$/m],
  'pause --intake': [[0], /^intake is stopped/],
  'resume --intake': [[0], /^intake is open/],
  'resume --flush': [[0], /^the flush is running/],
  'jobs retry': [[0], / reconcile queued /],
}

/** As an alert would find it: intake stopped, a fact parked, a job failed. */
async function alarming(): Promise<void> {
  const post = (path: string, body: object) =>
    world.call('POST', `ops/${path}`, { as: world.admin, body: { reason: 'a test', ...body } })
  const { job_id } = (await post('reconcile', {})).body
  variables.JOB = job_id
  const failed = `UPDATE jobs SET state = 'failed', error = 'disk full' WHERE state = 'done'`
  await until(async () => (await world.database.query(failed)).rowCount === 1, 'the job is over')
  await post('intake', { state: 'stopped' })
  await park()
}

async function park(): Promise<void> {
  const parked = { kind: 'assign', book: variables.BOOK, fact: { code: 'PARKED', user: 'pat' } }
  await world.database.query(
    `INSERT INTO parked_facts (shard, epoch, n, i, reason, fact) VALUES (0, 9, 9, 0, 'a test', $1)`,
    [parked],
  )
}

test('alerts.md: what it says to look at is there to be seen, and what it says to do is done', {
  timeout: 60_000,
}, async () => {
  const commands = [...new Set([alerts, ...others].flatMap(commandsOf))]
  const { looks, rebuilds, intake, rest } = Object.groupBy(commands, (command) => {
    if (!changes.test(command)) return 'looks'
    return / rebuild /.test(command) ? 'rebuilds' : / --intake /.test(command) ? 'intake' : 'rest'
  })
  const seen = new Set<string>()
  const typeAll = (some: string[] = []) => runAll(some, alarm, seen)
  await alarming()
  await typeAll(looks)
  await world.database.query('DELETE FROM parked_facts')
  await typeAll(rebuilds)
  // The order of the page counts among those that stop intake and open it.
  await Promise.all([typeAll(intake), typeAll(rest)])
  expect([...seen].sort()).toEqual(Object.keys(alarm).sort())
  expect((await world.call('GET', 'ops/status', { as: world.admin })).body.problems).toEqual([])
})

test('alerts.md: every alert has something to type, or names the one that has', () => {
  for (const section of alerts.split(/^## /m).slice(1)) {
    const links = [...section.matchAll(/\]\(#(\w+)\)/g)]
    expect(commandsOf(section).length + links.length, section.split('\n')[0]).toBeGreaterThan(0)
  }
})

test('what the guides name and this machine cannot run is there all the same', async () => {
  const { services } = parse(text('docker-compose.yml'), { merge: true })
  const { scripts } = JSON.parse(text('package.json'))
  const { paths } = (await world.call('GET', '/openapi.json')).body
  const only: Record<string, readonly string[]> = {
    bench: scenarios,
    chaos: chaos.map(({ name }) => name),
  }
  const kinds = { compose: 0, node: 0, npm: 0, only: 0, route: 0 }
  for (const { line } of [
    page,
    alerts,
    text('docs/security.md'),
    text('docs/deploying.md'),
  ].flatMap(codeOf)) {
    const found = (kind: keyof typeof kinds, pattern: RegExp) => {
      const match = pattern.exec(line)
      if (match) kinds[kind]++
      return match
    }
    const [, service] = found('compose', /^docker compose (?:exec|up -d) (\w+)/) ?? []
    if (service) expect(Object.keys(services)).toContain(service)
    const [, file] = found('node', /(?:^|=\/usr\/bin\/| )node ((?:src|workers)\/\S+)/) ?? []
    if (file) expect(existsSync(join(root, file)), line).toBe(true)
    const [, script] = found('npm', /^npm run (\w+)/) ?? []
    if (script) expect(Object.keys(scripts)).toContain(script)
    const [, suite, name] = found('only', /^npm run (\w+) -- --only (\S+)/) ?? []
    if (suite) expect(only[suite]).toContain(name)
    const [, method, path] = found('route', /^(GET|POST) (\/api\S+)$/) ?? []
    if (path) expect(paths[path]).toHaveProperty(method!.toLowerCase())
  }
  for (const [kind, count] of Object.entries(kinds)) expect(count, kind).toBeGreaterThan(0)
})

test('`npm run bench -- --only down` asks every verb that there is, and no other', async () => {
  const all = await verbsOfHelp()
  expect(all.length).toBeGreaterThan(30)
  const asked = Object.values(verbs).flat()
  const isOf = (line: string, verb: string) => line === verb || line.startsWith(`${verb} `)
  expect(all.filter((verb) => !asked.some((line) => isOf(line, verb)))).toEqual([])
  expect(asked.filter((line) => !all.some((verb) => isOf(line, verb)))).toEqual(['--help'])
})
