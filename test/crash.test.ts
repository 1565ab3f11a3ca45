import { setTimeout as sleep } from 'node:timers/promises'
import { Redis } from 'ioredis'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createTokens } from '../src/http/tokens.ts'
import { openAccounts } from '../src/ledger/accounts.ts'
import { type Database, openDatabase } from '../src/ledger/database.ts'
import { keys } from '../src/store/keys.ts'
import { openProcesses } from './processes.ts'
import { until } from './world.ts'

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

/** Buyers who go on until told to stop; answers what was acknowledged and how often nobody knew. */
function buyers(base: string, book: string, count: number) {
  const acknowledged = new Map<string, string>()
  let unknown = 0
  let stopped = false
  let buyer = 0
  const crowd = Array.from({ length: count }, async () => {
    while (!stopped) {
      const user = `buyer-${++buyer}`
      try {
        const { status, body } = await post(base, 'coupons/assign', {
          book_id: book,
          user_id: user,
        })
        if (status === 200) {
          const { code } = body.coupons[0]
          expect(acknowledged.has(code)).toBe(false)
          acknowledged.set(code, user)
        } else if (body.code === 'sold-out') return
        else await sleep(20)
      } catch {
        unknown++ // the connection broke: this one may or may not have happened
        await sleep(20)
      }
    }
  })
  return {
    acknowledged,
    unknown: () => unknown,
    async stop() {
      stopped = true
      await Promise.all(crowd)
    },
  }
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

/** What the client was told, what Redis holds and what PostgreSQL holds are one and the same. */
async function expectConsistent(book: string, sale: ReturnType<typeof buyers>) {
  const { rows } = await database.query<{ code: string; user_id: string }>(
    'SELECT code, user_id FROM coupons WHERE book_id = $1',
    [book],
  )
  const held = new Map(rows.map(({ code, user_id }) => [code, user_id]))
  for (const [code, user] of sale.acknowledged) expect(held.get(code)).toBe(user)
  expect(held.size).toBeGreaterThanOrEqual(sale.acknowledged.size)
  expect(held.size).toBeLessThanOrEqual(sale.acknowledged.size + sale.unknown())
  const facts = await database.query(
    'SELECT count(*)::int, count(DISTINCT code)::int AS codes FROM ledger WHERE book_id = $1',
    [book],
  )
  expect(facts.rows[0]).toEqual({ count: held.size, codes: held.size })
  const parked = await database.query('SELECT * FROM parked_facts')
  expect(parked.rows).toEqual([])
  const gaps = await database.query(
    `SELECT shard, epoch FROM (SELECT DISTINCT shard, epoch, n FROM ledger) entries
     GROUP BY shard, epoch HAVING count(*) <> max(n)`,
  )
  expect(gaps.rows).toEqual([])
}

test('a worker killed in mid-sale loses nothing: the next one goes on from the checkpoint', async () => {
  const first = town.startWorker()
  const api = await town.startApi()
  const book = await makeBook(api.base, 5_000)
  const sale = buyers(api.base, book, 8)
  await sleep(500)
  await first.kill()
  const whileDown = sale.acknowledged.size
  await sleep(500)
  expect(sale.acknowledged.size).toBeGreaterThan(whileDown) // Redis decides; nobody waits
  const second = town.startWorker()
  await sleep(500)
  await second.kill()
  town.startWorker()
  await sleep(300)
  await sale.stop()
  await level()
  await expectConsistent(book, sale)
  await api.stop()
})

test('an API killed in mid-sale loses nothing it acknowledged', async () => {
  const api = await town.startApi()
  const book = await makeBook(api.base, 5_000)
  const sale = buyers(api.base, book, 8)
  await sleep(600)
  await api.kill()
  await sale.stop()
  expect(sale.acknowledged.size).toBeGreaterThan(50)
  await level()
  await expectConsistent(book, sale)
})

test('every process stops cleanly on SIGTERM in mid-sale, and the next start goes on', async () => {
  const worker = town.startWorker()
  const api = await town.startApi()
  const book = await makeBook(api.base, 5_000)
  const sale = buyers(api.base, book, 8)
  await sleep(500)
  expect(await api.stop()).toBe(0)
  expect(await worker.stop()).toBe(0)
  await sale.stop()
  town.startWorker()
  await level()
  await expectConsistent(book, sale)
})
