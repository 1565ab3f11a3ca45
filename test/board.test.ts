import { afterAll, beforeAll, expect, test } from 'vitest'
import { auditRows } from '../src/ledger/audit.ts'
import { openWorld, type World } from './world.ts'

/** Bull Board below /queues: who sees it, and what a browser may be made to do. */
let world: World
const password = 'a long password'
const roles = ['user', 'viewer', 'operator', 'admin'] as const

beforeAll(async () => {
  world = await openWorld({ acl: true })
  for (const role of roles) {
    const person = { name: role, email: `${role}@example.com`, password, role }
    await world.house.deps.accounts.createUser(person)
  }
})
afterAll(() => world?.close())

const ask = (path: string, init: RequestInit = {}) =>
  fetch(`${world.base}/queues${path}`, { redirect: 'manual', ...init })
const signIn = (role: string, given = password, headers = {}) =>
  ask('/sign-in', {
    method: 'POST',
    headers,
    body: new URLSearchParams({ email: `${role}@example.com`, password: given }),
  })
async function cookieOf(role: string): Promise<string> {
  const answer = await signIn(role)
  expect([answer.status, answer.headers.get('location')]).toEqual([303, '/queues'])
  const [set] = answer.headers.getSetCookie()
  expect(set).toMatch(/; Path=\/queues; HttpOnly; SameSite=Strict$/)
  return set!.split(';')[0]!
}

test('whoever is nobody gets a form, a program 401, and neither anything else', async () => {
  const page = await ask('')
  expect([page.status, await page.text()]).toEqual([401, expect.stringContaining('<form')])
  expect(page.headers.get('content-security-policy')).toContain("frame-ancestors 'none'")
  expect((await ask('/static/css/main.css')).status).toBe(401)
  const api = await ask('/api/queues')
  expect([api.status, ((await api.json()) as { code: string }).code]).toEqual([
    401,
    'unauthenticated',
  ])
  const wrong = await signIn('admin', 'another password')
  expect([wrong.status, wrong.headers.getSetCookie()]).toEqual([401, []])
  expect(await wrong.text()).toMatch(/role="alert">Wrong/)
  expect((await signIn('user')).status).toBe(403)
  const key = await ask('/api/queues', { headers: { authorization: `Bearer ${world.service}` } })
  expect(key.status).toBe(403)
})

test.each([
  ['viewer', true],
  ['operator', true],
  ['admin', false],
])('a %s sees the queues; read-only: %s', async (role, readOnly) => {
  const headers = { cookie: await cookieOf(role) }
  const page = await ask('', { headers })
  const text = await page.text()
  expect([page.status, text]).toEqual([200, expect.stringContaining('__UI_CONFIG__')])
  const [, script] = /src="(static\/js\/main[^"]+)"/.exec(text)!
  expect((await ask(`/${script}`, { headers })).status).toBe(200)
  const { queues } = (await (await ask('/api/queues', { headers })).json()) as {
    queues: { name: string; readOnlyMode: boolean }[]
  }
  expect(queues.map(({ name }) => name).sort()).toEqual(['flush', 'jobs'])
  for (const queue of queues) expect(queue.readOnlyMode).toBe(readOnly)
  const write = await ask('/api/queues/jobs/pause', { method: 'PUT', headers })
  expect(write.status).toBe(readOnly ? 403 : 200)
  if (!readOnly) await ask('/api/queues/jobs/resume', { method: 'PUT', headers })
})

test('what an administrator does stands in the audit log, and no other page can do it for them', async () => {
  const cookie = await cookieOf('admin')
  const pause = (headers = {}) =>
    ask('/api/queues/jobs/pause', { method: 'PUT', headers: { cookie, ...headers } })
  for (const foreign of [{ origin: 'https://evil.example' }, { 'sec-fetch-site': 'cross-site' }])
    expect((await pause(foreign)).status).toBe(403)
  expect((await signIn('admin', password, { origin: 'https://evil.example' })).status).toBe(403)
  const before = (await auditRows(world.database, { limit: 100 })).length
  expect((await pause({ origin: world.base })).status).toBe(200)
  const [deed, ...rest] = await auditRows(world.database, { limit: 100 })
  expect(rest).toHaveLength(before)
  expect(deed).toMatchObject({
    ...{ action: 'queues', target: 'PUT /queues/api/queues/jobs/pause', reason: 'Bull Board' },
  })
  expect(deed!.actor).toMatch(/^user:/)
  const headers = { cookie }
  expect((await ask('/api/queues/jobs/resume', { method: 'PUT', headers })).status).toBe(200)
})

test('a form that is none is refused, and so is an address that no account has', async () => {
  const sent = (body: string, type: string) =>
    ask('/sign-in', { method: 'POST', headers: { 'content-type': type }, body })
  const form = 'application/x-www-form-urlencoded'
  const answers = await Promise.all([
    sent('x', 'multipart/form-data'),
    sent('--x\r\nbroken', 'multipart/form-data; boundary=x'),
    sent('email=%00&password=x', form),
    sent('email=a%40example.com', form),
  ])
  expect(answers.map(({ status }) => status)).toEqual([422, 422, 422, 422])
})

test('its cookie opens nothing else, and ends with signing out', async () => {
  const headers = { cookie: await cookieOf('admin') }
  expect((await fetch(`${world.base}/api/v1/auth/me`, { headers })).status).toBe(401)
  const out = await ask('/sign-out', { headers })
  expect(out.headers.getSetCookie()[0]).toMatch(/^stampede_queues=; Max-Age=0/)
})
