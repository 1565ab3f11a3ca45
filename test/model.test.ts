import { setTimeout as sleep } from 'node:timers/promises'
import fc from 'fast-check'
import { afterAll, beforeAll, expect, inject, test } from 'vitest'
import { openDatabase } from '../src/ledger/database.ts'
import { openAccidents } from './accidents.ts'
import { type Answer, expectSame, type Model, type Real } from './model.ts'
import { sequences } from './model-sequences.ts'
import { openProcesses, signIn } from './processes.ts'

/**
 * Random sequences of verbs, policy changes, loads and accidents against the real service, as the
 * processes it is in production, and against a model of a few lines. What differs is shrunk to the
 * shortest sequence that still differs; run it again with the seed it prints.
 */
let town: Awaited<ReturnType<typeof openProcesses>>
let accidents: Awaited<ReturnType<typeof openAccidents>>
let token: string
const codes = 8
const uses = 2

beforeAll(async () => {
  town = await openProcesses({ shards: 2 })
  accidents = await openAccidents(town)
  const database = openDatabase(town.databaseUrl, 2, 'test')
  token = await signIn(database, town.secret)
  await database.end()
})
afterAll(async () => {
  await accidents?.settled()
  await town.close()
})

async function askOnce(method: string, path: string, body?: unknown): Promise<Answer> {
  const response = await fetch(`${accidents.base()}/api/v1/${path}`, {
    method,
    headers: {
      authorization: `Bearer ${token}`,
      ...(body ? { 'content-type': 'application/json' } : {}),
    },
    ...(body ? { body: JSON.stringify(body) } : {}),
  })
  return { status: response.status, body: await response.json() }
}
/** What is not ready has done nothing: asked again, as a client would, while something is not back. */
async function ask(method: string, path: string, body?: unknown): Promise<Answer> {
  let answer = await askOnce(method, path, body)
  for (let i = 0; i < 100 && answer.body.code === 'not-ready'; i++) {
    await sleep(50)
    answer = await askOnce(method, path, body)
  }
  return answer
}
const calmly: typeof ask = (...asked) => accidents.undisturbed(() => ask(...asked))
/** What needs the ledger says so while the worker that was killed is not back. */
async function stats(book: string): Promise<Answer> {
  const once = () => accidents.undisturbed(() => askOnce('GET', `books/${book}/stats`))
  let answer = await once()
  for (let i = 0; i < 200 && answer.body.code === 'not-ready'; i++) {
    await sleep(50)
    answer = await once()
  }
  return answer
}

async function fillBook(): Promise<{ book: string; stock: string[] }> {
  const made = await calmly('POST', 'books', {
    name: 'Model',
    owner_id: 'o',
    max_redemptions: uses,
    max_assignments_per_user: 4,
  })
  expect(made, JSON.stringify(made.body)).toMatchObject({ status: 201 })
  const book = made.body.book_id
  const filled = await calmly('POST', `books/${book}/codes/generate?include_codes=true`, {
    count: codes,
  })
  expect(filled, JSON.stringify(filled.body)).toMatchObject({ status: 200 })
  return { book, stock: filled.body.codes }
}

/** How many sequences there were, had an accident of their own, or were under way in anybody's. */
const ran = { all: 0, accidental: 0, struck: 0 }

/** A book of this sequence's own, and who counts its accidents. */
async function open(): Promise<{ model: Model; real: Real; close(): void }> {
  const { book, stock } = await fillBook()
  const before = accidents.count()
  let own = 0
  const accident = (happen: () => Promise<void>) => async () => {
    own++
    await happen()
  }
  return {
    model: {
      stock: new Set(stock),
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
      get: (path) => ask('GET', path),
      stats: () => stats(book),
      undisturbed: accidents.undisturbed,
      crashApi: accident(accidents.crashApi),
      crashWorker: accident(accidents.crashWorker),
      restartRedis: accident(accidents.restartRedis),
    },
    close() {
      ran.all++
      if (own > 0) ran.accidental++
      if (accidents.count() > before) ran.struck++
    },
  }
}

const holds = () =>
  fc.asyncProperty(sequences(), async (commands) => {
    const { model, real, close } = await open()
    await fc.asyncModelRun(() => ({ model, real }), commands)
    close()
    await expectSame(model, real)
  })

/** A sequence that fails is made smaller for as long as there is time, and then shown. */
const shrinking = { interruptAfterTimeLimit: 240_000, markInterruptAsFailure: true }

const lanes = 12
/** Sequences of a lane: 300 in all at full length. */
const numRuns = inject('long') ? 25 : 2

test(`the service does what the model of a book does, in ${lanes * numRuns} random sequences with accidents`, async () => {
  // Each sequence has a book of its own, so that many may run at once; most of their time is waiting.
  const lane = () => fc.assert(holds(), { numRuns, ...shrinking })
  await Promise.all(Array.from({ length: lanes }, lane))
  expect(ran.all).toBe(lanes * numRuns)
  if (!inject('long')) return
  // Far fewer than there are on average, and far more than a model without accidents would have.
  expect(ran.accidental).toBeGreaterThanOrEqual(25)
  expect(ran.struck).toBeGreaterThanOrEqual(80)
  for (const [what, times] of Object.entries(accidents.happened))
    expect(times, what).toBeGreaterThanOrEqual(2)
}, 300_000)
