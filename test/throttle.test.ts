import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { addressGroup, createAddressOf } from '../src/http/address.ts'
import type { Context } from '../src/http/context.ts'
import { Turns } from '../src/http/limit.ts'
import { openLimits } from '../src/limits.ts'
import { readRange } from '../src/ranges.ts'
import { makeWire } from './wire.ts'
import { openWorld, until, type World } from './world.ts'

/** Requests come from this machine, which is everybody's proxy here: each names its own address. */
let world: World
beforeAll(async () => {
  world = await openWorld({
    limits: {
      ...{ TRUSTED_PROXIES: '127.0.0.0/8', LIMIT_CODE_KEY: '20/60' },
      LIMIT_REGISTER_ADDRESS: '12/600',
    },
  })
})
afterAll(() => world.close())

let addresses = 0
const freshAddress = () => `198.51.100.${++addresses}`
const from = (address: string) => ({ 'x-forwarded-for': address })
const logIn = (email: string, password: string, address: string) =>
  world.call('POST', 'auth/login', { body: { email, password }, headers: from(address) })
const lock = (code: string, as: string, address: string, body: object = {}) =>
  world.call('POST', `coupons/lock/${code}`, { as, body, headers: from(address) })
const said = ({ status, body }: { status: number; body: { code?: string } }) =>
  body?.code ? `${status} ${body.code}` : `${status}`
async function times<T>(count: number, work: (i: number) => Promise<T>): Promise<T[]> {
  const all: T[] = []
  for (let i = 0; i < count; i++) all.push(await work(i))
  return all
}
async function register(): Promise<string> {
  const email = `throttle-${++addresses}@example.com`
  const body = { name: 'x', email, password: 'correct horse' }
  const made = await world.call('POST', 'auth/register', { body, headers: from(freshAddress()) })
  expect(made.status).toBe(201)
  return email
}

describe('logins', () => {
  test('of an account are refused after ten failures, with the time to wait, right or wrong', async () => {
    const email = await register()
    const address = freshAddress()
    const ten = await times(10, () => logIn(email, 'wrong', address))
    expect(ten.map(said)).toEqual(Array(10).fill('401 invalid-credentials'))
    const { status, headers, body } = await logIn(email.toUpperCase(), 'correct horse', address)
    expect(`${status} ${body.code}`).toBe('429 too-many-requests')
    expect(headers.get('ratelimit-policy')).toBe('"login-account";q=10;w=600')
    expect(headers.get('ratelimit')).toMatch(/^"login-account";r=0;t=(59\d|600)$/)
    expect(headers.get('retry-after')).toBe(String(body.retry_after))
    expect(body.detail).toMatch(/^More than 10 in 600 seconds. Wait \d+ seconds.$/)
  })

  test('of an account under attack still let its owner in from elsewhere, and each address has one try', async () => {
    const email = await register()
    const attacker = freshAddress()
    await times(11, () => logIn(email, 'wrong', attacker))
    expect(said(await logIn(email, 'correct horse', freshAddress()))).toBe('200')
    const another = freshAddress()
    expect(said(await logIn(email, 'wrong', another))).toBe('401 invalid-credentials')
    expect(said(await logIn(email, 'wrong', another))).toBe('429 too-many-requests')
  })

  test('from an address are refused after thirty failures, whatever the account', async () => {
    const email = await register()
    const address = freshAddress()
    const tries = await times(31, (i) => logIn(`nobody-${i}@example.com`, 'wrong', address))
    expect(tries.slice(0, 30).every(({ status }) => status === 401)).toBe(true)
    expect(tries[30]!.headers.get('ratelimit-policy')).toBe('"login-address";q=30;w=600')
    expect(said(await logIn(email, 'correct horse', address))).toBe('429 too-many-requests')
    expect(said(await logIn(email, 'correct horse', freshAddress()))).toBe('200')
  })

  test('of one address that come all at once go hardly further than one after the other', async () => {
    const address = freshAddress()
    const all = await Promise.all(
      Array.from({ length: 120 }, (_, i) => logIn(`crowd-${i}@example.com`, 'wrong', address)),
    )
    const tried = all.filter(({ status }) => status === 401).length
    expect(tried).toBeGreaterThanOrEqual(30)
    expect(tried).toBeLessThanOrEqual(33)
  })

  test('are not kept waiting by whoever makes accounts: an address may make so many', async () => {
    const address = freshAddress()
    const make = (i: number) =>
      world.call('POST', 'auth/register', {
        body: { name: 'x', email: `many-${i}@example.com`, password: 'correct horse' },
        headers: from(address),
      })
    const all = await Promise.all(Array.from({ length: 30 }, (_, i) => make(i)))
    const made = all.filter(({ status }) => status === 201).length
    // Those that were under way when the limit was reached slip through.
    expect(made).toBeGreaterThanOrEqual(12)
    expect(made).toBeLessThanOrEqual(15)
    const refused = await make(30)
    expect(said(refused)).toBe('429 too-many-requests')
    expect(refused.headers.get('ratelimit-policy')).toBe('"register-address";q=12;w=600')
    // Accounts that are there sign in from it, and others are made elsewhere.
    expect(said(await logIn('many-0@example.com', 'wrong', address))).toBe(
      '401 invalid-credentials',
    )
    await register()
  })

  test('that succeed cost nothing', async () => {
    const email = await register()
    const address = freshAddress()
    const all = await times(12, () => logIn(email, 'correct horse', address))
    expect(all.map(said)).toEqual(Array(12).fill('200'))
  })

  test('a present password is guessed no faster by who holds a token', async () => {
    const { token } = await world.signUp()
    const change = () =>
      world.call('POST', 'auth/change-password', {
        as: token,
        body: { current_password: 'wrong', new_password: 'another horse' },
        headers: from('198.51.100.250'),
      })
    const all = await times(11, change)
    expect(all.map(said)).toEqual([
      ...Array(10).fill('400 wrong-password'),
      '429 too-many-requests',
    ])
  })
})

describe('guesses', () => {
  test('of e-mail addresses count as well, but not those of a key', async () => {
    const { token } = await world.signUp()
    const headers = from(freshAddress())
    const ask = (i: number, as: string) =>
      world.call('GET', `users/search/by-email?email=nobody-${i}@example.com`, { as, headers })
    const all = await times(11, (i) => ask(i, token))
    expect(all.map(said)).toEqual([
      ...Array(10).fill('404 user-not-found'),
      '429 too-many-requests',
    ])
    const ofKey = await times(11, (i) => ask(i, world.service))
    expect(ofKey.map(said)).toEqual(Array(11).fill('404 user-not-found'))
  })

  test.each([
    ['POST', 'coupons/lock/'],
    ['POST', 'coupons/unlock/'],
    ['POST', 'coupons/redeem/'],
    ['POST', 'coupons/assign/'],
    ['GET', 'coupons/'],
  ] as const)('by %s %s are refused after ten unknown codes of a user', async (method, path) => {
    const { token } = await world.signUp()
    const headers = from(freshAddress())
    const all = await times(11, (i) =>
      world.call(method, `${path}GUESS-${i}`, { as: token, headers }),
    )
    expect(all.map(said)).toEqual([
      ...Array(10).fill('404 coupon-not-found'),
      '429 too-many-requests',
    ])
    expect(all[10]!.headers.get('ratelimit-policy')).toBe('"code-user";q=10;w=600')
  })

  test("of other people's codes count as unknown ones do, and one's own coupons do not", async () => {
    const book = await world.makeBook({}, 20)
    const owner = await world.signUp()
    const stranger = await world.signUp()
    const address = freshAddress()
    const got = await world.call('POST', 'coupons/assign', {
      as: owner.token,
      body: { book_id: book, count: 12 },
    })
    const codes = got.body.coupons.map(({ code }: { code: string }) => code)
    const foreign = await times(11, (i) => lock(codes[i], stranger.token, address))
    expect(foreign.map(({ status }) => status)).toEqual([...Array(10).fill(404), 429])
    const own = await times(12, (i) => lock(codes[i], owner.token, address))
    expect(own.map(({ status }) => status)).toEqual(Array(12).fill(200))
    // Who is throttled still gets coupons: only what names a code is refused.
    const assign = { as: stranger.token, body: { book_id: book } }
    expect((await world.call('POST', 'coupons/assign', assign)).status).toBe(200)
  })

  test('of an address are refused after thirty, whichever users send them', async () => {
    const address = freshAddress()
    const users = await Promise.all(Array.from({ length: 4 }, () => world.signUp()))
    const all = await times(31, (i) => lock(`GUESS-${i}`, users[i % 4]!.token, address))
    expect(all.map(({ status }) => status)).toEqual([...Array(30).fill(404), 429])
    expect(all[30]!.headers.get('ratelimit-policy')).toBe('"code-address";q=30;w=600')
    const elsewhere = await lock('GUESS-1', users[0]!.token, freshAddress())
    expect(elsewhere.status).toBe(404)
  })

  test('of one user that come all at once go hardly further than one after the other', async () => {
    const { token } = await world.signUp()
    const address = freshAddress()
    const all = await Promise.all(
      Array.from({ length: 60 }, (_, i) => lock(`GUESS-${i}`, token, address)),
    )
    const tried = all.filter(({ status }) => status === 404).length
    expect(tried).toBeGreaterThanOrEqual(10)
    expect(tried).toBeLessThanOrEqual(13)
  })

  test('of an API key have a limit of their own, and an administrator none', async () => {
    const address = freshAddress()
    const key = await times(21, (i) => lock(`GUESS-${i}`, world.service, address, { user_id: 'u' }))
    expect(key.map(({ status }) => status)).toEqual([...Array(20).fill(404), 429])
    expect(key[20]!.headers.get('ratelimit-policy')).toBe('"code-key";q=20;w=60')
    const admin = await times(12, (i) => lock(`GUESS-${i}`, world.admin, address))
    expect(admin.map(({ status }) => status)).toEqual(Array(12).fill(404))
  })

  test.each([
    ['viewer', 'GET', 'ops/coupons/CODE', undefined],
    ['operator', 'POST', 'ops/coupons/CODE/release', { reason: 'a test' }],
  ] as const)(
    'of the role %s, by %s %s, are counted as a user’s',
    async (role, method, path, body) => {
      const { token } = await world.signUp(role)
      const headers = from(freshAddress())
      const all = await times(11, (i) =>
        world.call(method, path.replace('CODE', `GUESS-${i}`), { as: token, headers, body }),
      )
      expect(all.map(said)).toEqual([
        ...Array(10).fill('404 coupon-not-found'),
        '429 too-many-requests',
      ])
    },
  )

  test('an IPv6 client cannot leave its limit within its /64', async () => {
    const users = await Promise.all(Array.from({ length: 4 }, () => world.signUp()))
    const all = await times(31, (i) =>
      lock(`GUESS-${i}`, users[i % 4]!.token, `2001:db8:0:1::${i}`),
    )
    expect(all.map(({ status }) => status)).toEqual([...Array(30).fill(404), 429])
    expect((await lock('GUESS-1', users[0]!.token, '2001:db8:0:2::1')).status).toBe(404)
  })
})

describe('counters', () => {
  test('are shared by processes, and go on in memory while their Redis is silent or away', async () => {
    const wire = await makeWire(world.redisServer.url.replace('redis:', 'http:'))
    const url = wire.url.replace('http:', 'redis:')
    const rule = { name: 'test', points: 3, seconds: 60 }
    const [a, b] = [openLimits(url), openLimits(url)] as const
    const [one, other] = [a.counter(rule), b.counter(rule)] as const
    try {
      await until(async () => {
        await Promise.all([one.add('warm'), other.add('warm')])
        return Number(await world.redis.get('limit:test:warm')) >= 2
      }, 'both are connected')
      expect((await one.add('key')).count).toBe(1)
      expect((await other.add('key')).count).toBe(2)
      for (const state of ['silent', 'cut'] as const) {
        wire.set(state)
        const started = performance.now()
        expect((await one.add(`during ${state}`)).count).toBe(1)
        expect((await one.add(`during ${state}`)).count).toBe(2)
        expect(performance.now() - started).toBeLessThan(2_000)
        wire.set('up')
      }
    } finally {
      a.close()
      b.close()
      wire.close()
    }
  })

  test('say so, once, where their Redis is there and its user may not count', async () => {
    const rules = ['reset', 'on', '>secret', '-@all', '+ping', '+info', '+pttl', '~{s0}:*']
    await world.redis.call('ACL', 'SETUSER', 'api-alone', ...rules, '+client|setname')
    const told: string[] = []
    const url = new URL(world.redisServer.url)
    Object.assign(url, { username: 'api-alone', password: 'secret' })
    const counter = openLimits(url.href, (why) => told.push(why))
    const allowed = openLimits(world.redisServer.url, (why) => told.push(`wrongly: ${why}`))
    try {
      await until(() => told.length > 0, 'it says so')
      const one = counter.counter({ name: 'test', points: 3, seconds: 60 })
      expect((await one.add('key')).count).toBe(1)
      expect((await one.add('key')).count).toBe(2)
      expect(told).toEqual([expect.stringMatching(/^NOPERM .*key/)])
    } finally {
      counter.close()
      allowed.close()
    }
  })
})

describe('address', () => {
  const of = (trusted: string[], peer: string, forwarded?: string) => {
    const headers = new Headers(forwarded === undefined ? {} : { 'x-forwarded-for': forwarded })
    const env = { incoming: { socket: { remoteAddress: peer } } }
    return createAddressOf(trusted)({ env, req: { raw: { headers } } } as unknown as Context)
  }

  test.each([
    ['nobody is trusted', [], '10.0.0.1', '192.0.2.1', '10.0.0.1'],
    ['somebody else is trusted', ['10.0.0.2'], '10.0.0.1', '192.0.2.1', '10.0.0.1'],
    ['the proxy is trusted', ['10.0.0.1'], '10.0.0.1', '192.0.2.1', '192.0.2.1'],
    ['the client lied to the proxy', ['10.0.0.1'], '10.0.0.1', '1.1.1.1, 192.0.2.1', '192.0.2.1'],
    ['two proxies', ['10.0.0.0/8'], '10.0.0.1', '9.9.9.9,192.0.2.1, 10.1.1.1', '192.0.2.1'],
    ['a hop that is none', ['10.0.0.1'], '10.0.0.1', '192.0.2.1, unknown', '10.0.0.1'],
    ['no header', ['10.0.0.1'], '10.0.0.1', undefined, '10.0.0.1'],
    ['proxies all the way', ['10.0.0.0/8'], '10.0.0.1', '10.0.0.3, 10.0.0.2', '10.0.0.3'],
    ['ports', ['10.0.0.1'], '10.0.0.1', '192.0.2.1:4711', '192.0.2.1'],
    ['IPv6 with a port', ['::1'], '::1', '[2001:db8::1]:4711', '2001:db8::1'],
    ['an IPv4 proxy on IPv6', ['10.0.0.0/8'], '::ffff:10.0.0.1', '192.0.2.1', '192.0.2.1'],
  ])('%s', (_, trusted, peer, forwarded, expected) => {
    expect(of(trusted, peer, forwarded)).toBe(expected)
  })

  test.each([
    ['192.0.2.1', '192.0.2.1'],
    ['::ffff:192.0.2.1', '192.0.2.1'],
    ['2001:db8::1', '2001:db8:0:0::/64'],
    ['2001:0DB8:1:2:3:4:5:6', '2001:db8:1:2::/64'],
    ['2001:db8:1:2::', '2001:db8:1:2::/64'],
    ['::1', '0:0:0:0::/64'],
    ['fe80::1%eth0', 'fe80:0:0:0::/64'],
    ['64:ff9b::192.0.2.1', '64:ff9b:0:0::/64'],
  ])('%s is counted as %s', (address, group) => {
    expect(addressGroup(address)).toBe(group)
  })

  test('ranges are addresses and CIDRs and nothing else', () => {
    for (const fine of ['10.0.0.1', '10.0.0.0/8', '::1', 'fd00::/8'])
      expect(readRange(fine)).toBeDefined()
    for (const wrong of ['', 'host', '10.0.0.0/33', '10.0.0.0/', '::/129', '10.0.0.0/8/8', '1/1'])
      expect(readRange(wrong), wrong).toBeUndefined()
  })

  test('a fact remembers the address that the trusted proxy names', async () => {
    const book = await world.makeBook({}, 1)
    const got = await world.call('POST', 'coupons/assign', {
      as: world.service,
      body: { book_id: book, user_id: 'u' },
      headers: { ...from('1.2.3.4, 192.0.2.77'), durability: 'postgres' },
    })
    const { rows } = await world.database.query('SELECT context FROM ledger WHERE code = $1', [
      got.body.coupons[0].code,
    ])
    expect(rows[0].context.address).toBe('192.0.2.77')
  })
})

test('turns  go to so many at a time, in the order of their coming', async () => {
  const turns = new Turns(2)
  const order: number[] = []
  const take = async (i: number) => {
    await turns.enter('key')
    order.push(i)
  }
  const waiting = [0, 1, 2, 3].map(take)
  await Promise.all(waiting.slice(0, 2))
  expect(order).toEqual([0, 1])
  turns.leave('key')
  await waiting[2]
  turns.leave('key')
  await waiting[3]
  expect(order).toEqual([0, 1, 2, 3])
  expect(turns.enter('other')).toBeUndefined()
})
