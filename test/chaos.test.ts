import { rmSync } from 'node:fs'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { scratchDir } from '../src/embedded/leftovers.ts'
import { shown } from './chaos/report.ts'
import { rows } from './chaos/rows.ts'
import { sale } from './chaos/sale.ts'
import { type Cluster, openCluster } from './chaos/servers.ts'

/** The short form of `npm run chaos`: a few rows, once, with a light load. */
const short = ['flushall', 'redis-kill-everysec', 'sigterm']
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
