import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { auditRows } from '../src/ledger/audit.ts'
import { openDatabase } from '../src/ledger/database.ts'
import { beginRecovery, shardRow } from '../src/ledger/shards.ts'
import { retryAllParked } from '../src/ops/parked.ts'
import { timeline } from '../src/ops/timeline.ts'
import { keys } from '../src/store/keys.ts'
import { operator, why } from './operator.ts'
import { openWorld, until, type World } from './world.ts'

/** The operators' verbs, as processes, against the whole service. */
let world: World
let book: string
const { stampede, asked, assign } = operator(() => ({ world, book }))

const redisDown = { REDIS_URL: 'redis://127.0.0.1:1' }
const postgresDown = { DATABASE_URL: 'postgres://a@127.0.0.1:1/a' }
const bothDown = { ...redisDown, ...postgresDown }
/** So long a verb may take to say that a store is down, with the start of its process. */
const answerMs = 3_000

beforeAll(async () => {
  world = await openWorld({ shards: 2 })
  book = await world.makeBook({ max_redemptions: 2 }, 40)
})
afterAll(() => world.close())

describe('status', () => {
  test('says that all is well, and what there is', async () => {
    await assign()
    await world.level()
    const found = await asked('status')
    // The worlds of other tests have processes of their own: these two are ours.
    expect(found).toMatchObject({ code: 0, problems: [], parked_facts: 0, failed_jobs: 0 })
    expect(found.processes.map(({ kind }: { kind: string }) => kind)).toEqual(['api', 'worker'])
    expect(found.shards).toMatchObject([
      { shard: 0, phase: 'active', intake: 'open', flush: 'running', lag: 0 },
      { shard: 1, phase: 'active', intake: 'open', flush: 'running', lag: 0 },
    ])
    expect((await stampede(['status'])).out).toMatch(/^all is well\n/)
  })

  test('says within 3 s which store does not answer, and ends with 69', async () => {
    const redis = await stampede(['status'], redisDown)
    expect([redis.code, redis.out]).toEqual([69, expect.stringMatching(/^! Redis does not answer/)])
    expect(redis.out).toMatch(/^redis DOWN, unknown of unknown, full in -; postgres up$/m)
    expect(redis.out).toMatch(/^ +0 +\d+ +active +open +running +unknown +unknown +-$/m)
    const postgres = await stampede(['status'], postgresDown)
    expect(postgres.code).toBe(69)
    expect(postgres.out).toMatch(/^! PostgreSQL does not answer: .*ECONNREFUSED/)
    expect(postgres.out).toMatch(/^alive: unknown API, unknown worker processes$/m)
    const both = await stampede(['status', '--json'], bothDown)
    expect([both.code, JSON.parse(both.out).problems.length]).toEqual([69, 2])
    for (const { ms } of [redis, postgres, both]) expect(ms).toBeLessThan(answerMs)
  })

  test('names first, in the words of /readyz, why a shard does not serve', async () => {
    const { rows } = await world.database.query(
      'SELECT shard, checkpoint FROM shards WHERE checkpoint > 0 LIMIT 1',
    )
    const [{ shard, checkpoint }] = rows
    const move = (to: number) =>
      world.database.query('UPDATE shards SET checkpoint = $2 WHERE shard = $1', [shard, to])
    const readyz = async () => (await world.call('GET', '/readyz')).body
    await move(checkpoint - 1)
    await world.house.watchGates()
    await until(async () => /old backup/.test((await readyz()).reason ?? ''), '/readyz says why')
    const { reason } = await readyz()
    const { code, problems, shards } = await asked('status')
    expect([code, problems[0]]).toEqual([3, `shard ${shard} does not serve: ${reason}`])
    expect(shards[shard]).toMatchObject({ serves: false, reason, phase: 'active' })
    expect(shards[1 - shard]).toMatchObject({ serves: true, reason: null })
    await move(checkpoint)
    await world.ready()
  })

  test('does not call level what it could not see, nor a Redis well that nobody serves from', async () => {
    const meta = keys.meta(1)
    await world.redis.multi().rename(meta, 'kept').set(meta, 'no hash').exec()
    await world.redis.config('SET', 'maxmemory-policy', 'allkeys-lru')
    const { code, problems, shards } = await asked('status')
    await world.redis.rename('kept', meta)
    await world.redis.config('SET', 'maxmemory-policy', 'noeviction')
    expect([code, problems]).toEqual([
      3,
      [
        expect.stringMatching(/^nothing is served: redis maxmemory-policy is allkeys-lru: set it/),
        expect.stringMatching(/^shard 1 could not be looked at: .*WRONGTYPE/),
      ],
    ])
    expect(shards[1]).toMatchObject({ serves: null, lag: null, oldest_seconds: null })
    await world.ready()
    await until(async () => (await asked('status')).problems.length === 0, 'all is well again')
  })

  test('says when Redis will be full if it goes on growing', async () => {
    let grows = true
    const growth = (async () => {
      while (grows) await world.redis.append('junk', 'x'.repeat(500_000))
    })()
    const { redis } = await asked('status')
    grows = false
    await growth
    await world.redis.del('junk')
    expect(redis.seconds_until_full).toBeGreaterThan(0)
    expect(redis.seconds_until_full).toBeLessThan(100_000)
  })

  /**
   * Every verb with every combination, and connections on which nobody says a word: that takes minutes, so it
   * is `npm run bench -- --only down`. One after the other, because several at once would share the cores.
   */
  test('a verb says within 3 s which store that it needs is down, and ends with 69', {
    timeout: 90_000,
  }, async () => {
    const tries: [verb: string[], away: Record<string, string>][] = [
      [['doctor'], redisDown],
      [['doctor'], postgresDown],
      [['drain'], redisDown],
      [['reconcile'], postgresDown],
      [['pause', '--intake', ...why], redisDown],
      [['parked', 'list'], postgresDown],
      [['coupon', 'void', 'X', ...why, '--yes'], redisDown],
      [['queues', 'list'], redisDown],
      [['doctor'], bothDown],
      [['drain'], bothDown],
      [['coupon', 'show', 'X'], bothDown],
    ]
    for (const [verb, away] of tries) {
      const { code, out, err, ms } = await stampede(verb, away)
      const said = expect.stringMatching(/does not answer/)
      expect([verb, code, `${out}${err}`]).toEqual([verb, 69, said])
      expect(ms, `${verb}`).toBeLessThan(answerMs)
    }
    expect((await asked('status')).problems).toEqual([])
    const without = await stampede(['jobs', 'list'], redisDown)
    expect([without.code, without.err]).toEqual([0, ''])
  })
})

describe('pause and resume', () => {
  test('intake: refused by every verb, in the audit log, and back again', async () => {
    const paused = await asked('pause', '--intake', ...why)
    expect(paused).toMatchObject({ code: 0, before: 'open', now: 'stopped', in_force: true })
    expect((await assign()).body.code).toBe('intake-stopped')
    expect((await asked('status')).problems[0]).toMatch(/^intake is stopped on shards 0, 1/)
    expect(await asked('resume', '--intake', ...why)).toMatchObject({ code: 0, now: 'open' })
    expect((await assign()).status).toBe(200)
    const [last, first] = await auditRows(world.database, { limit: 2 })
    expect([first!.action, last!.action]).toEqual(['pause', 'resume'])
    expect(last).toMatchObject({
      target: 'intake',
      reason: 'a test',
      detail: { before: 'stopped' },
    })
    expect(last!.actor).toMatch(/^cli:/)
  })

  test('the flush: the journal grows, nothing reaches the ledger, and then all of it', async () => {
    await world.level()
    expect(await asked('pause', '--flush', ...why)).toMatchObject({ code: 0, now: 'paused' })
    const late = await world.call('POST', 'coupons/assign', {
      as: world.service,
      body: { book_id: book, user_id: 'u' },
      headers: { durability: 'postgres' },
    })
    expect(late.status).toBe(202)
    expect((await asked('status')).problems[0]).toMatch(/^the flush is paused/)
    expect((await asked('resume', '--flush', ...why)).code).toBe(0)
    await world.level()
  })

  test('a book, and what is no book', async () => {
    expect(await asked('pause', '--book', book, ...why)).toMatchObject({ code: 0, now: 'paused' })
    expect((await assign()).body.code).toBe('book-inactive')
    expect((await asked('resume', '--book', book, ...why)).code).toBe(0)
    expect((await assign()).status).toBe(200)
    const none = await stampede(['pause', '--book', crypto.randomUUID(), ...why])
    expect([none.code, none.err]).toEqual([1, 'No such book\n'])
  })

  test('wants one of three, and a reason', async () => {
    expect((await stampede(['pause', '--intake'])).code).toBe(2)
    expect((await stampede(['pause', ...why])).code).toBe(2)
    expect((await stampede(['pause', '--intake', '--flush', ...why])).code).toBe(2)
  })
})

describe('the audit log', () => {
  test('can be added to and not be changed', async () => {
    const database = openDatabase(world.settings.DATABASE_URL, 1, 'test')
    for (const sql of [
      "UPDATE audit_log SET reason = 'x'",
      'DELETE FROM audit_log',
      'TRUNCATE audit_log',
    ])
      await expect(database.query(sql)).rejects.toThrow('append-only')
    await database.end()
  })
})

describe('coupon show', () => {
  test('tells every fact, who did it, and what both stores say', async () => {
    const { code } = (await assign('tim')).body.coupons[0]
    const used = { as: world.service, body: { user_id: 'tim' } }
    await world.call('POST', `coupons/lock/${code}`, used)
    await world.level()
    const found = await asked('coupon', 'show', code)
    expect(found.facts).toMatchObject([
      { kind: 'assign', user_id: 'tim', version: 1 },
      { kind: 'lock', user_id: 'tim', version: 2 },
    ])
    expect(found.facts[0].actor).toMatch(/^key:/)
    expect(found.redis).toMatchObject({ in_stock: false, locked_by_guard: true })
    expect(found.redis.record).toMatchObject({ user: 'tim', version: 2, lockToken: '' })
    expect(found.postgres).toMatchObject({ user_id: 'tim', version: 2 })
    for (const { at, in_ledger, recorded_at } of found.facts) {
      expect(in_ledger).toBe(true)
      expect(Math.abs(Date.parse(recorded_at) - Date.parse(at))).toBeLessThan(10_000)
    }
    // As of a fact from before PostgreSQL wrote that down.
    await world.database.query(
      "UPDATE ledger SET recorded_at = NULL WHERE code = $1 AND kind = 'assign'",
      [code],
    )
    const { out } = await stampede(['coupon', 'show', code])
    expect(out).toMatch(/ assign .*, in the ledger since before/)
    expect(out).toMatch(/ lock .*, in the ledger 20/)
    expect((await stampede(['coupon', 'show', 'NOSUCH'])).code).toBe(1)
  })

  test('tells what only the journal has, of a counter book’s code too', async () => {
    const units = await world.makeBook({ kind: 'counter', units: 3 })
    await world.level()
    const post = (path: string, body: object = {}) =>
      world.call('POST', path, { as: world.admin, body, headers: { durability: 'redis' } })
    const show = async (code: string) =>
      (await world.call('GET', `ops/coupons/${code}`, { as: world.admin })).body
    await post('ops/flush', { state: 'paused', reason: 'a test' })
    const given = await post('coupons/assign', { book_id: units, user_id: 'una' })
    const { code } = given.body.coupons[0]
    const { code: exit, out } = await stampede(['coupon', 'show', code])
    expect([exit, out]).toEqual([0, expect.stringMatching(/ una .*, not in the ledger yet\n/)])
    const found = await show(code)
    const fact = { kind: 'assign', user_id: 'una', version: 1, in_ledger: false, recorded_at: null }
    expect(found).toMatchObject({ code, book_id: units, facts: [fact], journal_cut: false })
    expect(found.facts[0].actor).toBe(`user:${world.adminId}`)
    expect([found.redis.record.user, found.postgres]).toEqual(['una', null])
    // Given back, a counter book's code is forgotten by Redis: its facts are all that there is.
    await post(`coupons/release/${code}`)
    const { facts, redis } = await show(code)
    expect(facts).toMatchObject([fact, { kind: 'release', in_ledger: false }])
    expect(redis.record).toBeNull()
    const never = `${code.slice(0, 7)}0000000000000000`
    expect((await show(never)).code).toBe('coupon-not-found')
    // More waits than is read: nobody can say any more that there is no such code.
    const ops = { redis: world.redis, database: world.database }
    expect(await timeline(ops, never, 1)).toMatchObject({ facts: [], journal_cut: true })
    expect((await timeline(ops, code, 1))!.facts).toMatchObject([{ kind: 'release' }])
    await post('ops/flush', { state: 'running', reason: 'a test' })
    await world.level()
    const carried = [
      { kind: 'assign', in_ledger: true },
      { kind: 'release', in_ledger: true },
    ]
    expect(await show(code)).toMatchObject({ facts: carried, journal_cut: false })
  })
})

describe('parked', () => {
  test('facts are listed, shown, tried again and given up', async () => {
    expect(await asked('parked', 'list')).toMatchObject({ code: 0, facts: [] })
    const { code } = (await assign('pat')).body.coupons[0]
    await world.level()
    const { rows } = await world.database.query('SELECT * FROM ledger WHERE code = $1', [code])
    const { shard, epoch, n, i, op } = rows[0]
    const at = rows[0].at.getTime()
    // As a fact that did not fit: neither in the ledger nor in the fold.
    const fact = {
      ...{ i, code, user: 'pat', version: 1, assignedAt: at, redemptions: 0, max: 2 },
      ...{ lockToken: null, lockedUntil: null, redemption: null },
      context: '{"actor":"x","request_id":"r"}',
    }
    const entry = { epoch, n, kind: 'assign', book, at, op, fact }
    await world.database.query('DELETE FROM ledger WHERE code = $1', [code])
    await world.database.query('DELETE FROM coupons WHERE code = $1', [code])
    await world.database.query('UPDATE book_counters SET held = held - 1 WHERE book_id = $1', [
      book,
    ])
    const park = (place: number, more = {}) =>
      world.database.query(
        "INSERT INTO parked_facts (shard, epoch, n, i, reason, fact) VALUES ($1, $2, $3, $4, 'a test', $5)",
        [shard, epoch, place, i, { ...entry, n: place, fact: { ...fact, ...more } }],
      )
    await park(n)
    const name = `${shard}/${epoch}-${n}/${i}`
    const listed = await asked('parked', 'list')
    expect(listed).toMatchObject({ code: 3, facts: [{ name, code, reason: 'a test' }] })
    expect(await asked('parked', 'show', name)).toMatchObject({ code: 0, fact: { user: 'pat' } })
    expect(await asked('parked', 'retry', ...why)).toMatchObject({
      ...{ code: 0, retried: [{ name, applied: true, reason: null }] },
    })
    const back = await world.database.query('SELECT user_id FROM coupons WHERE code = $1', [code])
    expect(back.rows).toEqual([{ user_id: 'pat' }])

    await park(n + 1_000_000, { lockToken: 'the-token' })
    const other = `${shard}/${epoch}-${n + 1_000_000}/${i}`
    const { token } = await world.signUp('viewer')
    const look = async (path: string) =>
      JSON.stringify((await world.call('GET', path, { as: token })).body)
    expect(await look(`ops/parked/${other}`)).toContain(code)
    expect(await look(`ops/parked/${other}`)).not.toContain('the-token')
    expect((await asked('parked', 'retry', other, ...why)).code).toBe(3)
    expect((await asked('parked', 'discard', other, ...why)).discarded).toBe(false)
    expect((await asked('parked', 'discard', other, '--yes', ...why)).discarded).toBe(true)
    expect((await asked('parked', 'list')).facts).toEqual([])
    const [deed] = await auditRows(world.database, { limit: 1 })
    expect(deed).toMatchObject({ action: 'parked.discard', target: `fact:${other}` })
    expect(deed!.detail).toMatchObject({ fact: { fact: { code } } })
    expect(await look('ops/audit')).toContain('"action":"parked.discard"')
    expect(await look('ops/audit')).not.toContain('the-token')
    expect(await look('ops/audit')).not.toContain(code)
    await world.database.query('DELETE FROM ledger WHERE n > 1000000')

    // What came later stands before what it follows from: page by page, until nothing fits any more.
    const gone = ['ledger', 'coupons'].map((table) =>
      world.database.query(`DELETE FROM ${table} WHERE code = $1`, [code]),
    )
    await Promise.all(gone)
    await world.database.query('UPDATE book_counters SET held = held - 1 WHERE book_id = $1', [
      book,
    ])
    await park(n)
    const unlock = {
      ...entry,
      kind: 'unlock',
      n: 0,
      fact: { ...fact, version: 2 },
    }
    await world.database.query(
      "INSERT INTO parked_facts (shard, epoch, n, i, reason, fact) VALUES ($1, $2, 0, $3, 'a test', $4)",
      [shard, epoch, i, unlock],
    )
    const ops = { redis: world.redis, database: world.database }
    const all = await retryAllParked(ops, { actor: 'test', reason: 'a test' }, 1)
    const later = `${shard}/${epoch}-0/${i}`
    expect(all).toMatchObject([name, later].map((one) => ({ name: one, applied: true })))
    await world.database.query('UPDATE coupons SET version = 1 WHERE code = $1', [code])
    await world.database.query('DELETE FROM ledger WHERE n = 0')
  })
})

describe('replay', () => {
  test('brings back what the ledger lost, once', async () => {
    const { code } = (await assign('rae')).body.coupons[0]
    await world.level()
    await world.database.query('DELETE FROM ledger WHERE code = $1', [code])
    const sum = (shards: { applied: number }[]) => shards.reduce((all, one) => all + one.applied, 0)
    const first = await asked('replay')
    expect([first.code, sum(first.shards)]).toEqual([0, 1])
    const { rows } = await world.database.query('SELECT user_id FROM ledger WHERE code = $1', [
      code,
    ])
    expect(rows).toEqual([{ user_id: 'rae' }])
    expect(sum((await asked('replay')).shards)).toBe(0)
    const none = await stampede(['replay', '--shard', '40'])
    expect([none.code, none.err]).toEqual([1, 'There is no shard 40: they are 0 to 1.\n'])
  })

  test('never brings back what was released since', async () => {
    const { code } = (await assign('rel')).body.coupons[0]
    await world.call('POST', `coupons/release/${code}`, { as: world.admin })
    await world.level()
    await world.database.query("DELETE FROM ledger WHERE code = $1 AND kind = 'assign'", [code])
    const { shards } = await asked('replay')
    expect(shards.reduce((all: number, one: { applied: number }) => all + one.applied, 0)).toBe(1)
    const { rows } = await world.database.query('SELECT FROM coupons WHERE code = $1', [code])
    expect(rows).toEqual([])
    expect(await asked('reconcile', '--book', book)).toMatchObject({ code: 0, differences: [] })
  })
})

describe('rebuild', () => {
  test('shows its plan, and makes a shard anew under a new epoch', async () => {
    await world.level()
    const { rows } = await world.database.query('SELECT shard FROM books WHERE book_id = $1', [
      book,
    ])
    const { shard } = rows[0]
    const before = await world.redis.hgetall(keys.users(shard, book))
    const plan = await asked('rebuild', '--book', book)
    expect(plan).toMatchObject({ code: 0, rebuilt: null, plan: [{ shard, books: 1, lag: 0 }] })
    // Something that only a rebuild repairs.
    await world.redis.hset(keys.users(shard, book), 'nobody', 7)
    const done = await asked('rebuild', '--book', book, '--yes')
    expect(done).toMatchObject({ code: 0, rebuilt: [{ shard }] })
    await world.ready()
    expect(await world.redis.hgetall(keys.users(shard, book))).toEqual(before)
    // A process that served nothing meanwhile finds the new epoch out at its next look.
    await until(async () => (await assign('again')).status === 200, 'it serves again')
    expect((await stampede(['rebuild', '--yes'])).code).toBe(2)
  })

  test('ends with 4 when no worker does it, and sees it done by the one that took over', async () => {
    await world.level()
    await world.stopWorker()
    const late = await asked('rebuild', '--shard', '0', '--yes', '--timeout', '50ms')
    expect(late).toMatchObject({ code: 4, rebuilt: [], late: [0] })
    await world.database.query('UPDATE shards SET suspect = NULL')
    const waiting = asked('rebuild', '--shard', '0', '--yes', '--timeout', '15s')
    const row = () => shardRow(world.database, 0)
    await until(async () => (await row()).suspect !== null, 'it is asked for')
    const { epoch, suspect } = await row()
    // A worker that begins, and dies.
    await beginRecovery(world.database, await row(), epoch + 1, crypto.randomUUID(), suspect!)
    await world.database.query(
      "UPDATE shards SET updated_at = now() - interval '1 minute' WHERE shard = 0",
    )
    await world.startWorker()
    expect(await waiting).toMatchObject({ code: 0, rebuilt: [{ shard: 0, epoch: epoch + 2 }] })
    world.house.place.shut(0, 'a test')
    await world.ready()
  }, 60_000)
})
