import { setTimeout as sleep } from 'node:timers/promises'
import fc from 'fast-check'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createTokens } from '../src/http/tokens.ts'
import { openAccounts } from '../src/ledger/accounts.ts'
import { openDatabase } from '../src/ledger/database.ts'
import { type Answer, expectSame, type Model, type Real, sequences } from './model.ts'
import { openProcesses } from './processes.ts'
import { until } from './world.ts'

/**
 * Random sequences of verbs, policy changes, loads and accidents against the real service, as the
 * processes it is in production, and against a model of a few lines. What differs is shrunk to the
 * shortest sequence that still differs; run it again with the seed it prints.
 */
let town: Awaited<ReturnType<typeof openProcesses>>
let api: Awaited<ReturnType<typeof town.startApi>>
let worker: ReturnType<typeof town.startWorker>
let token: string
const codes = 8
const happened = { api: 0, worker: 0, redis: 0 }
const uses = 2

beforeAll(async () => {
  town = await openProcesses({ shards: 2 })
  worker = town.startWorker()
  api = await town.startApi()
  const database = openDatabase(town.databaseUrl, 2, 'test')
  const admin = await openAccounts(database).createUser({
    name: 'Admin',
    email: 'admin@example.com',
    password: 'password',
    role: 'admin',
  })
  if ('problem' in admin) throw new Error(admin.problem)
  token = await createTokens(town.secret).issue(admin)
  await database.end()
})
afterAll(() => town.close())

async function ask(method: string, path: string, body?: unknown): Promise<Answer> {
  const response = await fetch(`${api.base}/api/v1/${path}`, {
    method,
    headers: {
      authorization: `Bearer ${token}`,
      ...(body ? { 'content-type': 'application/json' } : {}),
    },
    ...(body ? { body: JSON.stringify(body) } : {}),
  })
  return { status: response.status, body: await response.json() }
}
/** A read that needs the ledger says so while the worker that was killed is not back. */
async function read(path: string): Promise<Answer> {
  let answer = await ask('GET', path)
  for (let i = 0; i < 20 && answer.body.code === 'not-ready'; i++) {
    await sleep(500)
    answer = await ask('GET', path)
  }
  return answer
}
const serves = () =>
  until(async () => (await fetch(`${api.base}/readyz`)).ok, 'the API serves', 20_000)

async function makeBook(accidental: boolean): Promise<{ model: Model; real: Real }> {
  const made = await ask('POST', 'books', {
    name: 'Model',
    owner_id: 'o',
    max_redemptions: uses,
    max_assignments_per_user: 4,
  })
  const book = made.body.book_id
  const filled = await ask('POST', `books/${book}/codes/generate?include_codes=true`, {
    count: codes,
  })
  expect(filled.status).toBe(200)
  return {
    model: {
      stock: new Set(filled.body.codes),
      held: new Map(),
      void: new Set(),
      undone: new Set(),
      active: true,
      perUser: 4,
      uses,
    },
    real: {
      book,
      post: (path, body) => ask('POST', path, body),
      patch: (path, body) => ask('PATCH', path, body),
      get: (path) => (accidental ? read(path) : ask('GET', path)),
      async crashApi() {
        happened.api++
        await api.kill()
        api = await town.startApi()
      },
      async crashWorker() {
        happened.worker++
        await worker.kill()
        worker = town.startWorker()
      },
      async restartRedis() {
        happened.redis++
        await town.restartRedis()
        await serves()
      },
    },
  }
}

const holds = (accidental: boolean) =>
  fc.asyncProperty(sequences(accidental), async (commands) => {
    const { model, real } = await makeBook(accidental)
    await fc.asyncModelRun(() => ({ model, real }), commands)
    await expectSame(model, real)
  })

/** A sequence that fails is made smaller for as long as there is time, and then shown. */
const shrinking = { interruptAfterTimeLimit: 100_000, markInterruptAsFailure: true }

test('the service does what the model of a book does, in 290 random sequences', async () => {
  // Each sequence has a book of its own, so that ten may run at once; most of their time is waiting.
  const lanes = Array.from({ length: 10 }, () =>
    fc.assert(holds(false), { numRuns: 29, ...shrinking }),
  )
  await Promise.all(lanes)
}, 120_000)

test('and in 10 more with processes killed and Redis restarted in between', async () => {
  await fc.assert(holds(true), { numRuns: 10, ...shrinking })
  for (const [what, times] of Object.entries(happened)) expect(times, what).toBeGreaterThan(0)
}, 120_000)
