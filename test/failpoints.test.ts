import { Redis } from 'ioredis'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { operationUrl } from '../src/http/operations.ts'
import { createTokens } from '../src/http/tokens.ts'
import { openAccounts } from '../src/ledger/accounts.ts'
import { type Database, openDatabase } from '../src/ledger/database.ts'
import { keys } from '../src/store/keys.ts'
import { openProcesses } from './processes.ts'
import { until } from './world.ts'

/** Processes that are killed at a failpoint where no row of `npm run chaos` kills one. */
let town: Awaited<ReturnType<typeof openProcesses>>
let database: Database
let redis: Redis
let token: string
const shards = 2

beforeAll(async () => {
  town = await openProcesses({ shards })
  database = openDatabase(town.databaseUrl, 4, 'test')
  redis = new Redis(town.redis.url)
  const admin = await openAccounts(database).createUser({
    name: 'Admin',
    email: 'admin@example.com',
    password: 'password',
    role: 'admin',
  })
  if ('problem' in admin) throw new Error(admin.problem)
  token = await createTokens(town.secret).issue(admin)
})
afterAll(async () => {
  redis.disconnect()
  await database.end()
  await town.close()
})

async function post(base: string, path: string, body: unknown) {
  const response = await fetch(`${base}/api/v1/${path}`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', authorization: `Bearer ${token}` },
    body: JSON.stringify(body),
  })
  // biome-ignore lint/suspicious/noExplicitAny: tests look into whatever came
  return { status: response.status, body: (await response.json()) as any }
}

async function makeBook(base: string, count: number): Promise<string> {
  const { body } = await post(base, 'books', { name: 'Sale', owner_id: 'o' })
  const made = await post(base, `books/${body.book_id}/codes/generate`, { count })
  expect(made.status).toBe(200)
  return body.book_id
}

async function level(): Promise<void> {
  await until(async () => {
    for (let shard = 0; shard < shards; shard++) {
      const [n, watermark] = await redis.hmget(keys.meta(shard), 'n', 'watermark')
      if (n !== watermark) return false
    }
    return true
  }, 'the ledger is level')
}

/** Resolves once the process has been killed by its failpoint. */
const killed = (life: { child: { signalCode: string | null } }) =>
  until(() => life.child.signalCode === 'SIGKILL', 'it was killed at its failpoint', 20_000)

test('killed while it parks a fact: nothing of that flush stands, and the next one parks it once', async () => {
  const first = town.startWorker()
  const api = await town.startApi()
  const book = await makeBook(api.base, 5)
  await level()
  await first.kill()
  const codes: string[] = []
  for (const user of ['ann', 'ben', 'cyd'])
    codes.push(
      (await post(api.base, 'coupons/assign', { book_id: book, user_id: user })).body.coupons[0]
        .code,
    )
  await database.query(
    `INSERT INTO coupons (code, book_id, user_id, version, redemptions, max_redemptions,
       assigned_at, updated_at) VALUES ($1, $2, 'by hand', 1, 0, 1, now(), now())`,
    [codes[1], book],
  )
  const counts = async () => {
    const { rows } = await database.query(
      `SELECT (SELECT count(*)::int FROM ledger WHERE book_id = $1) AS facts,
         (SELECT count(*)::int FROM parked_facts) AS parked`,
      [book],
    )
    return rows[0]
  }
  await killed(town.startWorker({ FAILPOINT: 'flush.after-park:kill' }))
  expect(await counts()).toEqual({ facts: 0, parked: 0 })
  const worker = town.startWorker()
  await level()
  expect(await counts()).toEqual({ facts: 3, parked: 1 })
  await database.query('DELETE FROM parked_facts')
  await Promise.all([api.stop(), worker.stop()])
})

test('killed while it saves the rest of a journal: the next recovery saves the rest of the rest, once', async () => {
  const first = town.startWorker()
  const api = await town.startApi()
  const book = await makeBook(api.base, 600)
  await level()
  await first.kill()
  // One entry each, and more than a recovery flushes at once.
  for (let user = 0; user < 260; user++)
    await post(api.base, 'coupons/assign', { book_id: book, user_id: `user-${user}` })
  const { rows } = await database.query(
    'SELECT shard, epoch FROM shards JOIN books USING (shard) WHERE book_id = $1',
    [book],
  )
  const { shard, epoch } = rows[0]
  await redis.del(keys.stock(shard, book))
  await post(api.base, 'coupons/assign', { book_id: book, user_id: 'who notices' })
  await killed(town.startWorker({ FAILPOINT: 'recover.mid-flush-rest:kill' }))
  const facts = async () =>
    (
      await database.query(
        'SELECT count(*)::int AS facts, count(DISTINCT code)::int AS codes FROM ledger WHERE book_id = $1',
        [book],
      )
    ).rows[0]
  const { facts: saved } = await facts()
  expect(saved).toBeGreaterThan(0)
  expect(saved).toBeLessThan(260)
  const worker = town.startWorker()
  await until(
    async () =>
      (await post(api.base, 'coupons/assign', { book_id: book, user_id: 'next' })).status === 200,
    'it serves again',
    20_000,
  )
  await level()
  expect(await facts()).toEqual({ facts: 261, codes: 261 })
  const now = await database.query('SELECT epoch FROM shards WHERE shard = $1', [shard])
  expect(now.rows[0].epoch).toBeGreaterThanOrEqual(epoch + 2)
  await Promise.all([api.stop(), worker.stop()])
})

test('killed after a call was forbidden: whoever asks next hears that it never happened', async () => {
  const worker = town.startWorker()
  const doomed = await town.startApi({ FAILPOINT: 'operation.after-forbid:kill' })
  const api = await town.startApi()
  const book = await makeBook(api.base, 3)
  await level()
  const { rows } = await database.query(
    `SELECT s.shard, epoch, checkpoint AS n, user_id FROM users, shards s JOIN books USING (shard)
     WHERE book_id = $1`,
    [book],
  )
  const { shard, epoch, n, user_id } = rows[0]
  const op = crypto.randomUUID()
  const call = { shard, epoch, n, i: undefined, op, at: Date.now(), request: 'a-request' }
  const path = operationUrl(createTokens(town.secret), call, `user:${user_id}`)
  const headers = { authorization: `Bearer ${token}` }
  await expect(fetch(doomed.base + path, { headers })).rejects.toThrow()
  await killed(doomed)
  const told = await fetch(api.base + path, { headers })
  expect(await told.json()).toMatchObject({ state: 'absent', facts: [] })
  expect(await redis.get(keys.op(shard, op))).toBe('never')
  await Promise.all([api.stop(), worker.stop()])
})
