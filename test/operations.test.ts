import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { operationUrl } from '../src/http/operations.ts'
import { discardParked, parkedFacts } from '../src/ops/parked.ts'
import { keys } from '../src/store/keys.ts'
import { type Place, ReplyLost } from '../src/store/place.ts'
import { callScript, digest } from './script.ts'
import { openWorld, until, type World } from './world.ts'

let world: World
let book: string
let owner: { id: string; token: string }
let other: { id: string; token: string }

beforeEach(async () => {
  world = await openWorld({ shards: 1, waitMs: 300 })
  book = await world.makeBook({ max_assignments_per_user: 3 }, 20)
  owner = await world.signUp()
  other = await world.signUp()
})
afterEach(() => world.close())

const assign = (headers = {}, body = {}, as = owner.token) =>
  world.call('POST', 'coupons/assign', { as, headers, body: { book_id: book, ...body } })
const get = (url: string, as = owner.token) => world.call('GET', url, { as })

/** Does `work` while every reply of a verb is lost; `arrives`: the call reaches Redis nevertheless. */
async function losingReplies<T>(arrives: boolean, work: () => Promise<T>): Promise<T> {
  const { place } = world.house
  const call = place.call.bind(place)
  const spy = vi
    .spyOn(place, 'call')
    .mockImplementation(async (...of: Parameters<Place['call']>) => {
      if (of[0] === 'check') return call(...of)
      if (arrives) await call(...of)
      throw new ReplyLost('lost')
    })
  try {
    return await work()
  } finally {
    spy.mockRestore()
  }
}

describe('operations', () => {
  test('a 202 says where to ask, and there it is pending until the ledger has it', async () => {
    await world.stopWorker()
    const late = await assign({ durability: 'postgres' }, { count: 2 })
    expect(late.status).toBe(202)
    const url = late.headers.get('location')!
    expect(url).toMatch(/^\/api\/v1\/operations\/[\w-]+$/)
    expect((await get(url)).body).toMatchObject({ state: 'pending', facts: [] })
    await world.startWorker()
    await world.level()
    const told = await get(url)
    expect(told.body.state).toBe('durable')
    expect(told.body.facts.map(({ code }: { code: string }) => code)).toEqual(
      late.body.coupons.map(({ code }: { code: string }) => code),
    )
    expect(told.body.facts[0]).toMatchObject({ kind: 'assign', user_id: owner.id, book_id: book })
    expect(told.body.facts[0].entry).toMatch(/^0\/\d+-\d+\/0$/)
  })

  test('what is parked is not called durable, although its row is in the ledger, nor what was given up', async () => {
    await world.stopWorker()
    const level = { durability: 'postgres', 'idempotency-key': 'once' }
    const late = await assign(level)
    const url = late.headers.get('location')!
    const { code } = late.body.coupons[0]
    await world.database.query(
      `INSERT INTO coupons (code, book_id, user_id, version, redemptions, max_redemptions,
         assigned_at, updated_at) VALUES ($1, $2, 'by hand', 1, 0, 1, now(), now())`,
      [code, book],
    )
    await world.startWorker()
    await world.level()
    const { rows } = await world.database.query(
      'SELECT code, (SELECT count(*)::int FROM parked_facts) AS parked FROM ledger',
    )
    expect(rows).toEqual([{ code, parked: 1 }])
    expect((await get(url)).body.state).toBe('pending')
    expect((await assign(level)).status).toBe(202)
    const ops = { redis: world.redis, database: world.database }
    const [parked] = await parkedFacts(ops, 2)
    expect(await discardParked(ops, parked!.name, { actor: 'test', reason: 'a test' })).toBe(true)
    // Its row is there as before, and no coupon rests on it: that is an answer for good.
    expect((await get(url)).body).toMatchObject({ state: 'absent', facts: [] })
    const again = await assign(level)
    expect([again.status, again.body.code]).toEqual([503, 'not-durable'])
    expect((await get(again.body.operation)).body.state).toBe('absent')
  })

  test('an unknown outcome that happened becomes durable, with what its answer would have held', async () => {
    const code = (await assign()).body.coupons[0].code
    const lost = await losingReplies(true, () =>
      world.call('POST', `coupons/lock/${code}`, { as: owner.token, body: {} }),
    )
    expect([lost.status, lost.body.code]).toEqual([503, 'outcome-unknown'])
    await world.level()
    const told = await get(lost.body.operation)
    expect(told.body).toMatchObject({ state: 'durable', facts: [{ kind: 'lock', code }] })
    const redeemed = await world.call('POST', `coupons/redeem/${code}`, {
      as: owner.token,
      body: { lock_token: told.body.facts[0].lock_token },
    })
    expect(redeemed.status).toBe(200)
  })

  test('one that never came to Redis is absent, and stays so', async () => {
    const lost = await losingReplies(false, () => assign())
    expect(lost.body.code).toBe('outcome-unknown')
    expect((await get(lost.body.operation)).body).toMatchObject({ state: 'absent', facts: [] })
    // Had it been on its way all the time, it would find that it is too late now.
    const [op] = await world.redis.keys(keys.op(0, '*'))
    const before = await digest(world)
    const reply = await callScript(
      world,
      { shard: 0, book },
      'assign',
      [{ user: owner.id, count: '1', context: '{}' }],
      { op: op!.split(':').at(-1)! },
    )
    expect(reply).toBe('never')
    expect(await digest(world)).toBe(before)
    expect((await get(lost.body.operation)).body.state).toBe('absent')
  })

  test('what Redis lost before the ledger had it is absent', async () => {
    await world.stopWorker()
    const { redis } = world
    const before = await redis.hgetall(keys.meta(0))
    const waiting = assign({ durability: 'postgres' })
    await until(async () => (await redis.hget(keys.meta(0), 'n')) !== before.n, 'it is decided')
    await redis.flushall()
    const late = await waiting
    const url = late.headers.get('location') ?? late.body.operation
    await world.startWorker()
    await until(async () => (await get(url)).body.state === 'absent', 'it is absent')
  })

  test('of requests that came together, each is told its own', async () => {
    const lost = await losingReplies(true, () =>
      Promise.all([
        assign({ 'x-request-id': 'first' }),
        assign({ 'x-request-id': 'second' }, { count: 2 }),
        // More than the book allows, in whatever order they arrive.
        assign({ 'x-request-id': 'third' }, { count: 4 }),
        assign({ 'x-request-id': 'fourth' }, {}, other.token),
      ]),
    )
    await world.level()
    const counts = []
    for (const [l, { body }] of lost.entries()) {
      const told = (await get(body.operation, l === 3 ? other.token : owner.token)).body
      counts.push([told.state, told.facts.length])
    }
    expect(counts).toEqual([
      ['durable', 1],
      ['durable', 2],
      ['absent', 0],
      ['durable', 1],
    ])
  })

  test('a stranger learns nothing, an administrator all but the token', async () => {
    const code = (await assign()).body.coupons[0].code
    await world.stopWorker()
    const lock = { body: {}, headers: { durability: 'postgres' } }
    const late = await world.call('POST', `coupons/lock/${code}`, { as: owner.token, ...lock })
    const url = late.headers.get('location')!
    expect((await get(url, other.token)).status).toBe(404)
    await world.startWorker()
    await world.level()
    const stranger = await get(url, other.token)
    expect([stranger.status, stranger.body.code]).toEqual([404, 'operation-not-found'])
    expect((await get(url, world.service)).status).toBe(404)
    const asAdmin = (await get(url, world.admin)).body
    expect(asAdmin.facts).toMatchObject([{ kind: 'lock', code, lock_token: null }])
    expect((await get(url)).body.facts[0].lock_token).toBe(late.body.lock_token)
  })

  test('an id that somebody made up finds nothing of others', async () => {
    await assign({ durability: 'postgres' })
    const { rows } = await world.database.query('SELECT op, epoch, n, at FROM ledger LIMIT 1')
    const { op, epoch, n, at } = rows[0]
    const made = { shard: 0, epoch, n, i: 0, op, at: at.getTime(), request: 'x' }
    const forged = operationUrl(world.house.deps.tokens, made, `user:${other.id}`)
    expect((await get(forged, other.token)).status).toBe(404)
    expect(
      (await get(operationUrl(world.house.deps.tokens, { ...made, shard: 9 }, `user:${owner.id}`)))
        .status,
    ).toBe(404)
    // Somebody who knows how ids are made, but not the secret: nothing is asked of either store.
    const unsealed = operationUrl({ seal: () => 'A'.repeat(43) }, made, `user:${owner.id}`)
    const keysBefore = await world.redis.dbsize()
    expect((await get(unsealed)).status).toBe(404)
    expect(await world.redis.dbsize()).toBe(keysBefore)
    for (const id of ['x', 'AAAA', 'a'.repeat(300), `${forged.split('/').at(-1)}A`])
      expect((await get(`operations/${id}`)).status, id).toBe(404)
    expect((await get(`operations/${'a'.repeat(331)}`)).status).toBe(422)
  })

  test('while Redis or PostgreSQL cannot be asked, nothing is called absent', async () => {
    const { operation } = (await losingReplies(false, () => assign())).body
    process.kill(world.redisServer.pid, 'SIGSTOP')
    const silent = await get(operation)
    process.kill(world.redisServer.pid, 'SIGCONT')
    expect(silent.body.state).toBe('pending')
    await until(async () => (await get(operation)).body.state === 'absent', 'Redis answers again')
    const query = vi.spyOn(world.database, 'query')
    query.mockImplementation(() => Promise.reject(new Error('Connection terminated')))
    const away = await get(operation)
    query.mockRestore()
    expect([away.status, away.body.code]).toEqual([503, 'not-ready'])
  })
})
