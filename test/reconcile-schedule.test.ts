import pino from 'pino'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { freePort } from '../src/embedded/ports.ts'
import { claimReconcile, lastReconciled } from '../src/ledger/reconciled.ts'
import { reconcile } from '../src/ops/reconcile/reconcile.ts'
import { keys } from '../src/store/keys.ts'
import { reconcileOnce } from '../workers/reconcile.ts'
import { openTown } from './processes.ts'
import { openWorld, until, type World } from './world.ts'

/** The comparison that a worker makes by itself, and what it leaves for /metrics and the log. */
let world: World
let book: string
const said: Record<string, unknown>[] = []
const log = pino({}, { write: (line: string) => void said.push(JSON.parse(line)) })

beforeAll(async () => {
  world = await openWorld({ shards: 1 })
  book = await world.makeBook({}, 20)
  await world.level()
})
afterAll(() => world.close())

const run = (minutes: number) =>
  reconcileOnce({ redis: world.redis, database: world.database }, minutes, log)
/** As if so many minutes had gone by since somebody took it. */
const wait = (minutes: number) =>
  world.database.query(
    `UPDATE settings SET value = value || jsonb_build_object('claimed', now() - make_interval(mins => $1))
     WHERE name = 'reconcile'`,
    [minutes],
  )

test('reconcile on schedule: not at once, then by one worker, and only when it is due', async () => {
  expect(await run(60)).toBe(false)
  expect(await lastReconciled(world.database)).toBe(undefined)
  await wait(61)
  const taken = await Promise.all([1, 2, 3].map(() => claimReconcile(world.database, 60)))
  expect(taken.filter(Boolean)).toHaveLength(1)
  await wait(61)
  expect(await run(60)).toBe(true)
  expect(await run(60)).toBe(false)
  expect(await lastReconciled(world.database)).toMatchObject({ differences: 0, undersold: 0 })
  expect(said.at(-1)).toMatchObject({ level: 30, books: 1 })
})

test('reconcile on schedule: what differs is counted, and logged without a code', async () => {
  const code = (await world.redis.spop(keys.stock(0, book)))!
  await world.redis.hincrby(keys.book(0, book), 'left', -1)
  await wait(61)
  expect(await run(60)).toBe(true)
  const last = await lastReconciled(world.database)
  expect(last!.undersold).toBe(1)
  expect(last!.differences).toBeGreaterThan(0)
  expect(said.at(-1)).toMatchObject({ level: 50, book })
  const sums = said.findLast(({ totals }) => totals)
  expect(sums).toMatchObject({ level: 50, msg: 'the stores differ', totals: { UNDERSOLD: 1 } })
  expect(JSON.stringify(said)).not.toContain(code)
  await world.redis.sadd(keys.stock(0, book), code)
  await world.redis.hincrby(keys.book(0, book), 'left', 1)
})

test('reconcile on schedule: /metrics tells what the last comparison found, whoever made it, and all of it', async () => {
  const large = await world.makeBook({}, 1_200)
  // It looks at the numbers of codes every ten seconds, and would put them back.
  await world.stopWorker()
  await world.redis.spop(keys.stock(0, large), 1_100)
  const ops = { redis: world.redis, database: world.database }
  await reconcile(ops, { exact: false, book })
  expect((await lastReconciled(world.database))!.undersold).toBe(1)
  await wait(61)
  await reconcile(ops, { exact: false })
  expect(await lastReconciled(world.database)).toMatchObject({ undersold: 1_100 })
  // One by hand puts off none of the workers'.
  expect(await run(60)).toBe(true)
})

test('reconcile on schedule: a worker process does it every RECONCILE_MINUTES, and tells how often', async () => {
  const town = await openTown({ shards: 1 })
  try {
    const port = String(await freePort())
    town.startWorker({ RECONCILE_MINUTES: '2', METRICS_PORT: port })
    await until(async () => {
      // Always due: one that came while the shard was not open yet has been for nothing.
      await town.database.query(
        `INSERT INTO settings VALUES ('reconcile', jsonb_build_object('claimed', now() - interval '3 min'))
         ON CONFLICT (name) DO UPDATE SET value = settings.value || excluded.value`,
      )
      return (await lastReconciled(town.database)) !== undefined
    }, 'the worker has compared')
    expect(await lastReconciled(town.database)).toMatchObject({ differences: 0, undersold: 0 })
    const told = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text()
    expect(told).toMatch(/^stampede_reconcile_interval_seconds 120$/m)
  } finally {
    await town.close()
  }
})
