import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { counts } from '../src/ledger/aside.ts'
import { countOnce } from '../src/ledger/minutes.ts'
import { discardParked, parkedFacts, retryParked } from '../src/ops/parked.ts'
import { flusher, flushOnce } from '../workers/flush.ts'
import { openWorld, until, type World } from './world.ts'

/** book_minutes against the ledger itself: whatever happens on the way, both say the same. */
let world: World
beforeAll(async () => {
  world = await openWorld({ shards: 2 })
})
afterAll(() => world.close())

const sql = (text: string, values?: unknown[]) => world.database.query(text, values)
/** What the ledger says of every minute of every book. */
async function byLedger() {
  const { rows } = await sql(
    `SELECT book_id, date_trunc('minute', at) AS minute, kind, count(*) FROM ledger l
     WHERE ${counts('l')} GROUP BY 1, 2, 3 ORDER BY 1, 2, 3`,
  )
  return rows
}
async function byMinutes() {
  const { rows } = await sql(
    `SELECT book_id, minute, kind, sum(count)::bigint AS count FROM book_minutes
     GROUP BY 1, 2, 3 ORDER BY 1, 2, 3`,
  )
  return rows
}
/** All books of a shard together. */
async function byShard(from: 'ledger' | 'minutes') {
  const { rows } = await sql(
    from === 'minutes'
      ? 'SELECT shard, minute, kind, count FROM shard_minutes ORDER BY 1, 2, 3'
      : `SELECT shard, date_trunc('minute', at) AS minute, kind, count(*) FROM ledger l
         WHERE ${counts('l')} GROUP BY 1, 2, 3 ORDER BY 1, 2, 3`,
  )
  return rows
}
async function expectEqual(): Promise<void> {
  expect(await byMinutes()).toEqual(await byLedger())
  expect(await byShard('minutes')).toEqual(await byShard('ledger'))
}
/** As before migration 0013: nothing was ever counted. */
const forget = async () => {
  await sql('TRUNCATE book_minutes, shard_minutes')
  await sql('UPDATE shards SET counted_epoch = 0, counted = 0')
}
const lacking = async () =>
  (
    await sql(`SELECT count(*)::int AS shards FROM shards
     WHERE (counted_epoch, counted) <> (checkpoint_epoch, checkpoint)`)
  ).rows[0].shards
const countAll = async () => {
  while ((await countOnce(world.database)) > 0);
}

/** Some of everything in a book. */
async function sell(book: string, users: number): Promise<void> {
  const as = world.service
  await Promise.all(
    Array.from({ length: users }, async (_, u) => {
      const user_id = `u${u}`
      const { body } = await world.call('POST', 'coupons/assign', {
        as,
        body: { book_id: book, user_id },
        headers: { durability: 'redis' },
      })
      const { code } = body.coupons[0]
      const redis = { as, body: { user_id }, headers: { durability: 'redis' } }
      if (u % 2 === 0) {
        await world.call('POST', `coupons/lock/${code}`, redis)
        await world.call('POST', `coupons/unlock/${code}`, redis)
      }
      if (u % 3 === 0) {
        const used = await world.call('POST', `coupons/redeem/${code}`, redis)
        if (u % 6 === 0)
          await world.call('POST', `redemptions/${used.body.redemption_id}/rollback`, {
            as,
            headers: { durability: 'redis' },
          })
      }
    }),
  )
}
/** Flushes everything in this process. */
async function flushAll(): Promise<void> {
  for (const shard of [0, 1]) {
    const own = flusher(world.house.place, world.database, shard)
    while ((await flushOnce(own)).facts > 0);
  }
}

describe('minutes', () => {
  test('are what the ledger says, written by the flush itself', async () => {
    await world.stopWorker()
    const books = await Promise.all([1, 2, 3].map(() => world.makeBook({}, 60)))
    await Promise.all(books.map((book) => sell(book, 30)))
    await flushAll()
    expect(await lacking()).toBe(0)
    const rows = await byLedger()
    expect(new Set(rows.map(({ kind }) => kind)).size).toBe(5)
    await expectEqual()
  })

  test('tell redemptions by how soon they came, the same when counted afterwards', async () => {
    const buckets = async () =>
      (await sql('SELECT * FROM book_minutes ORDER BY book_id, minute, kind, within_seconds')).rows
    const before = await buckets()
    expect(before.some(({ within_seconds }) => within_seconds === 60)).toBe(true)
    await forget()
    await countAll()
    expect(await buckets()).toEqual(before)
    await sql(`UPDATE ledger SET assigned_at = at - interval '2 hours' WHERE kind = 'redeem'`)
    await forget()
    await countAll()
    const late = await buckets()
    expect(new Set(late.map(({ within_seconds }) => within_seconds))).toEqual(new Set([0, 86_400]))
  })

  test('of facts from before there were minutes are counted in pieces, while the flush goes on', async () => {
    const book = await world.makeBook({}, 200)
    // Three pieces of old facts in one shard.
    await sql(
      `INSERT INTO ledger (shard, epoch, n, i, op, kind, book_id, code, user_id, version, at,
         redemptions, max_redemptions, context, assigned_at)
       SELECT shard, 0, n, 0, gen_random_uuid(), 'assign', $1, 'OLD-' || n, 'u', 1,
         now() - n * interval '1 s', 0, 1, '{}', now() - n * interval '1 s'
       FROM generate_series(1, 50000) n, (SELECT shard FROM books WHERE book_id = $1) b`,
      [book],
    )
    await forget()
    expect(await countOnce(world.database)).toBe(2)
    expect(await lacking()).toBe(1)
    await sell(book, 12)
    await flushAll() // this flush counts nothing: there is something before it
    expect(await lacking()).toBe(1)
    await Promise.all([countOnce(world.database), countOnce(world.database)])
    await countAll()
    expect(await lacking()).toBe(0)
    await expectEqual()
    await sell(book, 6)
    await flushAll() // and this one counts its own
    expect(await lacking()).toBe(0)
    await expectEqual()
  })

  test('have what a worker of an older version flushed', async () => {
    const book = await world.makeBook({}, 50)
    await sell(book, 10)
    await flushAll()
    // It knows nothing of minutes and of what is counted.
    const old = (await sql('SELECT shard, counted_epoch, counted FROM shards')).rows
    const tables = ['book_minutes', 'shard_minutes']
    for (const table of tables) await sql(`CREATE TABLE old_${table} AS TABLE ${table}`)
    await sell(book, 10)
    await flushAll()
    for (const { shard, counted_epoch, counted } of old)
      await sql('UPDATE shards SET counted_epoch = $2, counted = $3 WHERE shard = $1', [
        ...[shard, counted_epoch, counted],
      ])
    for (const table of tables)
      await sql(
        `TRUNCATE ${table}; INSERT INTO ${table} TABLE old_${table}; DROP TABLE old_${table}`,
      )
    await sell(book, 10)
    await flushAll()
    expect(await lacking()).toBe(1)
    await world.startWorker() // a new one comes
    await world.level()
    await expect.poll(lacking, { timeout: 5_000 }).toBe(0)
    await expectEqual()
  })

  test('go on in the epoch of a recovery', async () => {
    const book = await world.makeBook({}, 50)
    await sell(book, 10)
    await world.level()
    const before = (await sql('SELECT epoch FROM shards ORDER BY shard')).rows
    await world.redis.flushall()
    await until(async () => {
      const { rows } = await sql('SELECT shard, epoch, phase FROM shards ORDER BY shard')
      return rows.every(
        ({ shard, epoch, phase }) => epoch > before[shard].epoch && phase === 'active',
      )
    }, 'all shards are recovered')
    await world.level() // and the API knows it
    await world.ready()
    await sell(book, 10)
    await world.level()
    expect(await lacking()).toBe(0)
    await expectEqual()
  })
})

describe('minutes: a fact that stood aside', () => {
  const by = { actor: 'cli:test', reason: 'test' }
  const ops = () => ({ redis: world.redis, database: world.database })
  /** Two assignments that do not fit, because rows of their codes are there. */
  async function park(): Promise<{ book: string; codes: string[] }> {
    await world.stopWorker()
    const book = await world.makeBook({}, 10)
    await sell(book, 2)
    const { rows } = await sql('SELECT shard FROM books WHERE book_id = $1', [book])
    const shard = rows[0].shard
    const journal = await world.redis.xrange(`{s${shard}}:journal`, '-', '+')
    const codes = journal
      .filter(([, fields]) => fields[3] === book && fields[1] === 'assign')
      .flatMap(([, fields]) => fields.slice(8).filter((_, f) => f % 2 === 0))
      .map((state) => state.split('\t')[0]!)
    for (const code of codes)
      await sql(
        `INSERT INTO coupons (code, book_id, user_id, version, redemptions, max_redemptions, assigned_at,
           updated_at) VALUES ($1, $2, 'x', 1, 0, 1, now(), now())`,
        [code, book],
      )
    await flushAll()
    await sql('DELETE FROM coupons WHERE code = ANY ($1)', [codes])
    return { book, codes }
  }

  test('counts once it fits, in its own minute, and never when it is given up', async () => {
    const { book } = await park()
    const parked = await parkedFacts(ops(), 100)
    expect(parked.length).toBeGreaterThan(1)
    await expectEqual()
    const own = parked.filter(({ book_id }) => book_id === book)
    const [given, ...fits] = own.toReversed().map(({ name }) => name)
    const again = await retryParked(ops(), fits.toReversed(), by)
    expect(again.every(({ applied }) => applied)).toBe(true)
    await expectEqual()
    expect(await discardParked(ops(), given!, by)).toBe(true)
    await expectEqual()
    await forget()
    await countAll()
    await expectEqual()
  })

  test('is counted once where the minutes have yet to come to it', async () => {
    await park()
    await forget()
    const names = (await parkedFacts(ops(), 100)).map(({ name }) => name)
    const again = await retryParked(ops(), names, by)
    expect(again.some(({ applied }) => applied)).toBe(true)
    expect(await byMinutes()).toEqual([])
    await countAll()
    await expectEqual()
  })
})
