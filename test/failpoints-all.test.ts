import { readdirSync, readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { afterAll, beforeAll, expect, inject, test } from 'vitest'
import { reconcile } from '../src/ops/reconcile/reconcile.ts'
import { callPoints, flushPoints, pushes } from './chaos/rows-processes.ts'
import { recoverPoints } from './chaos/rows-starts.ts'
import { cases, modes, type Stage } from './failpoint-cases.ts'
import { openTown } from './processes.ts'

/**
 * Every failpoint there is, each with kill, throw and freeze: rows of `npm run chaos` go through those of the
 * flush, of calls, of pushes and of recoveries, and the cases here through all others.
 */
const root = resolve(import.meta.dirname, '..')
const chaos = [...flushPoints, ...callPoints, ...recoverPoints, ...pushes.map(({ point }) => point)]

test('every failpoint of the code is gone through, by chaos or by a case', () => {
  const files = ['src', 'workers'].flatMap((room) =>
    readdirSync(join(root, room), { recursive: true, encoding: 'utf8' })
      .filter((file) => file.endsWith('.ts'))
      .map((file) => readFileSync(join(root, room, file), 'utf8')),
  )
  const points = files.flatMap((text) =>
    [...text.matchAll(/\bfailpoint\('([^']+)'\)/g)].map(([, point]) => point!),
  )
  expect(points.length).toBeGreaterThan(50)
  expect([...new Set([...chaos, ...Object.keys(cases)])].sort()).toEqual(
    [...new Set(points)].sort(),
  )
})

const all = Object.keys(cases).flatMap((point) => modes.map((mode) => ({ point, mode })))
/** `npm run long` has all of them; `npm test` others each day, and within two weeks each at least once. */
const share = inject('long') ? 1 : 13
const today = Math.floor(Date.now() / 86_400_000)
const chosen = all.filter((_, k) => (k + today) % share === 0)

let said = ''
let stage: Stage

beforeAll(async () => {
  const town = await openTown({
    told: (text) => {
      said += text
    },
  })
  const worker = town.startWorker()
  const api = await town.startApi()
  const rest = { book: '', point: '', mode: 'kill' as const, leaving: [], said: () => said }
  stage = { town, worker, api, ...rest }
})
afterAll(() => stage?.town.close())

test.each(chosen)('$point: $mode', { timeout: 120_000 }, async ({ point, mode }) => {
  const { town } = stage
  said = ''
  Object.assign(stage, { point, mode, book: await town.makeBook(stage.api.base, 300) })
  try {
    await cases[point]!(stage)
  } finally {
    for (const one of stage.leaving.splice(0)) await one.kill()
  }
  await town.level()
  expect((await reconcile(town, { exact: false })).differences).toEqual([])
})
