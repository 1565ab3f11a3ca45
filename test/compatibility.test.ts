import { readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { openWorld, type World } from './world.ts'

/**
 * Every endpoint of the FastAPI "Coupon Book Service" with every status that it documents or means, asked
 * of ours, section by section of docs/compatibility.md. `of` names the endpoint as it is
 * listed there, which says row by row what is the same, better or deliberately different. `was`: what it answered there, where that is another status;
 * then the page has to say so.
 */
type Asked = { method: string; path: string; as?: string | undefined; body?: unknown }
type Row = [
  of: string,
  what: string,
  ask: () => Asked,
  status: number,
  code?: string | undefined,
  was?: number,
]

let world: World
let user: { id: string; token: string }
let other: { id: string; token: string }
/** Whoever changes the password is signed out by it. */
let changer: { id: string; token: string }
let book: string
let pool: string
/** A book without codes. */
let empty: string
const unknown = '00000000-0000-4000-8000-000000000000'
/** Codes in a state each; those that a row uses up are its own. `one`: all that its book gives a user. */
const lent = {
  lock: '',
  unlock: '',
  redeem: '',
  again: '',
  locked: '',
  foreign: '',
  multi: '',
  one: '',
}

async function assigned(to: string, from = book): Promise<string> {
  const body = { book_id: from, user_id: to }
  const { body: done } = await world.call('POST', 'coupons/assign', { as: world.service, body })
  return done.coupons[0].code
}

beforeAll(async () => {
  world = await openWorld()
  user = await world.signUp()
  other = await world.signUp()
  changer = await world.signUp()
  book = await world.makeBook({ name: 'Summer' }, [
    ...Array.from({ length: 30 }, (_, k) => `SUMMER-${k}`),
  ])
  await world.makeBook({ name: 'Named' }, ['NAMED-1'])
  empty = await world.makeBook({ name: 'Empty' })
  lent.one = await assigned(
    user.id,
    await world.makeBook({ max_assignments_per_user: 1 }, ['ONE-1', 'ONE-2']),
  )
  pool = (
    await world.call('POST', 'pools', {
      as: world.admin,
      body: { name: 'VIPs', user_ids: [user.id] },
    })
  ).body.pool_id
  for (const name of ['lock', 'unlock', 'redeem', 'again', 'locked'] as const)
    lent[name] = await assigned(user.id)
  lent.foreign = await assigned(other.id)
  await world.call('POST', `coupons/redeem/${lent.again}`, { as: user.token })
  for (const code of [lent.locked, lent.unlock])
    await world.call('POST', `coupons/lock/${code}`, { as: user.token })
  const multi = { max_redemptions: 3, max_redemptions_per_user: 1 }
  lent.multi = await assigned(user.id, await world.makeBook({ name: 'Multi', ...multi }, ['M-1']))
  await world.call('POST', `coupons/redeem/${lent.multi}`, { as: user.token })
})
afterAll(() => world.close())

const get = (path: string, as?: string): Asked => ({ method: 'GET', path, as })
const post = (path: string, as?: string, body?: unknown): Asked => ({
  ...{ method: 'POST', path, as, body },
})

const registration = { name: 'Ann', email: 'ann@example.com', password: 'correct horse' }
const bookWanted = { name: 'New', owner_id: 'owner' }
let expired: Promise<{ book: string; code: string }> | undefined
/** A book whose coupons are over, and one of them. */
const over = () =>
  (expired ??= (async () => {
    const id = await world.makeBook({ name: 'Over' }, ['OVER-1', 'OVER-2'])
    const code = await assigned(user.id, id)
    const body = { expiration_date: '2020-01-01T00:00:00Z' }
    await world.call('PATCH', `books/${id}`, { as: world.admin, body })
    return { book: id, code }
  })())

// biome-ignore format: a row is a line
const rows: Row[] = [
  // Section: The root
  ['GET /', 'leads to the documentation', () => get('/'), 200],
  ['GET /health', 'is healthy', () => get('/health'), 200],
  ['GET /docs, /redoc, /openapi.json', 'has the first', () => get('/docs'), 200],
  ['GET /docs, /redoc, /openapi.json', 'leads from the second to it', () => get('/redoc'), 200],
  ['GET /docs, /redoc, /openapi.json', 'has the third', () => get('/openapi.json'), 200],

  // Section: Accounts
  ['POST /auth/register', 'makes an account', () => post('auth/register', undefined, registration), 201],
  ['POST /auth/register', 'refuses a taken address', () => post('auth/register', undefined, registration), 400, 'email-taken'],
  ['POST /auth/login', 'signs in', () => post('auth/login', undefined, { email: registration.email, password: registration.password }), 200],
  ['POST /auth/login', 'refuses a wrong password', () => post('auth/login', undefined, { email: registration.email, password: 'x' }), 401, 'invalid-credentials'],
  ['GET /auth/me', 'shows the own account', () => get('auth/me', user.token), 200],
  ['GET /auth/me', 'refuses whoever sends no token', () => get('auth/me'), 401, 'unauthenticated'],
  ['GET /auth/me', 'refuses a bad token', () => get('auth/me', 'a.b.c'), 401, 'unauthenticated'],
  ['PUT /auth/me', 'changes the own name', () => ({ method: 'PUT', path: 'auth/me', as: user.token, body: { name: 'Me' } }), 200, undefined, 404],
  ['PUT /auth/me', 'refuses whoever sends no token', () => ({ method: 'PUT', path: 'auth/me', body: { name: 'Me' } }), 401, 'unauthenticated'],
  ['PUT /auth/me', 'refuses a taken address', () => ({ method: 'PUT', path: 'auth/me', as: user.token, body: { email: registration.email } }), 400, 'email-taken'],
  ['PUT /auth/me', 'refuses an empty name', () => ({ method: 'PUT', path: 'auth/me', as: user.token, body: { name: '' } }), 422, 'invalid-request'],
  ['PUT /auth/me', 'gives nobody another role', () => ({ method: 'PUT', path: 'auth/me', as: user.token, body: { role: 'admin' } }), 422, 'invalid-request'],
  ['POST /auth/change-password', 'refuses a wrong one', () => post('auth/change-password', changer.token, { current_password: 'x', new_password: 'battery staple' }), 400, 'wrong-password'],
  ['POST /auth/change-password', 'takes old_password', () => post('auth/change-password', changer.token, { old_password: 'password', new_password: 'battery staple' }), 200],

  ['POST /auth/admin/users', 'makes an account', () => post('auth/admin/users', world.admin, { ...registration, email: 'b@example.com', role: 'admin' }), 201, undefined, 500],
  ['POST /auth/admin/users', 'refuses users', () => post('auth/admin/users', user.token, registration), 403, 'forbidden'],
  ['POST /auth/admin/users', 'refuses a taken address', () => post('auth/admin/users', world.admin, registration), 400, 'email-taken'],
  ['GET /auth/admin/users', 'lists them', () => get('auth/admin/users?skip=0&limit=100', world.admin), 200],
  ['GET /auth/admin/users/{user_id}', 'shows one', () => get(`auth/admin/users/${user.id}`, world.admin), 200],
  ['GET /auth/admin/users/{user_id}', 'knows no stranger', () => get(`auth/admin/users/${unknown}`, world.admin), 404, 'user-not-found'],
  ['PATCH /auth/admin/users/{user_id}', 'changes one', () => ({ method: 'PATCH', path: `auth/admin/users/${other.id}`, as: world.admin, body: { name: 'Renamed' } }), 200],
  ['PATCH /auth/admin/users/{user_id}', 'never deactivates the own account', () => ({ method: 'PATCH', path: `auth/admin/users/${world.adminId}`, as: world.admin, body: { is_active: false } }), 400, 'own-account'],
  ['PATCH /auth/admin/users/{user_id}', 'never changes the own role', () => ({ method: 'PATCH', path: `auth/admin/users/${world.adminId}`, as: world.admin, body: { role: 'user' } }), 400, 'own-account'],
  ['PATCH /auth/admin/users/{user_id}', 'knows no stranger', () => ({ method: 'PATCH', path: `auth/admin/users/${unknown}`, as: world.admin, body: { name: 'x' } }), 404, 'user-not-found'],
  ['PATCH /auth/admin/users/{user_id}', 'refuses a taken address', () => ({ method: 'PATCH', path: `auth/admin/users/${other.id}`, as: world.admin, body: { email: registration.email } }), 400, 'email-taken'],
  ['DELETE /auth/admin/users/{user_id}', 'never deletes the own account', () => ({ method: 'DELETE', path: `auth/admin/users/${world.adminId}`, as: world.admin }), 400, 'own-account'],
  ['DELETE /auth/admin/users/{user_id}', 'knows no stranger', () => ({ method: 'DELETE', path: `auth/admin/users/${unknown}`, as: world.admin }), 404, 'user-not-found'],

  // Section: Books and codes
  ['POST /books', 'makes a book', () => post('books/', world.admin, bookWanted), 201],
  ['POST /books', 'refuses a bad pattern', () => post('books', world.admin, { ...bookWanted, code_pattern: 'A B' }), 422, 'invalid-pattern', 400],
  ['POST /books', 'takes any owner', () => post('books', world.admin, { ...bookWanted, owner_id: 'nobody-registered' }), 201, undefined, 500],
  ['POST /books', 'refuses a number of codes, which are counted', () => post('books', world.admin, { ...bookWanted, total_code_count: 5 }), 422, 'invalid-request', 201],
  ['POST /coupons', 'is the same', () => post('coupons', world.admin, bookWanted), 201],
  ['GET /books/{book_id}', 'shows one', () => get(`books/${book}`, user.token), 200],
  ['GET /books/{book_id}', 'knows no other', () => get(`books/${unknown}`, user.token), 404, 'book-not-found'],
  ['GET /books', 'lists them', () => get('books/?owner_id=owner&is_active=True&skip=0&limit=100', user.token), 200],
  ['GET /books', 'lists a thousand at most', () => get('books?limit=1001', user.token), 422, 'invalid-request', 200],
  ['GET /books', 'goes no further than a hundred thousand', () => get('books?skip=100001', user.token), 422, 'invalid-request', 200],
  ['POST /books/{book_id}/codes/generate', 'makes codes', () => post(`books/${book}/codes/generate?include_codes=True`, world.admin, { count: 2, pattern: 'GEN-{}' }), 200],
  ['POST /books/{book_id}/codes/generate', 'knows no other book', () => post(`books/${unknown}/codes/generate`, world.admin, { count: 2 }), 404, 'book-not-found'],
  ['POST /books/{book_id}/codes/generate', 'refuses more than the pattern gives', () => post(`books/${book}/codes/generate`, world.admin, { count: 10_000, length: 4, charset: '01' }), 422, 'pattern-too-small', 400],
  ['POST /books/{book_id}/codes/upload', 'takes codes', () => post(`books/${book}/codes/upload`, world.admin, { codes: ['UP-1', 'UP-2'] }), 200],
  ['POST /books/{book_id}/codes/upload', 'refuses codes that exist anywhere', () => post(`books/${book}/codes/upload`, world.admin, { codes: ['UP-2', 'UP-3'] }), 409, 'codes-exist'],
  ['POST /books/{book_id}/codes/upload', 'refuses a code twice in a list', () => post(`books/${book}/codes/upload`, world.admin, { codes: ['D', 'D'] }), 422, 'invalid-request'],
  ['POST /books/{book_id}/codes', 'takes either', () => post(`books/${book}/codes`, world.admin, { codes: ['UP-4'] }), 200],
  ['POST /coupons/codes', 'takes either', () => post('coupons/codes', world.admin, { book_id: book, count: 1 }), 200],
  ['GET /books/{book_id}/coupons', 'lists them', () => get(`books/${book}/coupons?skip=0&limit=10`, world.admin), 200],
  ['GET /books/{book_id}/coupons', 'knows no other book', () => get(`books/${unknown}/coupons`, world.admin), 404, 'book-not-found'],
  ['GET /books/{book_id}/redemption-history', 'lists them', () => get(`books/${book}/redemption-history`, world.admin), 200],
  ['GET /books/{book_id}/redemption-history', 'knows no other book', () => get(`books/${unknown}/redemption-history`, world.admin), 404, 'book-not-found'],

  // Section: Coupons
  ['POST /coupons/assign', 'assigns', () => post('coupons/assign', world.admin, { book_id: book, user_id: 'anybody', count: 2 }), 200],
  ['POST /coupons/assign', 'refuses more than there are', () => post('coupons/assign', world.admin, { book_id: book, user_id: 'anybody', count: 100 }), 409, 'sold-out', 404],
  ['POST /coupons/assign', 'knows no other book', () => post('coupons/assign', world.admin, { book_id: unknown, user_id: 'x' }), 404, 'book-not-found'],
  ['POST /coupons/assign/random', 'is the same', () => post('coupons/assign/random', world.admin, { book_id: book, user_id: 'anybody' }), 200],
  ['POST /coupons/assign/{code}', 'assigns a named code', () => post('coupons/assign/NAMED-1', world.admin, { user_id: user.id }), 200],
  ['POST /coupons/assign/{code}', 'refuses one that somebody has', () => post(`coupons/assign/${lent.foreign}`, world.admin, { user_id: user.id }), 404, 'coupon-not-found'],
  ['POST /coupons/assign/{code}', 'refuses one that the user has', () => post(`coupons/assign/${lent.lock}`, world.admin, { user_id: user.id }), 409, 'already-assigned', 404],
  ['POST /coupons/assign/{code}', 'keeps the limit of a user', () => post(`coupons/assign/${lent.one === 'ONE-1' ? 'ONE-2' : 'ONE-1'}`, world.admin, { user_id: user.id }), 409, 'assignment-limit'],
  ['POST /coupons/assign/{code}', 'knows no other', () => post('coupons/assign/NONE', world.admin, { user_id: user.id }), 404, 'coupon-not-found'],
  ['POST /coupons/lock/{code}', 'locks, also without a body', () => post(`coupons/lock/${lent.lock}`, user.token), 200],
  ['POST /coupons/lock/{code}', 'refuses one that is locked', () => post(`coupons/lock/${lent.locked}`, user.token, { lock_duration_seconds: 60 }), 409, 'coupon-locked', 400],
  ['POST /coupons/lock/{code}', 'refuses one that is used up', () => post(`coupons/lock/${lent.again}`, user.token), 409, 'coupon-redeemed', 400],
  ['POST /coupons/lock/{code}', 'knows no other', () => post('coupons/lock/NONE', user.token), 404, 'coupon-not-found'],
  ['POST /coupons/lock/{code}', 'refuses a duration of none', () => post(`coupons/lock/${lent.lock}`, user.token, { lock_duration_seconds: 0 }), 422, 'invalid-request'],
  ['POST /coupons/unlock/{code}', 'unlocks', () => post(`coupons/unlock/${lent.unlock}`, user.token), 200],
  ['POST /coupons/unlock/{code}', 'hides a stranger’s', () => post(`coupons/unlock/${lent.foreign}`, user.token), 404, 'coupon-not-found', 200],
  ['POST /coupons/unlock/{code}', 'leaves one that is used up as it is', () => post(`coupons/unlock/${lent.again}`, user.token), 409, 'coupon-redeemed', 200],
  ['POST /coupons/redeem/{code}', 'redeems', () => post(`coupons/redeem/${lent.redeem}`, user.token, { metadata: { till: 7 } }), 200],
  ['POST /coupons/redeem/{code}', 'refuses one that is used up', () => post(`coupons/redeem/${lent.again}`, user.token), 409, 'coupon-redeemed', 400],
  ['POST /coupons/redeem/{code}', 'refuses a locked one without its token', () => post(`coupons/redeem/${lent.locked}`, user.token), 409, 'coupon-locked', 400],
  ['POST /coupons/redeem/{code}', 'keeps the limit of a user', () => post(`coupons/redeem/${lent.multi}`, user.token), 409, 'redemption-limit', 400],
  ['POST /coupons/redeem/{code}', 'hides a stranger’s', () => post(`coupons/redeem/${lent.foreign}`, user.token), 404, 'coupon-not-found', 200],
  ['GET /coupons/{code}', 'shows one', () => get(`coupons/${lent.lock}`, user.token), 200],
  ['GET /coupons/{code}', 'hides a stranger’s', () => get(`coupons/${lent.foreign}`, user.token), 404, 'coupon-not-found', 200],
  ['GET /coupons/{code}', 'knows no other', () => get('coupons/NONE', user.token), 404, 'coupon-not-found'],

  // Section: Users
  ['POST /users', 'makes an account', () => post('users', world.admin, { user_id: '22222222-2222-4222-8222-222222222222', name: 'Ada', email: 'ada@example.com' }), 201, undefined, 500],
  ['POST /users', 'refuses an id that is taken', () => post('users', world.admin, { user_id: user.id, name: 'Ada', email: 'ada2@example.com' }), 400, 'user-exists'],
  ['POST /users', 'refuses an address that is taken', () => post('users', world.admin, { name: 'Ada', email: 'ada@example.com' }), 400, 'email-taken'],
  ['PATCH /users/{user_id}', 'changes the own name', () => ({ method: 'PATCH', path: `users/${user.id}`, as: user.token, body: { name: 'Mine' } }), 200],
  ['PATCH /users/{user_id}', 'refuses whoever sends no token', () => ({ method: 'PATCH', path: `users/${user.id}`, body: { name: 'x' } }), 401, 'unauthenticated'],
  ['PATCH /users/{user_id}', 'refuses another’s', () => ({ method: 'PATCH', path: `users/${other.id}`, as: user.token, body: { name: 'x' } }), 403, 'forbidden'],
  ['PATCH /users/{user_id}', 'knows no stranger', () => ({ method: 'PATCH', path: `users/${unknown}`, as: world.admin, body: { name: 'x' } }), 404, 'user-not-found'],
  ['PATCH /users/{user_id}', 'refuses a taken address', () => ({ method: 'PATCH', path: `users/${user.id}`, as: user.token, body: { email: registration.email } }), 400, 'email-taken'],
  ['GET /users/search/by-email', 'finds one', () => get(`users/search/by-email?email=${registration.email}`, user.token), 200],
  ['GET /users/search/by-email', 'finds no other', () => get('users/search/by-email?email=none@example.com', user.token), 404, 'user-not-found'],
  ['GET /users/{user_id}', 'shows one', () => get(`users/${user.id}`, user.token), 200],
  ['GET /users/{user_id}', 'knows no other', () => get(`users/${unknown}`, user.token), 404, 'user-not-found'],
  ['GET /users/{user_id}/coupons', 'lists them', () => get(`users/${user.id}/coupons?skip=0&limit=5`, user.token), 200],
  ['GET /users/{user_id}/coupons', 'hides another’s', () => get(`users/${other.id}/coupons`, user.token), 403, 'forbidden', 200],
  ['GET /users/{user_id}/coupons', 'is empty for whoever has none', () => get('users/nobody-yet/coupons', world.admin), 200],

  // Section: Pools
  ['POST /pools', 'makes a pool', () => post('pools/', world.admin, { name: 'Testers', description: 'of the beta', user_ids: [user.id, 'not-registered'] }), 201],
  ['POST /pools', 'refuses users', () => post('pools', user.token, { name: 'Mine' }), 403, 'forbidden', 201],
  ['GET /pools', 'lists them', () => get('pools/', world.admin), 200],
  ['GET /pools', 'refuses users', () => get('pools/', user.token), 403, 'forbidden', 200],
  ['GET /pools/{pool_id}', 'shows one with its users', () => get(`pools/${pool}`, world.admin), 200],
  ['GET /pools/{pool_id}', 'knows no other', () => get(`pools/${unknown}`, world.admin), 404, 'pool-not-found'],
  ['PATCH /pools/{pool_id}', 'changes one', () => ({ method: 'PATCH', path: `pools/${pool}`, as: world.admin, body: { description: 'very' } }), 200],
  ['PATCH /pools/{pool_id}', 'knows no other', () => ({ method: 'PATCH', path: `pools/${unknown}`, as: world.admin, body: { description: 'very' } }), 404, 'pool-not-found'],
  ['POST /pools/{pool_id}/users', 'adds a list', () => post(`pools/${pool}/users`, world.admin, { user_ids: ['a', 'b', 'c'] }), 200],
  ['POST /pools/{pool_id}/users', 'adds one', () => post(`pools/${pool}/users`, world.admin, { user_id: 'd' }), 200],
  ['POST /pools/{pool_id}/users', 'knows no other pool', () => post(`pools/${unknown}/users`, world.admin, { user_ids: ['a'] }), 404, 'pool-not-found'],
  ['DELETE /pools/{pool_id}/users', 'removes a list that its body names', () => ({ method: 'DELETE', path: `pools/${pool}/users`, as: world.admin, body: { user_ids: ['a', 'b'] } }), 200],
  ['DELETE /pools/{pool_id}/users', 'knows no other pool', () => ({ method: 'DELETE', path: `pools/${unknown}/users`, as: world.admin, body: { user_ids: ['a'] } }), 404, 'pool-not-found'],
  ['DELETE /pools/{pool_id}/users/{user_id}', 'removes one', () => ({ method: 'DELETE', path: `pools/${pool}/users/c`, as: world.admin }), 200],
  ['DELETE /pools/{pool_id}/users/{user_id}', 'knows no other pool', () => ({ method: 'DELETE', path: `pools/${unknown}/users/c`, as: world.admin }), 404, 'pool-not-found'],
  ['POST /pools/bulk-assign', 'gives each as many', () => post('pools/bulk-assign', world.admin, { book_id: book, pool_id: pool, distribution_mode: 'equal', coupons_per_user: 1 }), 200],
  ['POST /pools/bulk-assign', 'knows no other pool', () => post('pools/bulk-assign', world.admin, { book_id: book, pool_id: unknown }), 404, 'pool-not-found'],
  ['POST /pools/bulk-assign', 'knows no other book', () => post('pools/bulk-assign', world.admin, { book_id: unknown, pool_id: pool }), 404, 'book-not-found'],
  ['POST /pools/bulk-assign', 'has nothing to give', () => post('pools/bulk-assign', world.admin, { book_id: empty, pool_id: pool }), 409, 'sold-out', 404],
  ['POST /pools/bulk-assign', 'gives each 100 at most', () => post('pools/bulk-assign', world.admin, { book_id: book, pool_id: pool, distribution_mode: 'equal', coupons_per_user: 101 }), 422, 'invalid-request', 200],
  ['POST /pools/{pool_id}/distribute', 'knows no other pool', () => post(`pools/${unknown}/distribute`, world.admin, { book_id: book, count: 2, mode: 'random' }), 404, 'pool-not-found'],
  ['POST /pools/{pool_id}/distribute', 'knows no other book', () => post(`pools/${pool}/distribute`, world.admin, { book_id: unknown, count: 2, mode: 'random' }), 404, 'book-not-found'],
  ['POST /pools/{pool_id}/distribute', 'gives so many in all', () => post(`pools/${pool}/distribute`, world.admin, { book_id: book, count: 2, mode: 'random' }), 200],
  ['DELETE /pools/{pool_id}', 'knows no other', () => ({ method: 'DELETE', path: `pools/${unknown}`, as: world.admin }), 404, 'pool-not-found'],

  ['GET /users/me/coupons', 'lists the own', () => get('users/me/coupons', user.token), 200],
]

describe('the Coupon Book Service’s', () => {
  test.each(rows)('%s %s', async (_, __, ask, status, code) => {
    const { method, path, as, body } = ask()
    const reply = await world.call(method, path, { as, body })
    const refused = reply.status >= 400 ? reply.body.code : undefined
    expect([reply.status, refused]).toEqual([status, code])
  })

  test('expired coupon is refused with 410, on assign and on redeem', async () => {
    const { book: its, code } = await over()
    const as = { as: user.token }
    const assign = await world.call('POST', 'coupons/assign', { ...as, body: { book_id: its } })
    expect([assign.status, assign.body.code]).toEqual([410, 'book-expired'])
    const redeem = await world.call('POST', `coupons/redeem/${code}`, as)
    expect([redeem.status, redeem.body.code]).toEqual([410, 'book-expired'])
    expect((await world.call('GET', `coupons/${code}`, as)).body.state).toBe('EXPIRED')
  })

  test('limit of a user is 409, and detail says it once', async () => {
    const its = await world.makeBook({ name: 'Few', max_assignments_per_user: 1 }, ['F-1', 'F-2'])
    await assigned(user.id, its)
    const body = { book_id: its }
    const { status, body: said } = await world.call('POST', 'coupons/assign', {
      as: user.token,
      body,
    })
    expect([status, said.code]).toEqual([409, 'assignment-limit'])
    expect(said.detail).not.toMatch(/\d{3}:/)
  })

  test('deactivated account hears 403, at the login and with its token', async () => {
    const gone = await world.signUp()
    const { email } = (await world.call('GET', 'auth/me', { as: gone.token })).body
    const body = { is_active: false }
    await world.call('PATCH', `auth/admin/users/${gone.id}`, { as: world.admin, body })
    const credentials = { email, password: 'password' }
    for (const asked of [
      await world.call('GET', 'auth/me', { as: gone.token }),
      await world.call('POST', 'auth/login', { body: credentials }),
    ])
      expect([asked.status, asked.body.code]).toEqual([403, 'account-inactive'])
  })

  test('lists are objects here, with what was the list as `data`', async () => {
    for (const path of [
      ...['books', 'pools', 'auth/admin/users'],
      ...[`books/${book}/coupons`, `books/${book}/redemption-history`],
    ]) {
      const { body } = await world.call('GET', `${path}?limit=1`, { as: world.admin })
      const shape = { data: [expect.anything()], has_more: true, next_cursor: expect.any(String) }
      // One coupon of the book was redeemed twice at most.
      expect(body, path).toMatchObject(path.endsWith('history') ? { data: shape.data } : shape)
    }
  })

  test('codes without a pattern are 16 characters of Crockford’s base 32', async () => {
    const path = `books/${await world.makeBook()}/codes/generate?include_codes=1`
    const { body } = await world.call('POST', path, { as: world.admin, body: { count: 50 } })
    for (const code of body.codes) expect(code).toMatch(/^[0-9A-HJKMNP-TV-Z]{16}$/)
  })

  test('clients spell true and false as they like, in bodies too', async () => {
    const as = { as: world.admin }
    const { id } = await world.signUp()
    for (const [sent, kept] of [
      ...(['false', 'False', '0', 0, false] as const).map((word) => [word, false] as const),
      ...(['true', 'True', '1', 1, true] as const).map((word) => [word, true] as const),
    ]) {
      const flags = { allow_multi_redemption: sent, is_active: sent }
      const body = { ...bookWanted, ...flags, max_redemptions: 5 }
      const made = await world.call('POST', 'books', { ...as, body })
      const wanted = { allow_multi_redemption: kept, is_active: kept }
      expect([sent, made.status, made.body]).toMatchObject([sent, 201, wanted])
      const path = `books/${made.body.book_id}`
      const changed = await world.call('PATCH', path, { ...as, body: flags })
      expect(changed.body).toMatchObject(wanted)
      const account = { ...as, body: { is_active: sent } }
      const { body: its } = await world.call('PATCH', `auth/admin/users/${id}`, account)
      expect(its.is_active).toBe(kept)
      const fill = { ...as, body: { book_id: made.body.book_id, count: 1, include_codes: sent } }
      const { body: filled } = await world.call('POST', 'coupons/codes', fill)
      expect(filled.codes === null).toBe(!kept)
    }
    const no = await world.call('POST', 'books', {
      ...as,
      body: { ...bookWanted, is_active: 'no' },
    })
    expect([no.status, no.body.errors[0].path]).toEqual([422, 'is_active'])
    const { schemas } = (await world.call('GET', '/openapi.json')).body.components
    for (const { is_active } of [
      schemas.CreateBookRequest.properties,
      schemas.ChangeBookRequest.properties,
      schemas.ChangeAccountRequest.properties,
      schemas.ChangePoolRequest.properties,
    ])
      expect(is_active.enum).toEqual(
        expect.arrayContaining([true, false, 'true', 'True', '1', 'false', 'False', '0', 1, 0]),
      )
  })

  test('pool without users has nobody to give to, and can be deleted', async () => {
    const as = { as: world.admin }
    const { body: made } = await world.call('POST', 'pools', { ...as, body: { name: 'Nobody' } })
    const body = { book_id: book, pool_id: made.pool_id }
    const empty = await world.call('POST', 'pools/bulk-assign', { ...as, body })
    expect([empty.status, empty.body.code]).toEqual([400, 'pool-empty'])
    expect((await world.call('DELETE', `pools/${made.pool_id}`, as)).status).toBe(204)
  })

  test('account can be deleted', async () => {
    const gone = await world.signUp()
    const path = `auth/admin/users/${gone.id}`
    expect((await world.call('DELETE', path, { as: world.admin })).status).toBe(204)
    expect((await world.call('GET', 'auth/me', { as: gone.token })).status).toBe(401)
  })
})

describe('docs/compatibility.md', () => {
  const page = readFileSync(resolve(import.meta.dirname, '../docs/compatibility.md'), 'utf8')
  const listed = [...page.matchAll(/^\| `([^`]+)` \| (same|better|different) \|(.*)\|$/gm)]

  test('has a row for each endpoint that is asked here, and no other', () => {
    const names = listed.map(([, of]) => of)
    expect(names.toSorted()).toEqual([...new Set(rows.map(([of]) => of))].toSorted())
  })

  test('calls nothing the same that answers another status, and says what it was', () => {
    for (const [of, what, , , , was] of rows) {
      if (was === undefined) continue
      const [, , verdict, why] = listed.find(([, name]) => name === of)!
      expect([of, what, verdict]).not.toEqual([of, what, 'same'])
      expect(why, `${of} ${what}`).toMatch(new RegExp(`\\b${was}\\b`))
    }
  })
})
