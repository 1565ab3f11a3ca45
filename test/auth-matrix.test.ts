import { afterAll, beforeAll, expect, test } from 'vitest'
import { openWorld, type World } from './world.ts'

/**
 * Who may call what, as the design has it and not as the code does: each route has a row here, and
 * one without fails. Letters: n nobody in particular, u users, v viewers, o operators, s services, a
 * administrators. A viewer or an operator is a user wherever `u` stands.
 */
const matrix: Record<string, string> = {
  'GET /livez': 'nusa',
  'GET /health': 'nusa',
  'GET /readyz': 'nusa',
  // Asked from this machine; test/metrics.test.ts asks from elsewhere.
  'GET /metrics': 'nusa',
  'GET /version': 'nusa',
  'POST /api/v1/auth/register': 'nusa',
  'POST /api/v1/auth/login': 'nusa',
  // An API key is no account.
  'GET /api/v1/auth/me': 'ua',
  'PUT /api/v1/auth/me': 'ua',
  'POST /api/v1/auth/change-password': 'ua',
  'POST /api/v1/auth/admin/users': 'a',
  'GET /api/v1/auth/admin/users': 'a',
  'GET /api/v1/auth/admin/users/{user_id}': 'a',
  'PATCH /api/v1/auth/admin/users/{user_id}': 'a',
  'DELETE /api/v1/auth/admin/users/{user_id}': 'a',
  'POST /api/v1/users': 'sa',
  'GET /api/v1/users/{user_id}': 'usa',
  // Oneself, or as an administrator anybody: test/accounts.test.ts.
  'PATCH /api/v1/users/{user_id}': 'ua',
  'GET /api/v1/users/search/by-email': 'usa',
  'POST /api/v1/api-keys': 'a',
  'GET /api/v1/api-keys': 'a',
  'DELETE /api/v1/api-keys/{key_id}': 'a',
  // Users act as themselves here: the rows of `acting` say what happens when they do not.
  'POST /api/v1/coupons/assign': 'usa',
  'POST /api/v1/coupons/assign/random': 'usa',
  'POST /api/v1/coupons/assign/{code}': 'usa',
  'POST /api/v1/coupons/lock/{code}': 'usa',
  'POST /api/v1/coupons/unlock/{code}': 'usa',
  'POST /api/v1/coupons/redeem/{code}': 'usa',
  'GET /api/v1/coupons/{code}': 'usa',
  'GET /api/v1/users/{user_id}/coupons': 'usa',
  'POST /api/v1/redemptions/{redemption_id}/rollback': 'sa',
  'POST /api/v1/coupons/release/{code}': 'a',
  'POST /api/v1/coupons/void/{code}': 'a',
  'GET /api/v1/books': 'usa',
  'GET /api/v1/books/{book_id}': 'usa',
  'GET /api/v1/books/{book_id}/stats': 'usa',
  'POST /api/v1/books': 'sa',
  'POST /api/v1/coupons': 'sa',
  'POST /api/v1/coupons/codes': 'sa',
  'POST /api/v1/books/{book_id}/codes': 'sa',
  'PATCH /api/v1/books/{book_id}': 'sa',
  'DELETE /api/v1/books/{book_id}': 'sa',
  'GET /api/v1/books/{book_id}/coupons': 'sa',
  'GET /api/v1/books/{book_id}/redemption-history': 'sa',
  'POST /api/v1/books/{book_id}/codes/generate': 'sa',
  'POST /api/v1/books/{book_id}/codes/upload': 'sa',
  'POST /api/v1/books/{book_id}/units': 'sa',
  'POST /api/v1/pools': 'sa',
  'GET /api/v1/pools': 'sa',
  'GET /api/v1/pools/{pool_id}': 'sa',
  'PATCH /api/v1/pools/{pool_id}': 'sa',
  'DELETE /api/v1/pools/{pool_id}': 'sa',
  'POST /api/v1/pools/{pool_id}/users': 'sa',
  'DELETE /api/v1/pools/{pool_id}/users': 'sa',
  'DELETE /api/v1/pools/{pool_id}/users/{user_id}': 'sa',
  'POST /api/v1/pools/{pool_id}/distribute': 'sa',
  'POST /api/v1/pools/bulk-assign': 'sa',
  'GET /api/v1/distributions/{job_id}/results': 'sa',
  'POST /api/v1/distributions/{job_id}/cancel': 'sa',
  'GET /api/v1/jobs/{job_id}': 'sa',
  'POST /api/v1/books/{book_id}/imports': 'sa',
  'GET /api/v1/books/{book_id}/export/{what}': 'sa',
  'GET /api/v1/imports/{job_id}/report': 'sa',
  // Nobody but who asked for it, and administrators: test/operations.test.ts.
  'GET /api/v1/operations/{operation_id}': 'usa',
  'GET /api/v1/ops/status': 'voa',
  'GET /api/v1/ops/doctor': 'voa',
  'POST /api/v1/ops/certificates/verify': 'voa',
  'POST /api/v1/ops/intake': 'oa',
  'POST /api/v1/ops/flush': 'oa',
  'GET /api/v1/ops/coupons/{code}': 'voa',
  'GET /api/v1/ops/parked': 'voa',
  'GET /api/v1/ops/parked/{shard}/{entry}/{i}': 'voa',
  'POST /api/v1/ops/books/{book_id}/warm': 'oa',
  'POST /api/v1/ops/parked/retry': 'oa',
  'POST /api/v1/ops/parked/discard': 'a',
  'GET /api/v1/ops/rebuild': 'voa',
  'POST /api/v1/ops/rebuild': 'a',
  'GET /api/v1/ops/queues': 'voa',
  'GET /api/v1/ops/queues/failed': 'voa',
  'POST /api/v1/ops/queues/retry': 'oa',
  'POST /api/v1/ops/queues/clean': 'a',
  'GET /api/v1/ops/accept-loss': 'voa',
  'POST /api/v1/ops/accept-loss': 'a',
  'POST /api/v1/ops/books/{book_id}/open': 'oa',
  'POST /api/v1/ops/books/{book_id}/pause': 'oa',
  'POST /api/v1/ops/books/{book_id}/close': 'oa',
  'POST /api/v1/ops/books/{book_id}/archive': 'a',
  'POST /api/v1/ops/coupons/{code}/release': 'oa',
  'POST /api/v1/ops/coupons/{code}/void': 'a',
  'POST /api/v1/ops/redemptions/{redemption_id}/rollback': 'oa',
  'POST /api/v1/ops/drain': 'oa',
  'POST /api/v1/ops/reconcile': 'oa',
  'POST /api/v1/ops/replay': 'oa',
  'GET /api/v1/ops/jobs': 'voa',
  'GET /api/v1/ops/jobs/{job_id}': 'voa',
  'POST /api/v1/ops/jobs/{job_id}/cancel': 'oa',
  'POST /api/v1/ops/jobs/{job_id}/retry': 'oa',
  'GET /api/v1/ops/audit': 'voa',
  // Each item has an answer of its own, 403 where a user names another: test/assign-batch.test.ts.
  'POST /api/v1/coupons/assign:batch': 'usa',
  'GET /api/v1/jobs': 'sa',
  'POST /api/v1/jobs/{job_id}/cancel': 'sa',
  'DELETE /api/v1/jobs/{job_id}': 'sa',
  'GET /api/v1/jobs/{job_id}/events': 'sa',
  'GET /api/v1/books/{book_id}/stats/timeline': 'usa',
  'GET /api/v1/books/{book_id}/stats/totals': 'usa',
  'GET /api/v1/stats/timeline': 'a',
}

/** Calls that name a user: a user may name nobody else, whatever the coupon's state. */
const acting = [
  'POST /api/v1/coupons/assign',
  'POST /api/v1/coupons/assign/random',
  'POST /api/v1/coupons/assign/{code}',
  'POST /api/v1/coupons/lock/{code}',
  'POST /api/v1/coupons/unlock/{code}',
  'POST /api/v1/coupons/redeem/{code}',
  'GET /api/v1/users/{user_id}/coupons',
]

let world: World
let served: string[]
let someone: { id: string; token: string }
let book: string
const callers: Record<string, string | undefined> = {}
/** Viewers and operators act as themselves, like users. */
const own: Record<string, string> = {}

beforeAll(async () => {
  world = await openWorld()
  someone = await world.signUp()
  callers.n = undefined
  callers.u = someone.token
  const viewer = await world.signUp('viewer')
  const operator = await world.signUp('operator')
  Object.assign(callers, { v: viewer.token, o: operator.token })
  Object.assign(own, { v: viewer.id, o: operator.id })
  callers.s = world.service
  callers.a = world.admin
  book = await world.makeBook({ name: 'Matrix' }, ['MATRIX-1'])
  const { body } = await world.call('GET', '/openapi.json')
  served = Object.entries(body.paths as Record<string, object>).flatMap(([path, methods]) =>
    Object.keys(methods).map((method) => `${method.toUpperCase()} ${path}`),
  )
})
afterAll(() => world.close())

const values: Record<string, string> = {
  code: 'NO-SUCH-CODE',
  key_id: '0123456789abcdef',
  shard: '63',
}
/** Asks for things that do not exist, so that a call which is allowed changes nothing. */
function ask(route: string, as: string | undefined, user?: string) {
  const [method, path] = route.split(' ') as [string, string]
  const missing = '00000000-0000-4000-8000-000000000000'
  const url = path.replaceAll(/\{(\w+)\}/g, (_, name: string) =>
    name === 'user_id' && !path.includes('/admin/')
      ? (user ?? someone.id)
      : (values[name] ?? missing),
  )
  const named = user && method !== 'GET' ? { user_id: user } : {}
  const wanted = path.endsWith('assign') || path.endsWith('random') ? { book_id: book } : {}
  const body = method === 'GET' || method === 'DELETE' ? undefined : { ...wanted, ...named }
  return world.call(method, url, { as, body })
}

test('auth matrix  has a row for every route, and no other', () => {
  expect(Object.keys(matrix).sort()).toEqual([...served].sort())
})

const admits = (allowed: string, letter: string) =>
  allowed.includes(letter) || (allowed.includes('u') && 'vo'.includes(letter))

for (const [route, allowed] of Object.entries(matrix))
  for (const [letter, name] of Object.entries({
    n: 'nobody in particular',
    u: 'a user',
    v: 'a viewer',
    o: 'an operator',
    s: 'a service',
    a: 'an administrator',
  }))
    test(`auth matrix  ${route} ${admits(allowed, letter) ? 'admits' : 'refuses'} ${name}`, async () => {
      const self = route.includes('{user_id}') ? own[letter] : undefined
      const { status, headers, body } = await ask(route, callers[letter], self)
      expect(status).toBeLessThan(500)
      if (admits(allowed, letter)) {
        if (route.endsWith('/login')) return
        expect([401, 403]).not.toContain(status)
      } else if (letter === 'n') {
        expect(`${status} ${body.code}`).toBe('401 unauthenticated')
        expect(headers.get('www-authenticate')).toBe('Bearer')
      } else {
        expect(`${status} ${body.code}`).toBe('403 forbidden')
        expect(body.needs).toMatch(/^an? /)
      }
    })

test.each(acting)('auth matrix  %s lets no user act for another', async (route) => {
  const other = await world.signUp()
  const refused = await ask(route, callers.u, other.id)
  expect(`${refused.status} ${refused.body.code}`).toBe('403 forbidden')
  expect((await ask(route, callers.u, someone.id)).status).not.toBe(403)
  for (const letter of ['s', 'a'])
    expect((await ask(route, callers[letter], other.id)).status).not.toBe(403)
})

test.each(acting.filter((route) => route.startsWith('POST')))(
  'auth matrix  %s makes a service name the user',
  async (route) => {
    const { status, body } = await ask(route, callers.s)
    expect(status).toBe(422)
    expect(body.errors[0].path).toBe('user_id')
  },
)

test('auth matrix  gives a stranger the same answer as for an unknown code', async () => {
  await world.makeBook({ name: 'Owned' }, ['OWNED-1'])
  const assigned = await world.call('POST', 'coupons/assign/OWNED-1', {
    as: world.service,
    body: { user_id: 'owner' },
  })
  expect(assigned.status).toBe(200)
  const plain = ({ status, body }: Awaited<ReturnType<typeof ask>>) => {
    const { instance, request_id, ...rest } = body
    return { status, ...rest }
  }
  for (const [method, path] of [
    ['GET', 'coupons/CODE'],
    ['POST', 'coupons/lock/CODE'],
    ['POST', 'coupons/unlock/CODE'],
    ['POST', 'coupons/redeem/CODE'],
  ] as const) {
    const of = (code: string) => world.call(method, path.replace('CODE', code), { as: callers.u })
    const stranger = plain(await of('OWNED-1'))
    expect(stranger.status, path).toBe(404)
    expect(stranger, path).toEqual(plain(await of('NO-SUCH-CODE')))
  }
})
