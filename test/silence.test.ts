import { setTimeout as sleep } from 'node:timers/promises'
import { expect, inject, test } from 'vitest'
import { openDatabase } from '../src/ledger/database.ts'
import { migrate } from '../src/ledger/migrate.ts'
import { isOutage } from '../src/ledger/outage.ts'
import { openProxy } from './chaos/proxy.ts'

test('database  gives up connections that have gone silent, all of them, and goes on with new ones', async () => {
  const url = new URL(inject('postgres'))
  const wire = await openProxy(Number(url.port))
  url.port = String(wire.port)
  const database = openDatabase(url.href, 4, 'test', 500)
  const some = () => Promise.all([1, 2, 3].map(() => database.query('SELECT pg_sleep(0.1)')))
  await some()
  wire.halfOpen()
  const error = await database.query('SELECT 1').catch((failure: Error) => failure)
  expect(isOutage(error)).toBe(true)
  await sleep(50) // the pool hears of its idle ones a moment later
  await some()
  // Slow is not silent: its answer comes, only late.
  const slow = await database.query('SELECT pg_sleep(0.4)')
  expect(slow.rowCount).toBe(1)
  await database.end()
  wire.close()
})

test('migrate  does not wait for a PostgreSQL that says nothing, and calls it an outage', async () => {
  const url = new URL(inject('postgres'))
  const wire = await openProxy(Number(url.port))
  wire.blackhole()
  url.port = String(wire.port)
  const error = await migrate(url.href, 1).catch((failure: Error) => failure)
  expect(isOutage(error)).toBe(true)
  wire.close()
})
