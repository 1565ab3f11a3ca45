import { rmSync } from 'node:fs'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { scratchDir } from '../src/embedded/leftovers.ts'
import { failpointOf } from './chaos/failpoints.ts'
import { shown } from './chaos/report.ts'
import { rows } from './chaos/rows.ts'
import { callPoints, flushPoints } from './chaos/rows-processes.ts'
import { coldStarts, recoverPoints } from './chaos/rows-starts.ts'
import { sale } from './chaos/sale.ts'
import { type Cluster, openCluster } from './chaos/servers.ts'

/** The short form of `npm run chaos`: a few rows, once, with a light load. */
const short = ['flushall', 'redis-kill-everysec']
const dir = scratchDir('cluster')
let cluster: Cluster

beforeAll(async () => {
  cluster = await openCluster(dir)
})
afterAll(async () => {
  await cluster.close()
  rmSync(dir, { recursive: true, force: true })
})

test.each(short)('chaos %s', { timeout: 60_000 }, async (name) => {
  const row = rows.find((one) => one.name === name)!
  const load = { perSecond: 300, codes: 8_000, calmMs: 700, warmMs: 0 }
  const log: string[] = []
  const options = { cluster, ...load, seed: 1, run: 0, log: (line: string) => log.push(line) }
  const result = await sale(row, options).catch((error: Error) => {
    throw new Error(`${error.stack}\n${log.join('\n')}`)
  })
  expect(result.violations).toEqual([])
  expect(result.acknowledged).toBeGreaterThan(100)
})

test('a run that failed and a row that could not run stand in the table', () => {
  const row = { what: 'a fault', seed: 1 }
  const [head, , failed, skipped] = shown([
    { ...row, row: 'broken', failed: 'not within 60000 ms: every book is served again' },
    { ...row, row: 'no-disk', skipped: 'mounting a tmpfs needs root' },
  ])
    .split('\n')
    .map((line) => line.split(' | '))
  const of = (line: string[], name: string) => line[head!.indexOf(name)]
  expect([of(failed!, 'Runs'), of(failed!, 'Failed')]).toEqual(['1', '1'])
  expect([of(skipped!, 'Runs'), of(skipped!, 'Failed')]).toEqual(['0, skipped', '0'])
})

test.each([
  ['flush-failpoints', flushPoints, (run: number) => [failpointOf(run, flushPoints)]],
  ['call-failpoints', callPoints, (run: number) => [failpointOf(run, callPoints)]],
  ['cold-start', recoverPoints, coldStarts],
])('ten runs of %s in a row go through every line and every manner', (_, points, of) => {
  for (let from = 0; from < 40; from++) {
    const run = Array.from({ length: 10 }, (_, k) => of(from + k)).flat()
    expect(new Set(run.map(({ point }) => point))).toEqual(new Set(points))
    expect(new Set(run.map(({ mode }) => mode))).toEqual(new Set(['kill', 'throw', 'freeze']))
  }
  const all = Array.from({ length: 3 * points.length }, (_, run) => of(run)).flat()
  expect(new Set(all.map(({ order }) => order)).size).toBe(3 * points.length)
})
