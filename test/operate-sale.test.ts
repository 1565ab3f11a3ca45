import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { openRedis } from '../src/cli/redis.ts'
import { environmentOf } from '../src/config.ts'
import { auditRows } from '../src/ledger/audit.ts'
import { transaction } from '../src/ledger/database.ts'
import { createJob, getJob } from '../src/ledger/jobs.ts'
import { openOps } from '../src/ops/open.ts'
import { openQueues } from '../src/queues.ts'
import { operator, why } from './operator.ts'
import { main } from './stampede.ts'
import { openWorld, until, type World } from './world.ts'

/** The operators' verbs around jobs, books and coupons, as processes, against the whole service. */
let world: World
let book: string
const { stampede, asked, assign } = operator(() => ({ world, book }))

beforeAll(async () => {
  world = await openWorld({ shards: 2 })
  book = await world.makeBook({ max_redemptions: 2 }, 40)
})
afterAll(() => world.close())

describe('jobs', () => {
  test('are listed, shown, cancelled and tried again', async () => {
    await world.stopWorker()
    const made = await world.call('POST', `books/${book}/codes/generate`, {
      ...{ as: world.admin, body: { count: 20_000 } },
    })
    const { job_id } = made.body
    expect(await asked('jobs', 'list', '--state', 'queued')).toMatchObject({ jobs: [{ job_id }] })
    expect(await asked('jobs', 'cancel', job_id, ...why)).toMatchObject({ state: 'cancelled' })
    expect((await stampede(['jobs', 'cancel', job_id, ...why])).code).toBe(1)
    await world.startWorker()
    await world.ready()
    expect(await asked('jobs', 'retry', job_id, ...why)).toMatchObject({ state: 'queued' })
    await until(
      async () => (await asked('jobs', 'show', job_id)).state === 'done',
      'the job is done',
    )
  })

  test('one that runs ends when it is cancelled, and goes on when it is tried again', async () => {
    const large = await world.makeBook({})
    const count = 200_000
    const made = await world.call('POST', `books/${large}/codes/generate`, {
      ...{ as: world.admin, body: { count } },
    })
    const { job_id } = made.body
    const total = async () => {
      const { rows } = await world.database.query(
        'SELECT total_code_count AS n FROM books WHERE book_id = $1',
        [large],
      )
      return rows[0].n as number
    }
    await until(async () => (await total()) > 0, 'it has begun')
    expect(await asked('jobs', 'cancel', job_id, ...why)).toMatchObject({ state: 'cancelled' })
    const left = await total()
    expect(left).toBeLessThan(count)
    const stocked = async () => (await asked('books', 'warm', large)).left
    await until(async () => (await stocked()) === left, 'what was written is in stock', 30_000)
    expect(await total()).toBe(left)
    expect(await asked('jobs', 'retry', job_id, ...why)).toMatchObject({ state: 'queued' })
    const isDone = async () => (await asked('jobs', 'show', job_id)).state === 'done'
    await until(isDone, 'the job is done', 60_000)
    expect([await total(), await stocked()]).toEqual([count, count])
  }, 120_000)
})

describe('config print', () => {
  test('shows every setting and no secret', async () => {
    const secret = 'x'.repeat(40)
    const { code, out } = await stampede(['config', 'print'], {
      ...{ JWT_SECRET: secret, PORT: '81' },
      OTEL_EXPORTER_OTLP_ENDPOINT: `https://user:${secret}@collector.example`,
    })
    expect(code).toBe(0)
    expect(out).toMatch(/^JWT_SECRET +\(secret\) \(environment\)$/m)
    expect(out).toMatch(/^PORT +81 \(environment\)$/m)
    expect(out).toMatch(/^SHARDS +8 \(default\)$/m)
    expect(out).toMatch(/^OTEL_EXPORTER_OTLP_ENDPOINT https:\/\/\(secret\)@collector.example /m)
    expect(out).not.toContain(secret)
    const wrong = await stampede(['config', 'print'], { PORT: 'eighty' })
    expect([wrong.code, wrong.out]).toEqual([78, expect.stringMatching(/^PORT .*WRONG/m)])
  })
})

describe('books and keys', () => {
  test('a book is made, looked over, opened, closed and archived', async () => {
    const create = [
      'books',
      'create',
      '--name',
      'Night',
      '--kind',
      'counter',
      '--units',
      '3',
      ...why,
    ]
    const made = await asked(...create, '--max-per-user', '1', '--paused')
    expect(made).toMatchObject({ code: 0, name: 'Night', is_active: false, total_code_count: 3 })
    const { book_id } = made
    const [deed] = await auditRows(world.database, { limit: 1 })
    expect(deed).toMatchObject({ action: 'books.create', reason: 'a test' })
    const warm = () => asked('books', 'warm', book_id)
    await until(
      async () => `${(await warm()).why_not}` === 'the book is paused',
      'Redis has it, and it is paused',
    )
    expect(await asked('books', 'open', book_id, ...why)).toMatchObject({ code: 0, in_force: true })
    expect(await warm()).toMatchObject({ code: 0, ready: true, left: 3 })
    const give = () =>
      world.call('POST', 'coupons/assign', {
        as: world.service,
        body: { book_id, user_id: 'night' },
      })
    expect((await give()).status).toBe(200)
    expect((await asked('books', 'close', book_id, ...why)).code).toBe(0)
    await until(async () => (await give()).body.code === 'book-closed', 'it is closed')
    const archive = ['books', 'archive', book_id, ...why]
    expect(await asked(...archive)).toMatchObject({ code: 0, archived: false, book: { book_id } })
    expect((await asked('books', 'list')).books[0]).toMatchObject({ book_id, archived_at: null })
    expect((await asked(...archive, '--yes')).code).toBe(0)
    const { books } = await asked('books', 'list')
    expect(books.some((one: { book_id: string }) => one.book_id === book_id)).toBe(false)
    const wrong = await stampede(['books', 'create', '--name', 'x', '--opens', 'tomorrow'])
    expect([wrong.code, wrong.err]).toEqual([2, expect.stringMatching(/opens_at/)])
  })

  test('warm finds a sale that is over, a flush that is held and workers that are away', async () => {
    const made = await world.makeBook({}, 3)
    const warm = () => asked('books', 'warm', made)
    const hour = 3_600_000
    const set = async (name: string, ms: number | null) => {
      const time = ms === null ? null : new Date(Date.now() + ms).toISOString()
      const body = { [name]: time }
      const changed = await world.call('PATCH', `books/${made}`, { as: world.admin, body })
      expect(changed.status, JSON.stringify(changed.body)).toBe(200)
    }
    expect(await warm()).toMatchObject({ code: 0, ready: true, notes: [] })
    // That it has not begun is what it is looked over for.
    await set('opens_at', hour)
    const early = await warm()
    expect([early.code, early.why_not, early.notes]).toEqual([
      0,
      [],
      [expect.stringMatching(/^it gives nothing out before 20/)],
    ])
    expect((await stampede(['books', 'warm', made])).out).toMatch(/^ready: 3 left.*\nit gives /)
    await set('opens_at', null)
    for (const [name, says] of [
      ['closes_at', /^its sale ended at 20/],
      ['expiration_date', /^its coupons could be used until 20/],
    ] as const) {
      await set(name, -hour)
      const over = await warm()
      expect([over.code, over.why_not]).toEqual([3, [expect.stringMatching(says)]])
      await set(name, hour)
      expect((await warm()).why_not).toEqual([])
      await set(name, null)
    }
    const flush = (is: string) => world.database.query('UPDATE shards SET flush = $1', [is])
    await flush('paused')
    expect((await warm()).why_not).toContainEqual(
      expect.stringMatching(/^the flush is paused: .*resume/),
    )
    await flush('running')
    await world.stopWorker()
    expect((await warm()).why_not).toContainEqual(expect.stringMatching(/^no worker is alive/))
    await world.startWorker()
    await world.ready()
    await until(async () => (await warm()).ready, 'it is ready again')
  }, 60_000)

  test('a key may be made for some things only, so many a second', async () => {
    const { key } = await asked('keys', 'create', 'reader', '--scope', 'read', '--per-second', '2')
    const ask = (method: string) => world.call(method, 'books', { as: key, body: undefined })
    expect((await ask('POST')).status).toBe(403)
    const answers = await Promise.all(Array.from({ length: 5 }, () => ask('GET')))
    expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([200, 429]))
    const said = await stampede(['keys', 'create', 'reader', '--scope', 'everything'])
    expect([said.code, said.err]).toEqual([2, expect.stringContaining('Allowed choices are')])
  })

  test('a key works until it is revoked', async () => {
    const { key, key_id } = await asked('keys', 'create', 'checkout', ...why)
    expect((await world.call('GET', 'books', { as: key })).status).toBe(200)
    const revoke = ['keys', 'revoke', key_id, ...why]
    expect(await asked(...revoke)).toMatchObject({ code: 0, revoked: false, key: { key_id } })
    expect((await stampede(revoke)).out).toMatch(
      /^Nothing was changed\. With --yes .*\n.* checkout,/,
    )
    expect((await world.call('GET', 'books', { as: key })).status).toBe(200)
    expect(await asked(...revoke, '--yes')).toMatchObject({ code: 0, revoked: true })
    const deeds = await auditRows(world.database, { limit: 2 })
    expect(deeds.map(({ action, reason }) => [action, reason])).toEqual([
      ['keys.revoke', 'a test'],
      ['keys.create', 'a test'],
    ])
    await until(async () => (await world.call('GET', 'books', { as: key })).status === 401, 'over')
    for (const yes of [[], ['--yes']])
      expect(await stampede(['keys', 'revoke', '0'.repeat(16), ...why, ...yes])).toMatchObject({
        ...{ code: 1, err: 'No such API key\n' },
      })
  })
})

describe('queues', () => {
  test('are listed with their workers; what failed is shown, tried again and removed', async () => {
    const { queues, code } = await asked('queues', 'list')
    expect(code).toBe(0)
    expect(queues).toMatchObject([
      { queue: 'flush', paused: false, workers: 1, failed: 0 },
      { queue: 'jobs', paused: false, workers: 1, failed: 0 },
    ])
    expect(await asked('queues', 'failed')).toMatchObject({ code: 0, failed: [] })
    expect(await asked('queues', 'retry', ...why)).toMatchObject({ code: 0, retried: 0 })
    for (const bare of [['retry'], ['clean', '--yes']])
      expect((await stampede(['queues', ...bare])).code).toBe(2)
    expect(await asked('queues', 'clean')).toMatchObject({ code: 0, removed: 0, over: 0 })
    const gone = await stampede(['queues', 'list'], { REDIS_URL: 'redis://127.0.0.1:1' })
    expect([gone.code, gone.err]).toEqual([69, expect.stringMatching(/does not answer/)])
    // A no of Redis is no outage.
    await world.redis.set('{stampede}:jobs:failed', 'no list')
    const wrong = await stampede(['queues', 'failed'])
    expect([wrong.code, wrong.err]).toEqual([1, expect.stringMatching(/WRONGTYPE/)])
    await world.redis.del('{stampede}:jobs:failed')
  })

  test('over HTTP their Redis may be away, which is said and no bug', async () => {
    const queues = openQueues('redis://127.0.0.1:1')
    const { database, redis, house } = world
    const limits = { backlog: 1_000, managed: false, waitMs: 1_000 }
    const ops = openOps({ redis, database }, limits, queues, house.deps)
    const by = { actor: 'test', reason: 'a test' }
    const said = [ops.queues(), ops.failedInQueues(1), ops.retryQueues(by), ops.cleanQueues(by)]
    for (const one of await Promise.all(said)) expect(one).toMatchObject({ problem: 'not-ready' })
    await queues.close()
    const [deed] = await auditRows(database, { limit: 1 })
    expect(deed?.actor, 'nothing was done, and nothing is on record').not.toBe('test')
  })

  test('a job that throws is shown with its reason, and comes again by hand and by itself', async () => {
    const make = () =>
      transaction(world.database, (tx) =>
        createJob(tx, {
          ...{ kind: 'replay', book_id: null, total: 0, created_by: 'test' },
          input: { kind: 'replay', shard: 40, by: { actor: 'test', reason: 'a test' } },
        }),
      )
    const ids = [(await make()).job_id, (await make()).job_id]
    await world.database.query(
      "UPDATE jobs SET updated_at = now() - interval '1 minute' WHERE job_id = ANY ($1)",
      [ids],
    )
    await until(async () => (await world.redis.zcard('{stampede}:jobs:failed')) === 2, 'both fail')
    const { code, failed } = await asked('queues', 'failed')
    expect([code, failed.map(({ id }: { id: string }) => id).sort()]).toEqual([3, ids.sort()])
    expect(failed[0]).toMatchObject({ queue: 'jobs', reason: expect.stringMatching(/no shard 40/) })
    expect(await asked('queues', 'clean')).toMatchObject({ removed: 0, over: 2 })
    const [byHand, byItself] = ids as [string, string]
    const repair = (id: string, seen: string) =>
      world.database.query(
        `UPDATE jobs SET input = input || '{"shard": 0}', updated_at = now() + $2::interval WHERE job_id = $1`,
        [id, seen],
      )
    const done = (id: string) => async () => (await getJob(world.database, id))!.state === 'done'
    // The sweep finds the one that was silent, and not the other one.
    await repair(byHand, '1 hour')
    await repair(byItself, '-1 minute')
    await until(done(byItself), 'the sweep has it done')
    expect((await asked('queues', 'failed')).failed).toMatchObject([{ id: byHand }])
    expect(await asked('queues', 'retry', ...why)).toMatchObject({ code: 0, retried: 1 })
    await until(done(byHand), 'it is done')
    const clean = ['queues', 'clean', '--yes', ...why]
    expect(await asked(...clean)).toMatchObject({ code: 0, removed: 0 })
    // The job that was done again has a deed of its own between them.
    const deeds = await auditRows(world.database, { limit: 5 })
    expect(deeds.filter(({ target }) => target === 'queues').slice(0, 2)).toMatchObject([
      { action: 'queues.clean', target: 'queues', reason: 'a test', detail: { over: 0 } },
      { action: 'queues.retry', target: 'queues', reason: 'a test', detail: { failed: 1 } },
    ])
    // What cannot be put on record is not done.
    const away = await stampede(clean, { DATABASE_URL: 'postgres://a@127.0.0.1:1/a' })
    expect([away.code, away.err]).toEqual([
      69,
      expect.stringMatching(/^PostgreSQL does not answer/),
    ])
  }, 60_000)
})

test('over HTTP Redis may be away: what is compared with it is refused, and no bug', async () => {
  const redis = openRedis('redis://127.0.0.1:1')
  const { database, house } = world
  const queues = openQueues('redis://127.0.0.1:1')
  const limits = { backlog: 1_000, managed: false, waitMs: 1_000 }
  const ops = openOps({ redis, database }, limits, queues, house.deps)
  for (const said of [await ops.losses(), await ops.planRebuild({}), await ops.timeline('X')])
    expect(said).toMatchObject({ problem: 'not-ready' })
  redis.disconnect()
  await queues.close()
})

describe('simulate', () => {
  test('sends a crowd of buyers, and checks what they were told', async () => {
    const sale = await world.makeBook({ max_assignments_per_user: 2 }, 60)
    const crowd = ['--book', sale, '--users', '200', '--rate', '50', '--time', '2s']
    const found = await asked('simulate', ...crowd, '--url', world.base)
    expect(found).toMatchObject({ code: 0, verdict: 'equal', arrived: 100, differences: [] })
    expect(found.assigned).toBe(60)
    expect(found.redeemed).toBeGreaterThan(10)
    const limit = found.refused['assignment-limit'] ?? 0
    expect(limit + (found.refused['sold-out'] ?? 0)).toBe(40)
    // It has given out coupons now: whoever rehearses on it once more must mean it.
    const again = ['simulate', ...crowd, '--url', world.base]
    const refused = await stampede([...again, '--json'])
    expect([refused.code, JSON.parse(refused.err).error]).toEqual([
      2,
      expect.stringMatching(/^book ".+" is in use: 0 left, 60 given out, \d+ redeemed, 0 void/),
    ])
    const meant = await stampede([...again, '--yes'])
    expect([meant.code, meant.out]).toEqual([
      1,
      expect.stringMatching(
        /^checked: nothing: nobody was given a coupon, mostly (sold-out|assig)/m,
      ),
    ])
    const { rows } = await world.database.query(
      "SELECT count(*)::int AS n FROM api_keys WHERE name = 'rehearsal' AND revoked_at IS NULL",
    )
    expect(rows).toEqual([{ n: 0 }])
  })

  test('says so where nobody was given anything, and makes no key for a book that is none', async () => {
    const paused = await world.makeBook({ is_active: false }, 5)
    const crowd = ['--users', '9', '--rate', '50', '--time', '200ms', '--url', world.base]
    const found = await stampede(['simulate', ...crowd, '--book', paused])
    expect([found.code, found.out]).toEqual([
      1,
      expect.stringMatching(/^checked: nothing: .* mostly book-inactive: `stampede books open`/m),
    ])
    const keys = () => world.database.query("SELECT 1 FROM api_keys WHERE name = 'rehearsal'")
    const before = (await keys()).rowCount
    const unknown = await stampede(['simulate', ...crowd, '--book', crypto.randomUUID()])
    expect([unknown.code, unknown.err]).toEqual([1, 'No such book\n'])
    expect((await keys()).rowCount).toBe(before)
    // As an API of another installation answers: it does not know the key.
    const other = createServer((_, reply) => reply.writeHead(401).end('{"code":"unauthenticated"}'))
    await once(other.listen(0, '127.0.0.1'), 'listening')
    const url = `http://127.0.0.1:${(other.address() as AddressInfo).port}`
    const fresh = await world.makeBook({}, 5)
    const lost = await asked('simulate', ...crowd.slice(0, -1), url, '--book', fresh)
    other.close()
    expect(lost).toMatchObject({ code: 1, verdict: 'nothing', assigned: 0 })
  })

  test('revokes its key, and ends with 143, when somebody ends it', async () => {
    const crowd = ['--book', book, '--rate', '1', '--time', '60s', '--url', world.base, '--yes']
    const { REDIS_URL, DATABASE_URL } = world.settings
    const env = environmentOf({ REDIS_URL, DATABASE_URL }) as NodeJS.ProcessEnv
    const child = spawn(process.execPath, [main, 'simulate', ...crowd], { env })
    const keys = async () => {
      const { rows } = await world.database.query<{ n: number }>(
        "SELECT count(*)::int AS n FROM api_keys WHERE name = 'rehearsal' AND revoked_at IS NULL",
      )
      return rows[0]!.n
    }
    await until(async () => (await keys()) === 1, 'it has its key')
    child.kill('SIGTERM')
    expect(await once(child, 'close')).toEqual([143, null])
    expect(await keys()).toBe(0)
  })
})

describe('coupon release, void and rollback', () => {
  test('go through the gate and the script like everything else', async () => {
    const { code } = (await assign('rob')).body.coupons[0]
    const body = { user_id: 'rob' }
    const used = await world.call('POST', `coupons/redeem/${code}`, { as: world.service, body })
    const { redemption_id } = used.body
    const refused = await stampede(['coupon', 'release', code, ...why])
    expect([refused.code, refused.err]).toEqual([1, 'Coupon in use\n'])
    const undone = await asked('coupon', 'rollback', redemption_id, ...why)
    expect(undone).toMatchObject({ code: code, durable: true })
    const again = await stampede(['coupon', 'rollback', redemption_id, ...why])
    expect([again.code, again.err]).toEqual([1, expect.stringMatching(/rolled back/i)])
    expect(await asked('coupon', 'release', code, ...why)).toMatchObject({ durable: true })
    const { facts, redis } = await asked('coupon', 'show', code)
    expect(facts.map(({ kind }: { kind: string }) => kind)).toEqual([
      ...['assign', 'redeem', 'rollback', 'release'],
    ])
    expect(facts.at(-1).actor).toMatch(/^cli:/)
    expect(redis.in_stock).toBe(true)
    const [deed] = await auditRows(world.database, { limit: 1 })
    expect(deed).toMatchObject({ action: 'coupon.release', target: `coupon:${code}` })
    expect((await stampede(['coupon', 'release', 'NOSUCH', ...why])).code).toBe(1)
  })

  test("release makes a counter book's code void for ever, and so wants --yes", async () => {
    const counter = await world.makeBook({ kind: 'counter', units: 2 })
    const given = await world.call('POST', 'coupons/assign', {
      as: world.service,
      body: { book_id: counter, user_id: 'kim' },
    })
    const { code } = given.body.coupons[0]
    const state = async () =>
      (await world.call('GET', `coupons/${code}`, { as: world.admin })).body.state
    const shown = await stampede(['coupon', 'release', code, ...why])
    expect([shown.code, shown.out]).toEqual([
      0,
      expect.stringMatching(/^Nothing was changed\. With --yes this code would be void for ever/m),
    ])
    expect(await asked('coupon', 'release', code, ...why)).toMatchObject({ released: false })
    expect(await state()).toBe('ASSIGNED')
    const done = await asked('coupon', 'release', code, ...why, '--yes')
    expect(done).toMatchObject({ code, durable: true })
    expect(await state()).toBeUndefined()
  })

  test('take a code out of circulation, in stock or held, and say so', async () => {
    const { code: held } = (await assign('vic')).body.coupons[0]
    const { rows } = await world.database.query(
      `SELECT code FROM codes c WHERE book_id = $1 AND code <> $2
         AND NOT EXISTS (SELECT FROM coupons k WHERE k.code = c.code) LIMIT 1`,
      [book, held],
    )
    const stock: string = rows[0].code
    const shown = await asked('coupon', 'void', stock, ...why)
    expect(shown).toMatchObject({ voided: false, redis: { in_stock: true, void: false } })
    const done = await Promise.all(
      [stock, held].map((code) => asked('coupon', 'void', code, ...why, '--yes')),
    )
    expect(done).toMatchObject([
      { code: stock, durable: true },
      { code: held, durable: true },
    ])
    const deeds = await auditRows(world.database, { limit: 4 })
    const gone = deeds.filter(({ action }) => action === 'coupon.void')
    expect(
      gone.map(({ action, target, reason }) => `${action} ${target} ${reason}`).sort(),
    ).toEqual([stock, held].map((code) => `coupon.void coupon:${code} a test`).sort())
    const [again, unknown, silent, told, seen] = await Promise.all([
      stampede(['coupon', 'void', held, ...why, '--yes']),
      stampede(['coupon', 'void', 'NOSUCH', ...why, '--yes']),
      stampede(['coupon', 'void', stock]),
      asked('coupon', 'show', held),
      stampede(['coupon', 'show', stock]),
    ])
    expect([again.code, again.err]).toEqual([1, 'Coupon void\n'])
    expect([unknown.code, silent.code]).toEqual([1, 2])
    expect(told.facts).toMatchObject([
      { kind: 'assign', user_id: 'vic' },
      { kind: 'void', user_id: 'vic', actor: expect.stringMatching(/^cli:/) },
    ])
    const inRedis = { record: null, in_stock: false, void: true, locked_by_guard: false }
    expect(told).toMatchObject({ redis: inRedis, postgres: { user_id: '' } })
    expect(seen.out).toMatch(/ void +nobody +version 1, .*\nredis +VOID\npostgres +VOID: \{/)
  })
})
