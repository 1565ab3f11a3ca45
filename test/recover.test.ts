import pino from 'pino'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { healOnce } from '../src/recovery/recover.ts'
import { keys } from '../src/store/keys.ts'
import { openWorld, type Reply, until, type World } from './world.ts'

let world: World
let book: string
let counter: string
const shard = 0

beforeEach(async () => {
  world = await openWorld({ shards: 1 })
  book = await world.makeBook(
    { max_redemptions: 2, lock_seconds: 600, max_assignments_per_user: 50 },
    200,
  )
  counter = await world.makeBook({ kind: 'counter', units: 50 })
})
afterEach(() => world.close())

const post = (path: string, body: unknown, headers = {}) =>
  world.call('POST', path, { as: world.service, body, headers })
const durable = { durability: 'postgres' }

/** A bit of everything: held, locked, used once, used up, rolled back, released, void, of both kinds. */
async function trade() {
  const held = await post('coupons/assign', { book_id: book, user_id: 'u1', count: 4 }, durable)
  const [a, b, c, d] = held.body.coupons.map((coupon: { code: string }) => coupon.code)
  const locked = await post(`coupons/lock/${a}`, { user_id: 'u1' }, durable)
  await post(`coupons/redeem/${b}`, { user_id: 'u1' })
  await post(`coupons/redeem/${b}`, { user_id: 'u1' })
  const used = await post(`coupons/redeem/${c}`, { user_id: 'u1' })
  await post(`redemptions/${used.body.redemption_id}/rollback`, undefined)
  await world.call('POST', `coupons/release/${d}`, { as: world.admin })
  const units = await post('coupons/assign', { book_id: counter, user_id: 'u2', count: 3 }, durable)
  const [stocked, taken] = await world.redis.srandmember(keys.stock(shard, book), 2)
  await post(`coupons/assign/${taken}`, { user_id: 'u1' })
  for (const code of [stocked, taken, units.body.coupons[0].code])
    await world.call('POST', `coupons/void/${code}`, { as: world.admin })
  const keyed = await post(
    'coupons/assign',
    { book_id: book, user_id: 'u3', count: 2 },
    { ...durable, 'idempotency-key': 'order-1' },
  )
  return { a, b, c, d, token: locked.body.lock_token, undone: used.body.redemption_id, keyed }
}

/** Everything Redis knows of the shard's coupons, without what a new epoch changes. */
async function memory() {
  const { redis } = world
  const all: Record<string, unknown> = {}
  for (const key of (await redis.keys(keys.all(shard))).sort()) {
    if (/:(meta|journal|op:.*|keys:.*)$/.test(key) || key.includes(':op:')) continue
    const type = await redis.type(key)
    if (type === 'hash') {
      const hash = await redis.hgetall(key)
      if ('' in hash) hash[''] = 'sentinel'
      delete hash.overrides
      all[key] = hash
    } else if (type === 'set') all[key] = (await redis.smembers(key)).sort()
    else all[key] = [await redis.get(key), await redis.call('PEXPIRETIME', key)]
  }
  return all
}
const epoch = async () => Number(await world.redis.hget(keys.meta(shard), 'epoch'))

/** Resolves once a recovery has begun and ended, and the API serves again. */
async function recovered(after: number): Promise<void> {
  await until(async () => {
    // Somebody has to notice: a request does. This one is over the limit, so it changes nothing.
    await post('coupons/assign', { book_id: book, user_id: 'nobody', count: 100 })
    const { rows } = await world.database.query(
      "SELECT 1 FROM shards WHERE epoch > $1 AND phase = 'active'",
      [after],
    )
    return rows.length === 1 && world.house.place.gates.every((gate) => gate.open)
  }, 'the shard was recovered')
}

describe('recover', () => {
  const damages: [string, (world: World) => Promise<unknown>][] = [
    ['FLUSHALL', ({ redis }) => redis.flushall()],
    ['DEL of meta', ({ redis }) => redis.del(keys.meta(shard))],
    ['DEL of the journal', ({ redis }) => redis.del(keys.journal(shard))],
    ['DEL of the coupons', ({ redis }) => redis.del(keys.coupons(shard))],
    ['DEL of the redemptions', ({ redis }) => redis.del(keys.redemptions(shard))],
    ['DEL of the stock', ({ redis }) => redis.del(keys.stock(shard, book))],
    ['DEL of the users', ({ redis }) => redis.del(keys.users(shard, book))],
    ['DEL of the book', ({ redis }) => redis.del(keys.book(shard, book))],
    ['SWAPDB', ({ redis }) => redis.call('SWAPDB', 0, 1)],
  ]
  test.each(damages)('brings back everything after %s', async (_, damage) => {
    await trade()
    await world.level()
    const before = await memory()
    const old = await epoch()
    await damage(world)
    await recovered(old)
    expect(await memory()).toEqual(before)
    const after = await post('coupons/assign', { book_id: book, user_id: 'u9' }, durable)
    expect(after.status).toBe(200)
    expect(await epoch()).toBeGreaterThan(old)
  })

  test('keeps locks with their deadlines, redemptions, and answers under their keys', async () => {
    const { a, b, c, token, undone, keyed } = await trade()
    await world.level()
    const old = await epoch()
    await world.redis.flushall()
    await recovered(old)
    const stranger = await post(`coupons/redeem/${a}`, { user_id: 'u1' })
    expect(stranger.body.code).toBe('coupon-locked')
    const holder = await post(`coupons/redeem/${a}`, { user_id: 'u1', lock_token: token })
    expect(holder.status).toBe(200)
    expect((await post(`coupons/redeem/${b}`, { user_id: 'u1' })).body.code).toBe('coupon-redeemed')
    expect((await post(`redemptions/${undone}/rollback`, undefined)).body.code).toBe(
      'already-rolled-back',
    )
    expect((await post(`coupons/redeem/${c}`, { user_id: 'u1' })).status).toBe(200)
    const again = await post(
      'coupons/assign',
      { book_id: book, user_id: 'u3', count: 2 },
      { ...durable, 'idempotency-key': 'order-1' },
    )
    expect(again.headers.get('idempotent-replayed')).toBe('true')
    expect(again.body).toEqual(keyed.body)
  })

  test('keeps the answers that every verb gave under its key, and knows their bodies', async () => {
    const codes = Array.from({ length: 10 }, (_, k) => `K-${k}`)
    const own = await world.makeBook({ max_redemptions: 2 }, codes)
    for (const code of codes.slice(2)) await post(`coupons/assign/${code}`, { user_id: 'u1' })
    const use = async (code: string) =>
      (await post(`coupons/redeem/${code}`, { user_id: 'u1' })).body.redemption_id as string
    const [undone, kept] = [await use('K-5'), await use('K-6')]
    await post('coupons/lock/K-3', { user_id: 'u1' }, durable)

    /** A request, and another that may not come under its key. */
    type Ask = [path: string, body?: object]
    const user = { user_id: 'u1' }
    const asks: Record<string, [Ask, Ask]> = {
      assign: [
        ['coupons/assign', { book_id: own, ...user }],
        ['coupons/assign', { book_id: own, ...user, count: 2 }],
      ],
      assign_code: [
        ['coupons/assign/K-0', user],
        ['coupons/assign/K-0', { user_id: 'u2' }],
      ],
      lock: [
        ['coupons/lock/K-2', { ...user, lock_duration_seconds: 300 }],
        ['coupons/lock/K-2', { ...user, lock_duration_seconds: 301 }],
      ],
      unlock: [
        ['coupons/unlock/K-3', user],
        ['coupons/unlock/K-2', user],
      ],
      redeem: [
        ['coupons/redeem/K-4', { ...user, metadata: { till: 4 } }],
        ['coupons/redeem/K-4', { ...user, metadata: { till: 5 } }],
      ],
      rollback: [[`redemptions/${undone}/rollback`], [`redemptions/${kept}/rollback`]],
      release: [['coupons/release/K-7'], ['coupons/release/K-8']],
      void: [['coupons/void/K-9'], ['coupons/void/K-1']],
    }
    const send = (verb: string, [path, body]: Ask) =>
      world.call('POST', path, {
        as: verb === 'release' || verb === 'void' ? world.admin : world.service,
        body,
        headers: { ...durable, 'idempotency-key': 'order-1' },
      })
    const say = ({ status, body, headers }: Reply) => ({
      status,
      body,
      durability: headers.get('durability'),
      replayed: headers.get('idempotent-replayed'),
    })
    // K-0 is given out before somebody else could draw it.
    const verbs = ['assign_code', ...Object.keys(asks).filter((verb) => verb !== 'assign_code')]
    const told = new Map<string, ReturnType<typeof say>>()
    for (const verb of verbs) told.set(verb, say(await send(verb, asks[verb]![0])))
    for (const [verb, { status, replayed }] of told)
      expect([verb, status, replayed]).toEqual([verb, 200, null])

    await world.level()
    const old = await epoch()
    await world.redis.flushall()
    await recovered(old)
    const before = await memory()
    for (const verb of verbs) {
      const [same, other] = asks[verb]!
      const first = told.get(verb)!
      expect([verb, say(await send(verb, same))]).toEqual([verb, { ...first, replayed: 'true' }])
      const refused = await send(verb, other)
      expect([verb, refused.status, refused.body.code]).toEqual([
        verb,
        422,
        'idempotency-key-reused',
      ])
    }
    expect(await memory()).toEqual(before)
  })

  test('flushes what only the journal knew before it rebuilds', async () => {
    await world.stopWorker()
    const got = await post('coupons/assign', { book_id: book, user_id: 'early' })
    expect(got.status).toBe(200)
    await world.redis.del(keys.coupons(shard)) // the journal is whole, the records are gone
    await world.startWorker()
    await recovered(await epoch())
    const shown = await world.call('GET', `coupons/${got.body.coupons[0].code}`, {
      as: world.admin,
    })
    expect(shown.body).toMatchObject({ state: 'ASSIGNED', assigned_user_id: 'early' })
  })

  test('rebuilds nothing when only the scripts were lost', async () => {
    const old = await epoch()
    await world.redis.call('SCRIPT', 'FLUSH')
    await until(
      async () =>
        (await post('coupons/assign', { book_id: book, user_id: 'u1' }, durable)).status === 200,
      'it serves again',
      2_000,
    )
    expect(await epoch()).toBe(old)
  })

  test('begins a new epoch, and says not-durable, when Redis lost what it had acknowledged', async () => {
    await world.stopWorker()
    const { redis } = world
    const meta = keys.meta(shard)
    const before = await redis.hgetall(meta)
    const waiting = post('coupons/assign', { book_id: book, user_id: 'lost' }, durable)
    await until(async () => (await redis.hget(meta, 'n')) !== before.n, 'Redis has decided')
    // Redis falls back to the moment before, as a master that a lagging replica replaced does.
    const entry = (await redis.xrevrange(keys.journal(shard), '+', '-', 'COUNT', 1))[0]!
    const code = entry[1][8]!.split('\t')[0]!
    await redis.xdel(keys.journal(shard), entry[0])
    await redis.hset(meta, 'n', before.n!, 'facts', before.facts!, 'kept', before.kept!)
    await redis.hdel(keys.coupons(shard), code)
    await redis.sadd(keys.stock(shard, book), code)
    await redis.hincrby(keys.book(shard, book), 'left', 1)
    await redis.hincrby(keys.book(shard, book), 'held', -1)
    await redis.hdel(keys.users(shard, book), 'lost')
    await world.startWorker()
    const answer = await waiting
    expect([answer.status, answer.body.code ?? answer.status]).toEqual([503, 'not-durable'])
    await world.ready()
    expect(await epoch()).toBeGreaterThan(Number(before.epoch))
    const shown = await world.call('GET', `coupons/${code}`, { as: world.admin })
    expect(shown.body.state).toBe('UNASSIGNED')
  })

  test('saves what stands before a hole in the journal, and closes the hole', async () => {
    await world.stopWorker()
    const users = ['a', 'b', 'c', 'd', 'e']
    for (const user of users) await post('coupons/assign', { book_id: book, user_id: user })
    const old = await epoch()
    const n = Number(await world.redis.hget(keys.meta(shard), 'n'))
    await world.redis.xdel(keys.journal(shard), `${old}-${n - 1}`)
    await world.startWorker()
    await recovered(old)
    const { rows } = await world.database.query('SELECT user_id FROM ledger ORDER BY n')
    expect(rows.map(({ user_id }) => user_id)).toEqual(['a', 'b', 'c'])
    const lost = await world.call('GET', 'users/e/coupons', { as: world.admin })
    expect(lost.body.total_count).toBe(0)
  })

  /** Until the pause is what the book is refused for; nobody is given a coupon before. */
  const pausedBeforeServed = () =>
    until(async () => {
      const refused = await post('coupons/assign', { book_id: book, user_id: 'u1' })
      expect(refused.status).not.toBe(200)
      return refused.body.code === 'book-inactive'
    }, 'the policy is in force')

  test('has every acknowledged policy in force before it serves', async () => {
    const pause = { as: world.admin, body: { is_active: false } }
    expect((await world.call('PATCH', `books/${book}`, pause)).status).toBe(200)
    await world.stopWorker()
    // Redis forgot its last moment, the policy with it, and was restarted.
    await world.redis.hset(keys.book(shard, book), 'version', 1, 'active', 1)
    await world.redis.call('SCRIPT', 'FLUSH')
    await post('coupons/assign', { book_id: book, user_id: 'u1' })
    await world.startWorker()
    await pausedBeforeServed()
  })

  test('also where the scripts are there already, because another shard got them', async () => {
    const pause = { as: world.admin, body: { is_active: false } }
    expect((await world.call('PATCH', `books/${book}`, pause)).status).toBe(200)
    await world.stopWorker()
    const { place } = world.house
    await world.redis.hset(keys.book(shard, book), 'version', 1, 'active', 1)
    place.shut(shard, 'it was restarted')
    const whyNot = 'no worker has brought the policies of its books yet'
    await until(() => place.gates[shard]!.why === whyNot, 'the API has looked')
    expect((await post('coupons/assign', { book_id: book, user_id: 'u1' })).status).toBe(503)
    await world.startWorker()
    await pausedBeforeServed()
  })

  test('a book is paused in a Redis that is full', async () => {
    await world.redis.config('SET', 'maxmemory', '1')
    expect((await post('coupons/assign', { book_id: book, user_id: 'u1' })).status).toBe(503)
    await world.redis.config('SET', 'maxmemory', '0')
    await until(async () => (await world.call('GET', '/readyz')).status === 200, 'it serves')
    await world.redis.config('SET', 'maxmemory', '1')
    const pause = { as: world.admin, body: { is_active: false } }
    const { status, body } = await world.call('PATCH', `books/${book}`, pause)
    await world.redis.config('SET', 'maxmemory', '0')
    expect([status, body.is_active]).toEqual([200, false])
  })

  test('brings a policy back that a Redis lost while it served, and no entry with it', async () => {
    const pause = { as: world.admin, body: { is_active: false } }
    expect((await world.call('PATCH', `books/${book}`, pause)).status).toBe(200)
    const { place } = world.house
    const old = await epoch()
    await world.redis.hset(keys.book(shard, book), 'version', 1, 'active', 1)
    await healOnce(place, world.database, pino({ level: 'silent' }))
    await until(async () => {
      const refused = await post('coupons/assign', { book_id: book, user_id: 'u1' })
      return refused.body.code === 'book-inactive'
    }, 'the policy is in force again')
    expect(place.gates[shard]!.open).toBe(true)
    // A book that is gone is for a recovery, though nobody asked for it.
    await world.redis.del(keys.book(shard, book))
    await healOnce(place, world.database, pino({ level: 'silent' }))
    expect(place.gates[shard]!.open).toBe(false)
    await recovered(old)
  })

  test('has codes that Redis lost pushed again, but not a whole book for those that are on their way', async () => {
    const { place } = world.house
    const heal = () => healOnce(place, world.database, pino({ level: 'silent' }))
    const pushed = async () => {
      const sql = "SELECT count(*)::int AS n FROM loads WHERE book_id = $1 AND state = 'pushed'"
      return (await world.database.query(sql, [book])).rows[0].n
    }
    const count = (more: number) =>
      world.database.query(
        'UPDATE books SET total_code_count = total_code_count + $2 WHERE book_id = $1',
        [book, more],
      )
    const before = await pushed()
    await count(7) // as a generation counts a chunk, just before its push
    await heal()
    expect(await pushed()).toBe(before)
    await count(-7)
    const left = async () => Number(await world.redis.hget(keys.book(shard, book), 'left'))
    const all = await left()
    await world.redis.spop(keys.stock(shard, book))
    await world.redis.hincrby(keys.book(shard, book), 'left', -1)
    await heal()
    await until(async () => (await left()) === all, 'the code is there again')
    await until(async () => (await pushed()) === before, 'its load is done')
  })

  test('lets intake follow the row in PostgreSQL', async () => {
    const code = async () =>
      (await post('coupons/assign', { book_id: counter, user_id: 'u1' })).body.code
    await world.database.query("UPDATE shards SET intake = 'stopped'")
    await until(async () => (await code()) === 'intake-stopped', 'intake is stopped')
    await world.database.query("UPDATE shards SET intake = 'open'")
    await until(async () => (await code()) === undefined, 'intake is open')
  })

  test('takes no word from another installation on the same server', async () => {
    await world.redis.publish('stampede:flushed', '0 1 999999')
    await world.redis.publish('stampede:flushed:another', '0 1 999999')
    const served = await post('coupons/assign', { book_id: counter, user_id: 'u1' })
    expect(served.status).toBe(200)
  })

  test('claims postgres only for what the ledger has passed, also where nothing was written', async () => {
    const got = await post('coupons/assign', { book_id: book, user_id: 'u1' }, durable)
    const path = `coupons/unlock/${got.body.coupons[0].code}`
    await post(path.replace('unlock', 'lock'), { user_id: 'u1' }, durable)
    await world.stopWorker()
    await post(path, { user_id: 'u1' }, { durability: 'redis' })
    const again = await post(path, { user_id: 'u1' }, durable)
    expect([again.status, again.headers.get('durability')]).toEqual([202, 'redis'])
  })

  test('leaves an intake that was stopped stopped', async () => {
    await world.database.query("UPDATE shards SET intake = 'stopped'")
    const old = await epoch()
    await world.redis.flushall()
    await until(async () => {
      const refused = await post('coupons/assign', { book_id: book, user_id: 'u1' })
      expect(refused.status).toBe(503)
      return refused.body.code === 'intake-stopped'
    }, 'it serves, and takes nothing in')
    expect(await epoch()).toBeGreaterThan(old)
  })

  test('refuses to serve from a PostgreSQL that forgot, until the loss is accepted', async () => {
    await trade()
    await world.level()
    await world.stopWorker()
    // As if a backup of a moment ago had been restored.
    await world.database.query('UPDATE shards SET checkpoint = checkpoint - 1, facts = facts - 2')
    await world.redis.call('SCRIPT', 'FLUSH')
    await post('coupons/assign', { book_id: book, user_id: 'u1' })
    await world.startWorker()
    const readyz = async () => (await world.call('GET', '/readyz')).body
    await until(async () => /old backup/.test((await readyz()).reason ?? ''), 'it says why')
    await world.database.query('UPDATE shards SET loss_accepted = true')
    await world.ready()
    const served = await post('coupons/assign', { book_id: book, user_id: 'u1' }, durable)
    expect(served.status).toBe(200)
  })
})
