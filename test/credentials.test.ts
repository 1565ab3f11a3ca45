import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { decodeProtectedHeader } from 'jose'
import pino from 'pino'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { openHouse } from '../src/house.ts'
import { createHttpServer } from '../src/http/listener.ts'
import { createTokens } from '../src/http/tokens.ts'
import { scopes } from '../src/keys.ts'
import { openQueues } from '../src/queues.ts'
import { openWorld, until, type World } from './world.ts'

const secrets = {
  first: 'the first secret of 32 characters',
  next: 'the next secret of 32 characters!',
}

let world: World
/** A second API process of the same installation, as far as memory and connections go. */
let other: { base: string; close(): Promise<void> }
beforeAll(async () => {
  world = await openWorld()
  other = await openOther({})
})
afterAll(async () => {
  await other.close()
  await world.close()
})

async function openOther(settings: Partial<World['settings']>) {
  const queues = openQueues(world.settings.REDIS_URL)
  const all = { ...world.settings, ...settings }
  const house = await openHouse(all, queues, pino({ level: 'fatal' }))
  while ((await house.openGates()) > 0) await sleep(10)
  const http = createHttpServer(house.app).listen(0, '127.0.0.1')
  await once(http, 'listening')
  return {
    base: `http://127.0.0.1:${(http.address() as AddressInfo).port}`,
    async close() {
      http.close()
      http.closeAllConnections()
      await queues.close()
      await house.close()
    },
  }
}

const statusAt = async (base: string, token: string, path = 'books') => {
  const headers = { authorization: `Bearer ${token}` }
  return (await fetch(`${base}/api/v1/${path}`, { headers })).status
}
const said = ({ status, body }: { status: number; body: { code?: string } }) =>
  body?.code ? `${status} ${body.code}` : `${status}`

async function makeKey(more: object = {}): Promise<{ key: string; key_id: string }> {
  const made = await world.call('POST', 'api-keys', {
    as: world.admin,
    body: { name: 'test', ...more },
  })
  expect(made.status).toBe(201)
  return made.body
}

describe('a key', () => {
  test('for books ends no distribution, and one for both does', async () => {
    const id = randomUUID()
    await world.database.query(
      `INSERT INTO jobs (job_id, kind, state, input, created_by, finished_at)
       VALUES ($1, 'distribute', 'failed', '{}', 'a test', now())`,
      [id],
    )
    const cancel = async (its: string[]) => {
      const { key: as } = await makeKey({ scopes: its })
      return said(await world.call('POST', `jobs/${id}/cancel`, { as, body: {} }))
    }
    expect(await cancel(['books'])).toBe('403 forbidden')
    expect(await cancel(['books', 'assign'])).toBe('200')
  })

  test('that is revoked is refused within a second by every process, in use all the while', async () => {
    const { key, key_id } = await makeKey()
    const bases = [world.base, other.base]
    for (const base of bases) expect(await statusAt(base, key)).toBe(200)
    const since = performance.now()
    expect((await world.call('DELETE', `api-keys/${key_id}`, { as: world.admin })).status).toBe(204)
    const ended = await Promise.all(
      bases.map(async (base) => {
        while ((await statusAt(base, key)) === 200) await sleep(10)
        return performance.now() - since
      }),
    )
    for (const ms of ended) expect(ms).toBeLessThan(1_000)
  })

  test('of a scope does what it is for, and nothing else', async () => {
    const book = await world.makeBook({}, 3)
    const { key } = await makeKey({ scopes: ['assign'] })
    const user = { user_id: 'u1' }
    const assigned = await world.call('POST', 'coupons/assign', {
      as: key,
      body: { ...user, book_id: book },
    })
    expect(assigned.status).toBe(200)
    const { code } = assigned.body.coupons[0]
    for (const [method, path, body, needs] of [
      ['POST', `coupons/lock/${code}`, user, '`lock`'],
      ['POST', `coupons/redeem/${code}`, user, '`redeem`'],
      ['GET', `coupons/${code}`, undefined, '`read`'],
      ['GET', 'books', undefined, '`read`'],
      ['POST', 'books', { name: 'x', owner_id: 'o' }, '`books`'],
      ['PATCH', `books/${book}`, { name: 'x' }, '`books`'],
      ['POST', `books/${book}/codes/generate`, { count: 1 }, '`books`'],
      ['POST', 'users', { name: 'x', email: 'scope@example.com' }, '`users`'],
    ] as const) {
      const refused = await world.call(method, path, { as: key, body })
      expect(`${path} ${said(refused)}`).toBe(`${path} 403 forbidden`)
      expect(refused.body.needs).toBe(`an API key for ${needs}`)
    }
  })

  test('of all scopes may what a service may, and an older one without scopes as well', async () => {
    const { key } = await makeKey({ scopes })
    for (const as of [key, world.service]) {
      const made = await world.call('POST', 'books', { as, body: { name: 'x', owner_id: 'o' } })
      expect(made.status).toBe(201)
      expect((await world.call('GET', `books/${made.body.book_id}`, { as })).status).toBe(200)
    }
  })

  test('has a limit of requests a second, of all and of a scope, and 429 says when to come again', async () => {
    const { key } = await makeKey({ limits: { all: 10, read: 2 } })
    const reads = await Promise.all([1, 2, 3].map(() => world.call('GET', 'books', { as: key })))
    expect(reads.map(({ status }) => status).sort()).toEqual([200, 200, 429])
    const refused = reads.find(({ status }) => status === 429)!
    expect(refused.headers.get('ratelimit-policy')).toBe('"key-read";q=2;w=1')
    expect(refused.headers.get('retry-after')).toBe('1')
    const assigns = await Promise.all(
      Array.from({ length: 12 }, () => world.call('POST', 'coupons/assign', { as: key, body: {} })),
    )
    const over = assigns.filter(({ status }) => status === 429)
    expect(over.length).toBeGreaterThanOrEqual(4)
    expect(over[0]!.headers.get('ratelimit-policy')).toBe('"key";q=10;w=1')
    await sleep(1_100)
    expect((await world.call('GET', 'books', { as: key })).status).toBe(200)
    // Another spelling of the header is the same key.
    const headers = { authorization: `bearer  ${key}` }
    await world.call('GET', 'books', { as: key })
    expect((await world.call('GET', 'books', { headers })).status).toBe(429)
  })

  test('has a limit of a single route, which leaves the others of its scope alone', async () => {
    const route = 'POST /coupons/lock/{code}'
    const { key } = await makeKey({ limits: { lock: 1_000, routes: { [route]: 2 } } })
    const ask = (path: string) =>
      world.call('POST', path, { as: key, body: { user_id: 'somebody' } })
    const locks = await Promise.all([1, 2, 3].map((n) => ask(`coupons/lock/NONE-${n}`)))
    expect(locks.map(({ status }) => status).sort()).toEqual([404, 404, 429])
    const refused = locks.find(({ status }) => status === 429)!
    expect(refused.headers.get('ratelimit-policy')).toBe(`"key ${route}";q=2;w=1`)
    const unlocks = await Promise.all([1, 2, 3].map((n) => ask(`coupons/unlock/NONE-${n}`)))
    expect(unlocks.map(({ status }) => status)).toEqual([404, 404, 404])
    const { body } = await world.call('GET', 'api-keys?limit=1000', { as: world.admin })
    expect(body.data.at(-1).limits).toEqual({ lock: 1_000, routes: { [route]: 2 } })
  })

  test('says when it was last used', async () => {
    const { key, key_id } = await makeKey()
    const its = async () => {
      const { body } = await world.call('GET', 'api-keys?limit=1000', { as: world.admin })
      return body.data.find((one: { key_id: string }) => one.key_id === key_id)
    }
    expect(await its()).toMatchObject({ last_used_at: null, scopes: null, limits: null })
    const since = Date.now()
    await statusAt(world.base, key)
    await until(async () => (await its()).last_used_at !== null, 'its use is noted')
    expect(Math.abs(Date.parse((await its()).last_used_at) - since)).toBeLessThan(5_000)
  })

  test.each([
    [{ scopes: [] }, 'scopes'],
    [{ scopes: ['everything'] }, 'scopes[0]'],
    [{ limits: { all: 0 } }, 'limits.all'],
    [{ limits: { everything: 5 } }, 'limits.everything'],
    [{ limits: { routes: { 'POST /coupons/steal': 5 } } }, 'limits.routes'],
    [{ limits: { routes: { 'GET /books': 0 } } }, 'limits.routes.GET /books'],
  ])('with %j is none', async (more, path) => {
    const body = { name: 'x', ...more }
    const refused = await world.call('POST', 'api-keys', { as: world.admin, body })
    expect(said(refused)).toBe('422 invalid-request')
    expect(refused.body.errors[0].path).toBe(path)
  })
})

describe('a token', () => {
  const user = async () => {
    const { id } = await world.signUp()
    return (await world.house.deps.accounts.userById(id))!
  }

  test('of the secret before is valid until that is taken out, and names its secret', async () => {
    const someone = await user()
    const issue = (secret: string) => createTokens(secret).issue(someone)
    const [old, fresh] = await Promise.all([issue(secrets.first), issue(secrets.next)])
    const kids = [old, fresh].map((token) => decodeProtectedHeader(token).kid)
    expect(new Set(kids).size).toBe(2)
    const both = await openOther({
      JWT_SECRET: secrets.next,
      JWT_SECRET_PREVIOUS: secrets.first,
    })
    const after = await openOther({ JWT_SECRET: secrets.next })
    try {
      for (const token of [old, fresh]) expect(await statusAt(both.base, token)).toBe(200)
      expect(await statusAt(after.base, fresh)).toBe(200)
      expect(await statusAt(after.base, old)).toBe(401)
    } finally {
      await both.close()
      await after.close()
    }
  })

  test('seals of the secret before count as well', () => {
    const before = createTokens(secrets.first)
    const during = createTokens(secrets.next, Date.now, secrets.first)
    expect(during.seals('text')).toContain(before.seal('text'))
    expect(during.seal('text')).not.toBe(before.seal('text'))
    expect(createTokens(secrets.next).seals('text')).not.toContain(before.seal('text'))
  })

  test.each([
    ['a new password', "SET password_hash = 'x'"],
    ['deactivation, also once that is over', 'SET is_active = false'],
  ])('ends with %s, within a second and on every process', async (_, change) => {
    const someone = await user()
    const token = await world.house.deps.tokens.issue(someone)
    const bases = [world.base, other.base]
    for (const base of bases) expect(await statusAt(base, token)).toBe(200)
    const set = (sql: string) =>
      world.database.query(`UPDATE users ${sql} WHERE user_id = $1`, [someone.user_id])
    await set(change)
    await set('SET is_active = true')
    const since = performance.now()
    for (const base of bases) while ((await statusAt(base, token)) === 200) await sleep(10)
    expect(performance.now() - since).toBeLessThan(1_000)
    const again = (await world.house.deps.accounts.userById(someone.user_id))!
    expect(await statusAt(other.base, await world.house.deps.tokens.issue(again))).toBe(200)
  })

  test('is over where its own account has changed the password, at once', async () => {
    const { token } = await world.signUp()
    const body = { current_password: 'password', new_password: 'another horse' }
    expect((await world.call('POST', 'auth/change-password', { as: token, body })).status).toBe(200)
    expect((await world.call('GET', 'auth/me', { as: token })).status).toBe(401)
  })

  test('is not that of another account that is made under the same id', async () => {
    const { id: user_id, token } = await world.signUp()
    const as = world.admin
    expect((await world.call('DELETE', `auth/admin/users/${user_id}`, { as })).status).toBe(204)
    const body = { user_id, name: 'Again', email: 'again@example.com' }
    expect((await world.call('POST', 'users', { as, body })).status).toBe(201)
    await until(
      async () => (await world.call('GET', 'auth/me', { as: token })).status === 401,
      'the old token is refused',
    )
    await sleep(1_200)
    expect((await world.call('GET', 'auth/me', { as: token })).status).toBe(401)
  })

  test('lives on when its account gets another name or role', async () => {
    const someone = await user()
    const token = await world.house.deps.tokens.issue(someone)
    await world.database.query("UPDATE users SET name = 'x', role = 'viewer' WHERE user_id = $1", [
      someone.user_id,
    ])
    await sleep(600)
    expect(await statusAt(world.base, token)).toBe(200)
    await sleep(100)
    expect(await statusAt(world.base, token, 'ops/status')).toBe(200)
  })
})
