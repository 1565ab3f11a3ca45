import { afterAll, beforeAll, expect, test } from 'vitest'
import { JournalForked } from '../src/journal/journal.ts'
import { judge } from '../src/recovery/judge.ts'
import { keys } from '../src/store/keys.ts'
import { flusher, flushOnce } from '../workers/flush.ts'
import { openWorld, type World } from './world.ts'

let world: World
beforeAll(async () => {
  world = await openWorld({ shards: 1 })
})
afterAll(() => world.close())

test('flush  does not go on from an old backup as if nothing had happened, though the journal would do', async () => {
  const book = await world.makeBook({}, 10)
  const assign = (user: string) =>
    world.call('POST', 'coupons/assign', {
      as: world.service,
      body: { book_id: book, user_id: user },
      headers: { durability: 'postgres' },
    })
  await assign('before the backup')
  await world.level()
  const { rows } = await world.database.query(
    'SELECT checkpoint, checkpoint_hash, facts FROM shards',
  )
  await assign('after it')
  await world.level()
  await world.stopWorker()
  const { checkpoint, checkpoint_hash, facts } = rows[0]
  await world.database.query('DELETE FROM ledger WHERE n > $1', [checkpoint])
  await world.database.query("DELETE FROM coupons WHERE user_id = 'after it'")
  await world.database.query(
    'UPDATE shards SET checkpoint = $1, checkpoint_hash = $2, facts = $3',
    [checkpoint, checkpoint_hash, facts],
  )
  const flushing = flushOnce(flusher(world.house.place, world.database, 0))
  await expect(flushing).rejects.toThrow(JournalForked)
  await expect(flushing).rejects.toThrow(/old backup/)
})

test('judge  knows an old backup that was taken in the middle of a recovery', async () => {
  const verdict = () => judge(world.house.place, world.database, 0)
  await world.database.query(
    `UPDATE shards SET phase = 'recovering', recoverer = gen_random_uuid(),
       checkpoint_epoch = epoch - 1, updated_at = now() - interval '1 hour'`,
  )
  expect(await verdict()).toMatchObject({ is: 'wait', why: expect.stringMatching(/old backup/) })
  // Before its first entry PostgreSQL had nothing of an epoch that it could have forgotten.
  await world.redis.hset(keys.meta(0), 'n', 0, 'watermark', 0)
  expect(await verdict()).toMatchObject({ is: 'lost', cause: 'unfinished' })
})
