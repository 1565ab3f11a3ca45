import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { afterAll, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest'
import { JournalForked } from '../src/journal/journal.ts'
import { entryBefore } from '../src/ledger/shards.ts'
import { keys } from '../src/store/keys.ts'
import { flusher, flushOnce, squeeze } from '../workers/flush.ts'
import { Retention } from '../workers/retention.ts'
import { openWorld, until, type World } from './world.ts'

let world: World
let book: string
const shard = 0

beforeAll(async () => {
  world = await openWorld({ shards: 1 })
})
afterAll(() => world.close())
beforeEach(async () => {
  await world.startWorker()
  book = await world.makeBook({}, 50)
  await world.level()
})

const assign = (user: string, count = 1) =>
  world.call('POST', 'coupons/assign', {
    as: world.service,
    body: { book_id: book, user_id: user, count },
  })
async function ledger(): Promise<{ n: number; i: number; code: string; kind: string }[]> {
  const { rows } = await world.database.query(
    'SELECT n, i, code, kind FROM ledger WHERE book_id = $1 ORDER BY n, i',
    [book],
  )
  return rows
}
const parked = async () =>
  (await world.database.query('SELECT n, i, reason FROM parked_facts ORDER BY n, i')).rows
const meta = async (field: string) => Number(await world.redis.hget(keys.meta(shard), field))
const own = () => flusher(world.house.place, world.database, shard)

/** Writes an entry as a script would, but with facts of our choice. */
async function forge(kind: string, facts: [state: string, context: string][], more = '') {
  const n = (await meta('n')) + 1
  const epoch = await meta('epoch')
  const op = '00000000-0000-4000-8000-000000000000'
  await world.redis.xadd(
    keys.journal(shard),
    `${epoch}-${n}`,
    ...['kind', kind, 'book', book, 'at', String(Date.now()), 'op', op],
    ...facts.flat(),
    ...(more ? [more, '{}'] : []),
  )
  const total = (await meta('facts')) + facts.length
  await world.redis.hset(keys.meta(shard), 'n', n, 'facts', total)
  await world.redis.hincrby(keys.meta(shard), 'kept', 1)
  return n
}
const context = '{"actor":"user:x","request_id":"r"}'
const assigned = (code: string, user = 'u') => `${code}\t${user}\t1\t1795132800000\t0\t1\t\t\t`

describe('flush', () => {
  test('brings a sale into the ledger and the ledger is level', async () => {
    await Promise.all(Array.from({ length: 20 }, (_, u) => assign(`u${u}`)))
    await world.level()
    expect(await ledger()).toHaveLength(20)
    expect(await meta('facts')).toBe(await meta('flushed'))
    expect(await meta('n')).toBe(await meta('watermark'))
  })

  test('moves nothing twice when two flushers read the same entries', async () => {
    await world.stopWorker()
    await Promise.all([assign('a'), assign('b'), assign('c', 3)])
    const results = await Promise.all([flushOnce(own()), flushOnce(own()), flushOnce(own())])
    expect(results.reduce((sum, { facts }) => sum + facts, 0)).toBe(5)
    expect(await ledger()).toHaveLength(5)
  })

  test('announces what a flusher that died after its commit did not', async () => {
    await world.stopWorker()
    const before = await meta('watermark')
    await assign('a')
    const last = own()
    await flushOnce(last)
    // The flusher committed; its announcement never reached Redis.
    const facts = (await meta('flushed')) - 1
    await world.redis.hset(keys.meta(shard), 'watermark', before, 'flushed', facts)
    expect(await flushOnce(own())).toMatchObject({ facts: 0 })
    expect(await meta('watermark')).toBe(await meta('n'))
    expect(await meta('flushed')).toBe(await meta('facts'))
    expect(await ledger()).toHaveLength(1)
  })

  test('folds many verbs on one code within a batch to its last state', async () => {
    await world.stopWorker()
    const got = await assign('a')
    const { code } = got.body.coupons[0]
    const as = world.service
    const body = { user_id: 'a' }
    const level = { durability: 'redis' }
    await world.call('POST', `coupons/lock/${code}`, { as, body })
    await world.call('POST', `coupons/unlock/${code}`, { as, body })
    const used = await world.call('POST', `coupons/redeem/${code}`, { as, body, headers: level })
    const undo = `redemptions/${used.body.redemption_id}/rollback`
    await world.call('POST', undo, { as, headers: level })
    await world.call('POST', `coupons/release/${code}`, { as: world.admin, headers: level })
    await world.call('POST', `coupons/assign/${code}`, { as, body: { user_id: 'b' } })
    await flushOnce(own())
    expect((await ledger()).map(({ kind }) => kind)).toEqual([
      ...['assign', 'lock', 'unlock', 'redeem', 'rollback', 'release', 'assign'],
    ])
    const { rows } = await world.database.query('SELECT * FROM coupons WHERE code = $1', [code])
    expect(rows).toMatchObject([{ user_id: 'b', version: 1, redemptions: 0 }])
    const undone = await world.database.query(
      'SELECT rolled_back_by FROM redemptions WHERE code = $1 AND rolled_back_at IS NOT NULL',
      [code],
    )
    expect(undone.rows).toHaveLength(1)
    expect(await parked()).toEqual([])
  })

  test('parks a fact that does not fit and goes on with its neighbours', async () => {
    await world.stopWorker()
    const got = await assign('a')
    const { code } = got.body.coupons[0]
    const twice = await forge('assign', [
      [assigned(code, 'thief'), context],
      [assigned(`fits-${book}`), context],
    ])
    await flushOnce(own())
    expect(await parked()).toMatchObject([
      { n: twice, i: 0, reason: expect.stringMatching(/dupl/) },
    ])
    expect((await ledger()).map((fact) => fact.code)).toEqual([code, code, `fits-${book}`])
    const { rows } = await world.database.query('SELECT user_id FROM coupons WHERE code = $1', [
      code,
    ])
    expect(rows).toEqual([{ user_id: 'a' }])
    await world.database.query('DELETE FROM parked_facts')
  })

  test('parks a fact that PostgreSQL cannot even write down', async () => {
    await world.stopWorker()
    const n = await forge('assign', [
      [assigned(`nul-${book}`), '{"actor":"\\u0000"}'],
      [assigned(`ok-${book}`), context],
    ])
    await flushOnce(own())
    expect(await parked()).toMatchObject([{ n, i: 0 }])
    expect((await ledger()).map((fact) => fact.code)).toEqual([`ok-${book}`])
    await world.database.query('DELETE FROM parked_facts')
  })

  test('finds one among hundreds that does not fit without writing each by itself', async () => {
    await world.stopWorker()
    const { code } = (await assign('b')).body.coupons[0]
    const many = Array.from({ length: 400 }, (_, f) => [assigned(`many-${f}-${book}`), context])
    many[123] = [assigned(code, 'thief'), context]
    const n = await forge('assign', many as [string, string][])
    const asked = vi.spyOn(pg.Client.prototype, 'query')
    await flushOnce(own())
    // Fact by fact it would be four statements for each.
    expect(asked.mock.calls.length).toBeLessThan(300)
    asked.mockRestore()
    expect(await parked()).toMatchObject([{ n, i: 123 }])
    expect(await ledger()).toHaveLength(1 + 400)
    await world.database.query('DELETE FROM parked_facts')
  })

  test('parks a change of a version that is not there', async () => {
    await world.stopWorker()
    const n = await forge('lock', [
      [`ghost\tu\t7\t1795132800000\t0\t1\ttoken\t1795132900000\t`, context],
    ])
    await flushOnce(own())
    expect(await parked()).toMatchObject([{ n, i: 0, reason: expect.stringMatching(/version/) }])
    await world.database.query('DELETE FROM parked_facts')
  })

  test('lets go of what PostgreSQL has where Redis is nearly full, but for the last entry', async () => {
    book = await world.makeBook({}, 500)
    await world.stopWorker()
    const entries = () => world.redis.xlen(keys.journal(shard))
    for (let i = 0; i < 220; i++) await assign(`u${i}`)
    const roomy = own()
    while ((await flushOnce(roomy)).more);
    const before = await entries()
    expect(before).toBeGreaterThanOrEqual(220)
    await squeeze(roomy, 0)
    expect(await entries()).toBeLessThan(before - 100) // Redis trims by the hundred
    for (let i = 0; i < 220; i++) await assign(`v${i}`)
    const tight = flusher(world.house.place, world.database, shard, () => true)
    while ((await flushOnce(tight)).more);
    expect(await entries()).toBeLessThanOrEqual(120)
    expect(await meta('kept')).toBe(await entries())
    await world.startWorker()
    await world.ready()
    await assign('last')
    await world.level()
  })

  test('happens in a job of BullMQ, and by the sweep where no job comes', async () => {
    // BullMQ's worker has begun once a job has flushed something.
    let warmUp = 0
    await until(async () => {
      await assign(`early${++warmUp}`)
      await world.level()
      return world.flushes().nudge > 0
    }, 'a job has flushed')
    const before = { ...world.flushes() }
    for (let burst = 0; burst < 20; burst++) {
      await assign(`u${burst}`)
      if (burst % 4 === 0) await world.level()
    }
    await world.level()
    const { nudge, sweep } = world.flushes()
    expect(nudge - before.nudge).toBeGreaterThan(0)
    expect(sweep - before.sweep).toBe(0)
    // Facts that nobody nudges for.
    await sleep(1_000) // the jobs have gone: each lingers for a quarter of a second
    await forge('assign', [[assigned(`quiet-${book}`), context]])
    await until(async () => (await ledger()).length === warmUp + 21, 'the sweep has flushed', 2_000)
    await until(() => world.flushes().sweep - sweep === 1, 'the sweep has counted it')
  })
})

describe('flush: a journal that is not the ledger’s', () => {
  let other: World
  beforeAll(async () => {
    other = await openWorld({ shards: 1 })
  })
  afterAll(() => other.close())

  test('is refused, and nothing of it reaches the ledger', async () => {
    const id = await other.makeBook({}, 5)
    const assigning = () =>
      other.call('POST', 'coupons/assign', {
        as: other.service,
        body: { book_id: id, user_id: 'u' },
      })
    await assigning()
    await other.level()
    await other.stopWorker()
    await assigning()
    const mine = flusher(other.house.place, other.database, shard)
    const { rows } = await other.database.query('SELECT checkpoint_hash FROM shards')
    await other.database.query("UPDATE shards SET checkpoint_hash = 'another'")
    await expect(flushOnce(mine)).rejects.toThrow(JournalForked)
    await other.database.query('UPDATE shards SET checkpoint_hash = $1', [rows[0].checkpoint_hash])
    const journal = keys.journal(shard)
    const entries = await other.redis.xrange(journal, '-', '+')
    // A hole: the next entry is missing, a later one is there.
    const [id2, fields] = entries.at(-1)!
    const [epoch, n] = id2.split('-').map(Number)
    await other.redis.xadd(journal, `${epoch}-${n! + 2}`, ...fields)
    // What stands before the hole is as good as ever; then it is over.
    expect(await flushOnce(mine)).toMatchObject({ facts: 1 })
    await expect(flushOnce(mine)).rejects.toThrow(/missing/)
    const counted = await other.database.query('SELECT count(*)::int FROM ledger')
    expect(counted.rows[0].count).toBe(2)
  })
})

describe('flush: how much stays in the journal', () => {
  test('the last 200,000 facts stay, older entries may go', () => {
    const retention = new Retention()
    expect(retention.add({ epoch: 1, n: 10 }, 150_000)).toBe('')
    expect(retention.add({ epoch: 1, n: 20 }, 300_000)).toBe('')
    // Entries up to 10 are now more than 200,000 facts old.
    expect(retention.add({ epoch: 1, n: 30 }, 360_000)).toBe('1-10')
    expect(retention.add({ epoch: 1, n: 40 }, 360_001)).toBe('')
  })

  test('also where others flush most of them', () => {
    const retention = new Retention()
    retention.add({ epoch: 1, n: 10 }, 1_000)
    expect(retention.add({ epoch: 1, n: 9_000 }, 201_000)).toBe('1-10')
  })

  test('the number of an old epoch’s entry never trims a new epoch’s', () => {
    const retention = new Retention()
    retention.add({ epoch: 1, n: 5_000 }, 150_000)
    retention.add({ epoch: 1, n: 9_000 }, 250_000)
    // Entries 2-11 and later are in the journal and not in the ledger yet.
    expect(retention.add({ epoch: 2, n: 10 }, 350_000)).toBe('1-5000')
  })

  test('what a process of before has left goes, too', async () => {
    const entries = () => world.redis.xlen(keys.journal(shard))
    book = await world.makeBook({}, 400)
    for (let i = 0; i < 350; i++) await assign(`w${i % 50}`)
    await world.level()
    const { rows } = await world.database.query(
      'SELECT epoch, n FROM ledger ORDER BY epoch DESC, n DESC, i DESC OFFSET 120 LIMIT 1',
    )
    expect(await entryBefore(world.database, shard, 120)).toEqual(rows[0])
    await squeeze(own(), 1_000_000)
    const before = await entries()
    await squeeze(own(), 120)
    const after = await entries()
    expect(after).toBeLessThan(before - 100) // Redis trims by the hundred
    expect(after).toBeGreaterThanOrEqual(120)
    expect(await meta('kept')).toBe(after)
    await assign('last')
    await world.level()
  })
})
