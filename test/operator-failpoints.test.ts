import { afterAll, beforeAll, expect, test } from 'vitest'
import { keys } from '../src/store/keys.ts'
import { frozen, killed, openTown, type Process, type Town } from './processes.ts'
import { until } from './world.ts'

/** Operators' commands that die between two stores, or between a deed and its record. */
let town: Town
let worker: Process
let api: Process & { base: string }
let book: string
beforeAll(async () => {
  town = await openTown()
  worker = town.startWorker()
  api = await town.startApi()
  // Whoever waits for a refusal takes one code each 10 ms until then.
  book = await town.makeBook(api.base, 5_000)
})
afterAll(() => town.close())

const assign = (user: string) =>
  town.post(api.base, 'coupons/assign', { book_id: book, user_id: user })
const given = async (...users: string[]): Promise<string[]> => {
  const codes: string[] = []
  for (const user of users) codes.push((await assign(user)).body.coupons[0].code)
  return codes
}

/** A command of an operator that is killed at a failpoint. */
async function killedAt(failpoint: string, ...args: string[]): Promise<void> {
  const { signal, out } = await town.cli(args, { FAILPOINT: `${failpoint}:kill` })
  expect(signal, out).toBe('SIGKILL')
}

const why = ['--reason', 'a test']
/** How often the audit log has each action, of those that begin so. */
async function deeds(like: string): Promise<Record<string, number>> {
  const { rows } = await town.database.query<{ action: string; n: number }>(
    'SELECT action, count(*)::int AS n FROM audit_log WHERE action LIKE $1 GROUP BY 1',
    [like],
  )
  return Object.fromEntries(rows.map(({ action, n }) => [action, n]))
}

async function one<Row>(sql: string, ...values: unknown[]): Promise<Row> {
  return (await town.database.query(sql, values)).rows[0]
}

test('pause of a book killed before and after it is on record: not done, then done', async () => {
  const state = async () => ({
    active: (await one<{ is_active: boolean }>('SELECT is_active FROM books')).is_active,
    ...(await deeds('%use')),
  })
  await killedAt('book.before-audit', 'pause', '--book', book, ...why)
  expect(await state()).toEqual({ active: true })
  expect((await assign('ann')).status).toBe(200)
  await killedAt('book.after-postgres', 'pause', '--book', book, ...why)
  expect(await state()).toEqual({ active: false, pause: 1 })
  await until(async () => (await assign('ann')).body.code === 'book-inactive', 'Redis has it')
  expect((await town.cli(['resume', '--book', book, ...why])).code).toBe(0)
  expect((await assign('ann')).status).toBe(200)
})

test('void killed after Redis has done it: it is in the ledger, once, and the same command says so', async () => {
  const [code] = await given('ann')
  await killedAt('coupon.after-redis', 'coupon', 'void', code!, ...why, '--yes')
  await town.level()
  const again = await town.cli(['coupon', 'void', code!, ...why, '--yes'])
  expect(again.out).toMatch(/void/i)
  expect(again.code).toBe(1)
  const { rows } = await town.database.query(
    `SELECT context->>'actor' AS actor FROM ledger WHERE kind = 'void' AND code = $1`,
    [code],
  )
  expect(rows).toEqual([{ actor: expect.stringMatching(/^cli:/) }])
})

test('retry of parked facts, and replay, killed on the way: the same command does the rest, once', async () => {
  await worker.stop()
  const [parked, first, second] = await given('ben', 'cyd', 'dan')
  await town.database.query(
    `INSERT INTO coupons (code, book_id, user_id, version, redemptions, max_redemptions,
       assigned_at, updated_at) VALUES ($1, $2, 'by hand', 1, 0, 1, now(), now())`,
    [parked, book],
  )
  worker = town.startWorker()
  await town.level()
  await town.database.query(`DELETE FROM coupons WHERE user_id = 'by hand'`)
  await town.database.query('DELETE FROM ledger WHERE code IN ($1, $2)', [first, second])
  const codes = [parked, first, second]
  const state = () =>
    one(
      `SELECT (SELECT count(*)::int FROM ledger WHERE code = ANY($1)) AS facts,
         (SELECT count(*)::int FROM coupons WHERE code = ANY($1)) AS coupons,
         (SELECT count(*)::int FROM parked_facts) AS parked`,
      codes,
    )
  await killedAt('parked.after-apply', 'parked', 'retry', ...why)
  expect(await state()).toEqual({ facts: 1, coupons: 2, parked: 1 })
  expect((await town.cli(['parked', 'retry', ...why])).code).toBe(0)
  expect(await state()).toEqual({ facts: 1, coupons: 3, parked: 0 })
  await killedAt('replay.after-entry', 'replay', ...why)
  expect(await state()).toEqual({ facts: 2, coupons: 3, parked: 0 })
  expect((await town.cli(['replay', ...why])).code).toBe(0)
  expect(await state()).toEqual({ facts: 3, coupons: 3, parked: 0 })
})

test('a drain killed while intake was stopped in PostgreSQL alone, and again before it attests', async () => {
  await Promise.all([api.kill(), worker.kill()])
  const mirrors = town.startWorker({ FAILPOINT: 'intake.before-redis:kill' })
  await killedAt('intake.after-postgres', 'drain', ...why)
  await killed(mirrors)
  const told = () => Promise.all([0, 1].map((s) => town.redis.hget(keys.meta(s), 'intake')))
  expect(await told()).toEqual(['open', 'open'])
  // One shard is told, the other one is not.
  await killed(town.startWorker({ FAILPOINT: 'intake.after-redis:kill' }))
  worker = town.startWorker()
  api = await town.startApi()
  await until(async () => (await told()).every((state) => state === 'stopped'), 'Redis has it')
  expect((await assign('fay')).body.code).toBe('intake-stopped')
  await killedAt('drain.before-attest', 'drain', ...why)
  expect((await assign('fay')).body.code).toBe('intake-stopped')
  const drained = await town.cli(['--json', 'drain', ...why])
  expect(JSON.parse(drained.out)).toMatchObject({ state: 'drained', differences: [] })
  expect((await town.cli(['resume', '--intake', ...why])).code).toBe(0)
  expect(await assign('fay')).toMatchObject({ status: 200 })
})

test('a process frozen with an older word on intake does not open it again after a drain', async () => {
  const told = () => Promise.all([0, 1].map((s) => town.redis.hget(keys.meta(s), 'intake')))
  expect((await town.cli(['pause', '--intake', ...why])).code).toBe(0)
  await Promise.all([api.kill(), worker.kill()])
  // Opened, and stopped again before anybody but the sleeper has seen it.
  await town.database.query("UPDATE shards SET intake = 'open'")
  const sleeper = town.startWorker({ FAILPOINT: 'intake.before-redis:freeze' })
  await frozen(sleeper)
  await town.database.query("UPDATE shards SET intake = 'stopped'")
  worker = town.startWorker()
  api = await town.startApi()
  expect((await town.cli(['drain', ...why])).code).toBe(0)
  sleeper.child.kill('SIGCONT')
  for (const until = performance.now() + 400; performance.now() < until; ) {
    expect((await assign('late')).body.code).toBe('intake-stopped')
    expect(await told()).toEqual(['stopped', 'stopped'])
  }
  expect((await town.cli(['resume', '--intake', ...why])).code).toBe(0)
  expect(await assign('late')).toMatchObject({ status: 200 })
})

test('accept-loss killed before and after it is on record: not accepted, then made anew', async () => {
  await town.level()
  const shard = await town.shardOf(book)
  const before = await one<{ checkpoint: number; checkpoint_hash: string; facts: number }>(
    'SELECT * FROM shards WHERE shard = $1',
    shard,
  )
  const [code] = await given('gil')
  await town.level()
  await worker.kill()
  await town.database.query(
    `WITH gone AS (DELETE FROM ledger WHERE code = $1), too AS (DELETE FROM coupons WHERE code = $1),
       and_counted AS (UPDATE book_counters SET held = held - 1 WHERE book_id = $2)
     UPDATE shards SET checkpoint = $4, checkpoint_hash = $5, facts = $6 WHERE shard = $3`,
    [code, book, shard, before.checkpoint, before.checkpoint_hash, before.facts],
  )
  const state = async () => {
    const sql = 'SELECT loss_accepted AS accepted FROM shards WHERE shard = $1'
    return { ...(await one<{ accepted: boolean }>(sql, shard)), ...(await deeds('accept-loss')) }
  }
  await killedAt('loss.before-audit', 'accept-loss', '--yes', ...why)
  expect(await state()).toEqual({ accepted: false })
  await killedAt('loss.after-postgres', 'accept-loss', '--yes', ...why)
  expect(await state()).toEqual({ accepted: true, 'accept-loss': 1 })
  worker = town.startWorker()
  await until(async () => !(await state()).accepted, 'a worker has made it anew')
  expect((await town.cli(['accept-loss', '--yes', ...why])).out).toMatch(/lacks nothing/)
  // The journal still had it.
  expect(await one('SELECT user_id FROM coupons WHERE code = $1', code)).toEqual({ user_id: 'gil' })
  expect(await state()).toEqual({ accepted: false, 'accept-loss': 1 })
})

test('rebuild killed after it was asked for: it takes place all the same', async () => {
  const shard = await town.shardOf(book)
  const epoch = async () =>
    (await one<{ epoch: number }>('SELECT epoch FROM shards WHERE shard = $1', shard)).epoch
  const before = await epoch()
  await town.level()
  await killedAt('rebuild.after-request', 'rebuild', '--shard', `${shard}`, '--yes', ...why)
  await until(async () => (await epoch()) > before, 'a worker begins')
  await until(async () => (await assign('ida')).status === 200, 'it serves again')
  expect(await epoch()).toBe(before + 1)
})
