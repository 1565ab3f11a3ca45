import { afterAll, beforeAll, expect, test } from 'vitest'
import { type Database, openDatabase } from '../src/ledger/database.ts'
import { answersOf } from '../src/ledger/state.ts'
import { makeDatabase } from './house.ts'
import { openWorld } from './world.ts'

/** What a rebuild reads of a busy day, and that many shards do not starve each other of connections. */
let made: Awaited<ReturnType<typeof makeDatabase>>
let database: Database
beforeAll(async () => {
  made = await makeDatabase(1)
  database = openDatabase(made.url, 2, 'test')
})
afterAll(async () => {
  await database.end()
  await made.drop()
})

test('every answer of the last day is read once, with all of its facts, whatever page they are on', async () => {
  const entries = 30_000
  // Three facts an entry: two of one keyed request, one of a request without a key. Every tenth is old.
  await database.query(
    `INSERT INTO ledger (shard, epoch, n, i, op, kind, book_id, code, user_id, version, at,
       redemptions, max_redemptions, context, assigned_at)
     SELECT 0, 1 + (n > 10000)::int, n, i, gen_random_uuid(), 'assign', gen_random_uuid(),
       'C-' || n || '-' || i, 'u', 1, CASE WHEN n <= $1 / 10 THEN now() - interval '2 days' ELSE now() END,
       0, 1, CASE WHEN i < 2 THEN jsonb_build_object('key', 'k' || n, 'hash', 'h') ELSE '{}' END, now()
     FROM generate_series(1, $1) n, generate_series(0, 2) i`,
    [entries],
  )
  await database.query(
    `UPDATE ledger l SET op = f.op FROM ledger f
     WHERE (f.shard, f.epoch, f.n, f.i) = (l.shard, l.epoch, l.n, 0)`,
  )
  const found = new Map<string, string>()
  let answers = 0
  for await (const pairs of answersOf(database, 0))
    for (let p = 0; p < pairs.length; p += 2) {
      found.set(pairs[p]!, pairs[p + 1]!)
      answers++
    }
  expect([answers, found.size]).toEqual([(entries * 9) / 10, (entries * 9) / 10])
  for (let n = entries / 10 + 1; n <= entries; n += 997)
    expect(found.get(`k${n}`)).toMatch(
      new RegExp(`^h\t\\d-${n}\t\\d+\t[\\w-]+\tassigned\t0\tC-${n}-0\t1\tC-${n}-1\t1$`),
    )
})

test('sixteen shards of one worker are made anew, although it has fewer connections', async () => {
  const world = await openWorld({ shards: 16 })
  const old = await world.database.query('SELECT max(epoch) AS epoch FROM shards')
  await world.redis.flushall()
  const begun = performance.now()
  // Nobody has noticed yet: whoever asks for readiness of each shard does.
  for (const { shard } of world.house.place.gates) world.house.place.shut(shard, 'a test')
  await world.stopWorker()
  await world.startWorker()
  await world.ready()
  expect(performance.now() - begun).toBeLessThan(15_000)
  const { rows } = await world.database.query(
    "SELECT count(*)::int AS n FROM shards WHERE epoch > $1 AND phase = 'active'",
    [old.rows[0].epoch],
  )
  expect(rows).toEqual([{ n: 16 }])
  await world.close()
})
