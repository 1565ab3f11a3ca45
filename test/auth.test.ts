import { decodeJwt, SignJWT } from 'jose'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { type House, openHouse } from './house.ts'

/** The house's clock, so that nobody waits for a second or for half an hour to pass. */
let time = Date.now()
let house: House
const log: string[] = []
beforeAll(async () => {
  house = await openHouse({ now: () => time, log })
})
afterAll(() => house.close())
beforeEach(() => {
  time = Date.now()
})

const auth = '/api/v1/auth'
const call: House['call'] = (...args) => house.call(...args)
const register = (email: string, more: object = {}) =>
  call('POST', `${auth}/register`, {
    body: { name: 'Alice', email, password: 'correct horse', ...more },
  })
const login = (email: string, password: string) =>
  call('POST', `${auth}/login`, { body: { email, password } })
const me = (token: string) => call('GET', `${auth}/me`, { token })
const code = ({ status, body }: { status: number; body: { code?: string } }) =>
  `${status} ${body.code}`

async function makeKey(): Promise<{ key: string; key_id: string; admin: string }> {
  const { token } = await house.signUp('admin')
  const made = await call('POST', '/api/v1/api-keys', { token, body: { name: 'shop' } })
  expect(made.status).toBe(201)
  return { ...made.body, admin: token }
}
/** Any route that every kind of principal may use. */
const whoIs = (token: string) =>
  call('GET', '/api/v1/users/search/by-email?email=nobody@example.com', { token })

test('register  makes an account and signs it in', async () => {
  const { status, body, headers } = await register('alice@example.com')
  expect(status).toBe(201)
  expect(Object.keys(body)).toEqual(['access_token', 'token_type', 'user'])
  expect(body.token_type).toBe('bearer')
  const members = ['user_id', 'name', 'email', 'role', 'is_active', 'created_at', 'updated_at']
  expect(Object.keys(body.user)).toEqual(members)
  expect(body.user).toMatchObject({ name: 'Alice', role: 'user', is_active: true })
  expect(headers.get('cache-control')).toBe('no-store')
  const claims = decodeJwt(body.access_token)
  expect(claims).toMatchObject({
    sub: body.user.user_id,
    email: 'alice@example.com',
    role: 'user',
  })
  expect(claims.exp! - claims.iat!).toBe(30 * 60)
  expect((await me(body.access_token)).body).toEqual(body.user)
})

test('register  refuses an address that is taken, in any spelling', async () => {
  await register('taken@example.com')
  expect(code(await register('Taken@Example.COM'))).toBe('400 email-taken')
})

test('register  lets one of ten win who ask for the same address at once', async () => {
  const all = await Promise.all(Array.from({ length: 10 }, () => register('race@example.com')))
  expect(all.filter(({ status }) => status === 201)).toHaveLength(1)
  expect(all.filter(({ status }) => status === 400)).toHaveLength(9)
})

test('register  makes nobody an administrator', async () => {
  const { status, body } = await register('mallory@example.com', { role: 'admin' })
  expect(status).toBe(422)
  expect(body.errors).toEqual([{ path: 'role', message: 'is not known here' }])
})

test.each([
  ['a short password', { password: 'seven77' }, 'password'],
  ['a long password', { password: 'x'.repeat(101) }, 'password'],
  ['a password with an unpaired surrogate', { password: 'abcdefgh\ud800' }, 'password'],
  ['no name', { name: '' }, 'name'],
  ['a blank name', { name: '   ' }, 'name'],
  ['a long name', { name: 'x'.repeat(256) }, 'name'],
  ['a name with U+0000', { name: 'a\0b' }, 'name'],
  ['a name with a control character', { name: 'a\u0085b' }, 'name'],
  ['a number as name', { name: 7 }, 'name'],
  ['something that is no address', { email: 'alice' }, 'email'],
  ['a long address', { email: `${'x'.repeat(250)}@example.com` }, 'email'],
])('register  refuses %s and names the field', async (_, more, path) => {
  const { status, body } = await register('field@example.com', more)
  expect(status).toBe(422)
  expect(body.errors.map((error: { path: string }) => error.path)).toContain(path)
})

test('login  answers a wrong password and an unknown address alike, in the same time', async () => {
  await register('bob@example.com')
  const timed = async (email: string) => {
    const started = performance.now()
    expect(code(await login(email, 'wrong'))).toBe('401 invalid-credentials')
    return performance.now() - started
  }
  await timed('nobody@example.com')
  const known: number[] = []
  const unknown: number[] = []
  for (let i = 0; i < 7; i++) {
    known.push(await timed('bob@example.com'))
    unknown.push(await timed('nobody@example.com'))
  }
  // Medians of a busy machine: without the same work the difference is a factor of ten and more.
  const median = (all: number[]) => all.sort((a, b) => a - b)[3]!
  const factor = median(known) / median(unknown)
  expect(factor).toBeGreaterThan(1 / 3)
  expect(factor).toBeLessThan(3)
})

test('login  accepts the address in any spelling, and short old passwords', async () => {
  await house.accounts.createUser({ name: 'Demo', email: 'demo@example.com', password: 'demo123' })
  expect((await login('DEMO@example.com', 'demo123')).status).toBe(200)
})

test('login  tells a suspended user so only after the right password', async () => {
  const user = await house.signUp()
  await house.database.query('UPDATE users SET is_active = false WHERE user_id = $1', [
    user.user_id,
  ])
  expect(code(await login(user.email, 'wrong'))).toBe('401 invalid-credentials')
  expect(code(await login(user.email, 'password'))).toBe('403 account-inactive')
})

test('change-password  needs the present one, and then the old one is of no use', async () => {
  const { token, email } = await house.signUp()
  const change = (current_password: string) =>
    call('POST', `${auth}/change-password`, {
      token,
      body: { current_password, new_password: 'another horse' },
    })
  expect(code(await change('wrong'))).toBe('400 wrong-password')
  expect((await change('password')).body).toEqual({ message: 'Password updated successfully' })
  expect((await login(email, 'password')).status).toBe(401)
  expect((await login(email, 'another horse')).status).toBe(200)
})

test('token  is refused when missing, malformed, of another scheme, or far too long', async () => {
  const { token } = await house.signUp()
  const { headers } = await call('GET', `${auth}/me`)
  expect(headers.get('www-authenticate')).toBe('Bearer')
  for (const authorization of [
    '',
    'Bearer',
    'Bearer ',
    `Basic ${token}`,
    token,
    `Bearer ${token} x`,
    `Bearer ${token.slice(0, -2)}`,
    `Bearer ${'x'.repeat(9_000)}`,
    'Bearer sk_0000000000000000_short',
    `Bearer sk_0000000000000000_${'A'.repeat(43)}`,
  ])
    expect(
      code(await call('GET', `${auth}/me`, { headers: { authorization } })),
      authorization,
    ).toBe('401 unauthenticated')
  const lower = await call('GET', `${auth}/me`, { headers: { authorization: `bearer ${token}` } })
  expect(lower.status).toBe(200)
})

test('token  is refused when forged: no algorithm, another one, secret, issuer or audience', async () => {
  const user = await house.signUp('admin')
  const right = Buffer.from('a secret of at least 32 characters')
  const sign = (alg: string, secret: Buffer, issuer = 'stampede', audience = 'stampede-api') =>
    new SignJWT({ role: 'admin', gen: decodeJwt(user.token).gen })
      .setProtectedHeader({ alg })
      .setSubject(user.user_id)
      .setIssuer(issuer)
      .setAudience(audience)
      .setExpirationTime('5m')
      .sign(secret)
  expect((await me(await sign('HS256', right))).status).toBe(200)
  const encode = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url')
  const { payload } = { payload: decodeJwt(user.token) }
  for (const forged of [
    `${encode({ alg: 'none' })}.${encode(payload)}.`,
    await sign('HS384', Buffer.concat([right, right])),
    await sign('HS256', Buffer.from('another secret of 32 characters!')),
    await sign('HS256', right, 'someone'),
    await sign('HS256', right, 'stampede', 'someone'),
    await new SignJWT({}).setProtectedHeader({ alg: 'HS256' }).setSubject('x').sign(right),
  ])
    expect(code(await me(forged))).toBe('401 unauthenticated')
})

test('token  ends after 30 minutes, also when it is in use', async () => {
  const { token } = await house.signUp()
  const issued = time
  expect((await me(token)).status).toBe(200)
  time = issued + 29 * 60_000
  expect((await me(token)).status).toBe(200)
  time = issued + 30 * 60_000 + 1
  expect(code(await me(token))).toBe('401 unauthenticated')
})

test('token  of a suspended account is refused a second later, and is over for good', async () => {
  const user = await house.signUp()
  const active = (is_active: boolean) =>
    house.database.query('UPDATE users SET is_active = $2 WHERE user_id = $1', [
      user.user_id,
      is_active,
    ])
  expect((await me(user.token)).status).toBe(200)
  await active(false)
  time += 1_000
  expect(code(await me(user.token))).toBe('403 account-inactive')
  await active(true)
  time += 1_000
  expect(code(await me(user.token))).toBe('401 unauthenticated')
  expect((await login(user.email, 'password')).status).toBe(200)
})

test('token  carries the role that the account has now, not the one it was issued with', async () => {
  const user = await house.signUp('admin')
  const keys = () => call('GET', '/api/v1/api-keys', { token: user.token })
  expect((await keys()).status).toBe(200)
  await house.database.query("UPDATE users SET role = 'user' WHERE user_id = $1", [user.user_id])
  time += 1_000
  const refused = await keys()
  expect(code(refused)).toBe('403 forbidden')
  expect(refused.body.needs).toBe('an administrator')
})

test('token  of a deleted account is refused', async () => {
  const user = await house.signUp()
  await me(user.token)
  await house.database.query('DELETE FROM users WHERE user_id = $1', [user.user_id])
  time += 1_000
  expect(code(await me(user.token))).toBe('401 unauthenticated')
})

test('api-keys  shows a key once and keeps its hash only', async () => {
  const { key, key_id, admin } = await makeKey()
  expect(key).toMatch(new RegExp(`^sk_${key_id}_[A-Za-z0-9_-]{43}$`))
  const listed = await call('GET', '/api/v1/api-keys', { token: admin })
  expect(listed.text).not.toContain(key.slice(20))
  const { rows } = await house.database.query('SELECT * FROM api_keys WHERE key_id = $1', [key_id])
  expect(JSON.stringify(rows)).not.toContain(key.slice(20))
  expect((await whoIs(key)).status).toBe(404)
  expect(code(await whoIs(`${key.slice(0, -1)}${key.endsWith('A') ? 'B' : 'A'}`))).toBe(
    '401 unauthenticated',
  )
})

test('api-keys  lists page by page, each key once', async () => {
  const { admin } = await makeKey()
  for (let i = 0; i < 4; i++) await makeKey()
  const all = (await call('GET', '/api/v1/api-keys', { token: admin })).body.data
  const seen: unknown[] = []
  let cursor: string | null = ''
  while (cursor !== null) {
    const query: string = cursor === '' ? 'limit=2' : `limit=2&starting_after=${cursor}`
    const { body } = await call('GET', `/api/v1/api-keys?${query}`, { token: admin })
    seen.push(...body.data)
    cursor = body.next_cursor
    expect(body.has_more).toBe(cursor !== null)
  }
  expect(seen).toEqual(all)
  const unknown = '/api/v1/api-keys?starting_after=0000000000000000'
  expect(code(await call('GET', unknown, { token: admin }))).toBe('422 invalid-cursor')
})

test('api-keys  refuses a revoked key at once here, and a second later elsewhere', async () => {
  const here = await makeKey()
  expect((await whoIs(here.key)).status).toBe(404)
  const path = `/api/v1/api-keys/${here.key_id}`
  expect((await call('DELETE', path, { token: here.admin })).status).toBe(204)
  expect((await call('DELETE', path, { token: here.admin })).status).toBe(204)
  expect(code(await whoIs(here.key))).toBe('401 unauthenticated')

  const elsewhere = await makeKey()
  expect((await whoIs(elsewhere.key)).status).toBe(404)
  await house.accounts.revokeApiKey(elsewhere.key_id)
  time += 1_000
  expect(code(await whoIs(elsewhere.key))).toBe('401 unauthenticated')
  expect(
    code(await call('DELETE', '/api/v1/api-keys/0123456789abcdef', { token: here.admin })),
  ).toBe('404 api-key-not-found')
})

test('api-keys  are no accounts: a key is told so', async () => {
  const { key } = await makeKey()
  const { status, body } = await me(key)
  expect(status).toBe(403)
  expect(body.needs).toBe('a user account or an administrator')
  expect(code(await call('GET', '/api/v1/api-keys', { token: key }))).toBe('403 forbidden')
})

test('search by e-mail  shows users a name and administrators the whole account', async () => {
  const target = await house.signUp()
  const { token } = await house.signUp()
  const { token: admin } = await house.signUp('admin')
  const { key } = await makeKey()
  const path = `/api/v1/users/search/by-email?email=${target.email.toUpperCase()}`
  const name = { user_id: target.user_id, name: 'Someone' }
  expect((await call('GET', path, { token })).body).toEqual(name)
  expect((await call('GET', path, { token: key })).body).toEqual(name)
  expect((await call('GET', path, { token: admin })).body).toMatchObject({
    ...name,
    email: target.email,
    role: 'user',
  })
  const partly = `/api/v1/users/search/by-email?email=${target.email.slice(1)}`
  expect(code(await call('GET', partly, { token }))).toBe('404 user-not-found')
})

test('auth  logs neither passwords, nor tokens, nor keys, nor hashes', async () => {
  const { key, admin } = await makeKey()
  await register('logged@example.com', { password: 'very secret words' })
  await house.database.query('ALTER TABLE users RENAME TO gone')
  const broken = await register('broken@example.com', { password: 'very secret words' })
  await house.database.query('ALTER TABLE gone RENAME TO users')
  expect(code(broken)).toBe('500 internal-error')
  const text = log.join('')
  expect(text).toContain(broken.body.request_id)
  for (const secret of ['very secret words', '$argon2', key.slice(20), admin.slice(-20)])
    expect(text).not.toContain(secret)
})
