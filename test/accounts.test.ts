import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { makeApiKey } from '../src/http/tokens.ts'
import { changeAccount, deleteAccount, replacePassword } from '../src/ops/accounts.ts'
import { type House, openHouse } from './house.ts'

let house: House
let admin: Awaited<ReturnType<House['signUp']>>
beforeAll(async () => {
  house = await openHouse()
  admin = await house.signUp('admin')
})
afterAll(() => house.close())

const v1 = '/api/v1'
const list = `${v1}/auth/admin/users`
const call: House['call'] = (...args) => house.call(...args)
const asAdmin = (method: string, path: string, body?: unknown) =>
  call(method, path, { token: admin.token, ...(body === undefined ? {} : { body }) })
const said = ({ status, body }: { status: number; body?: { code?: string } }) =>
  `${status} ${body?.code ?? 'done'}`
const me = (token: string) => call('GET', `${v1}/auth/me`, { token })
const login = (email: string, password: string) =>
  call('POST', `${v1}/auth/login`, { body: { email, password } })
const deeds = async (target: string) => {
  const sql =
    'SELECT actor, action, reason, detail FROM audit_log WHERE target = $1 ORDER BY audit_id'
  return (await house.database.query(sql, [`account:${target}`])).rows
}

describe('an administrator', () => {
  const wanted = { name: 'Vera', email: 'vera@example.com', password: 'correct horse' }

  test('makes an account of any role, on record', async () => {
    const made = await asAdmin('POST', list, { ...wanted, role: 'viewer', reason: 'for the night' })
    expect(said(made)).toBe('201 done')
    expect(made.body).toMatchObject({ name: 'Vera', role: 'viewer', is_active: true })
    expect((await login(wanted.email, wanted.password)).status).toBe(200)
    const [deed] = await deeds(made.body.user_id)
    expect(deed).toMatchObject({
      ...{ actor: `user:${admin.user_id}`, action: 'accounts.create', reason: 'for the night' },
      detail: { before: null, after: { email: wanted.email, role: 'viewer' } },
    })
    expect(deed.detail.request_id).toBe(made.headers.get('x-request-id'))
    expect(JSON.stringify(deed)).not.toMatch(/horse|argon2/)
    expect(said(await asAdmin('POST', list, { ...wanted, email: 'VERA@example.com' }))).toBe(
      '400 email-taken',
    )
  })

  test('lists accounts by pages that neither repeat nor skip one, and by role and state', async () => {
    for (let k = 0; k < 5; k++) await house.signUp()
    const seen: string[] = []
    let after = ''
    do {
      const { body } = await asAdmin('GET', `${list}?limit=2${after && `&starting_after=${after}`}`)
      seen.push(...body.data.map((user: { user_id: string }) => user.user_id))
      after = body.next_cursor ?? ''
    } while (after)
    const { rows } = await house.database.query('SELECT count(*)::int AS n FROM users')
    expect(new Set(seen).size).toBe(rows[0].n)
    expect(seen).toHaveLength(rows[0].n)
    const admins = await asAdmin('GET', `${list}?role=admin&is_active=True`)
    expect(admins.body.data).toHaveLength(1)
    expect((await asAdmin('GET', `${list}?is_active=0`)).body.data).toEqual([])
    const unknown = '00000000-0000-4000-8000-000000000000'
    expect(said(await asAdmin('GET', `${list}?starting_after=${unknown}`))).toBe(
      '422 invalid-cursor',
    )
  })

  test('changes what is named, leaves the rest, and keeps both in the log', async () => {
    const user = await house.signUp()
    const path = `${list}/${user.user_id}`
    const changed = await asAdmin('PATCH', path, { name: 'Other', password: 'battery staple' })
    expect(changed.body).toMatchObject({ name: 'Other', email: user.email, role: 'user' })
    expect((await login(user.email, 'battery staple')).status).toBe(200)
    expect((await login(user.email, 'password')).status).toBe(401)
    const [deed] = await deeds(user.user_id)
    expect(deed.detail).toMatchObject({ before: { name: 'Someone' }, after: { name: 'Other' } })
    expect(deed.detail.after.password).toBe('changed')
    expect(JSON.stringify(deed)).not.toMatch(/staple|argon2/)
    expect(said(await asAdmin('PATCH', path, { email: admin.email }))).toBe('400 email-taken')
    expect((await asAdmin('GET', path)).body.email).toBe(user.email)
    expect(await deeds(user.user_id)).toHaveLength(1)
  })

  test('keeps a password that was set while its owner, or a thief, was changing the old one', async () => {
    const user = await house.signUp()
    const { database } = house
    const other = await database.connect()
    await other.query('BEGIN')
    await other.query('SELECT FROM users WHERE user_id = $1 FOR UPDATE', [user.user_id])
    const passwords = { current: 'password', next: 'of the thief' }
    const by = { actor: `user:${user.user_id}`, request_id: 'r' }
    const changing = replacePassword({ database }, user.user_id, passwords, by)
    await sleep(500)
    const set = "UPDATE users SET password_hash = 'reset' WHERE user_id = $1"
    await other.query(set, [user.user_id])
    await other.query('COMMIT')
    other.release()
    expect(await changing).toMatchObject({ problem: 'wrong-password' })
    expect(await deeds(user.user_id)).toEqual([])
    const kept = 'SELECT password_hash FROM users WHERE user_id = $1'
    expect((await database.query(kept, [user.user_id])).rows).toEqual([{ password_hash: 'reset' }])
  })

  test('has a deactivated account refused at once, and let in again', async () => {
    const user = await house.signUp()
    expect((await me(user.token)).status).toBe(200)
    const path = `${list}/${user.user_id}`
    expect((await asAdmin('PATCH', path, { is_active: false })).status).toBe(200)
    expect(said(await me(user.token))).toBe('403 account-inactive')
    expect(said(await login(user.email, 'password'))).toBe('403 account-inactive')
    expect((await asAdmin('PATCH', path, { is_active: true })).status).toBe(200)
    // Its tokens are over, for good.
    expect((await me(user.token)).status).toBe(401)
    expect((await login(user.email, 'password')).status).toBe(200)
  })

  test('removes an account: its token is nobody’s from then on', async () => {
    const user = await house.signUp()
    expect((await me(user.token)).status).toBe(200)
    const path = `${list}/${user.user_id}`
    expect((await asAdmin('DELETE', `${path}?reason=asked`)).status).toBe(204)
    expect(said(await me(user.token))).toBe('401 unauthenticated')
    expect(said(await asAdmin('GET', path))).toBe('404 user-not-found')
    expect(said(await asAdmin('DELETE', path))).toBe('404 user-not-found')
    const [deed] = await deeds(user.user_id)
    expect(deed).toMatchObject({ action: 'accounts.delete', reason: 'asked' })
    expect(deed.detail).toMatchObject({ before: { email: user.email }, after: null })
  })

  test.each([
    ['demotes', 'PATCH', { role: 'user' }],
    ['deactivates', 'PATCH', { is_active: false }],
    ['deletes', 'DELETE', undefined],
  ])('never %s the own account', async (_, method, body) => {
    const before = (await deeds(admin.user_id)).length
    const path = `${list}/${admin.user_id}`
    expect(said(await asAdmin(method, path, body))).toBe('400 own-account')
    expect((await me(admin.token)).body).toMatchObject({ role: 'admin', is_active: true })
    expect(await deeds(admin.user_id)).toHaveLength(before)
  })

  test('is left where two demote, deactivate or delete each other at once', async () => {
    // The first is looked for by its token alone.
    const ways = [
      ['PATCH', { role: 'user' }],
      ['PATCH', { is_active: false }],
      ['DELETE', undefined],
    ] as const
    for (const [method, body] of ways) {
      await house.database.query("UPDATE users SET role = 'user' WHERE role = 'admin'")
      const pair = [await house.signUp('admin'), await house.signUp('admin')]
      const ended = await Promise.all(
        pair.map(({ token }, i) =>
          call(method, `${list}/${pair[1 - i]!.user_id}`, { token, ...(body ? { body } : {}) }),
        ),
      )
      const answers = ended.map(said).sort()
      expect(answers[0]).toMatch(/^20[04] done$/)
      // Or the other one was asked for once it was an administrator no more.
      expect(answers[1]).toMatch(/^(409 last-admin|403 forbidden|403 account-inactive|401 .*)$/)
      const { rows } = await house.database.query(
        "SELECT user_id FROM users WHERE role = 'admin' AND is_active",
      )
      expect(rows).toHaveLength(1)
    }
    await house.database.query("UPDATE users SET role = 'admin' WHERE user_id = $1", [
      admin.user_id,
    ])
    await house.database.query(
      "UPDATE users SET role = 'user' WHERE role = 'admin' AND user_id <> $1",
      [admin.user_id],
    )
  })

  test('who is the last one stays so, however it is asked for', async () => {
    const by = { actor: 'user:somebody-demoted-meanwhile', request_id: 'r' }
    const { user_id } = admin
    const { database } = house
    for (const change of [{ role: 'operator' } as const, { is_active: false }])
      expect(await changeAccount({ database }, user_id, change, by)).toMatchObject({
        problem: 'last-admin',
      })
    expect(await deleteAccount({ database }, user_id, by)).toMatchObject({ problem: 'last-admin' })
    expect((await me(admin.token)).body).toMatchObject({ role: 'admin', is_active: true })
    // One who is inactive helps nobody; one who is active does.
    const other = await house.signUp('admin')
    const active = (is_active: boolean) =>
      changeAccount({ database }, other.user_id, { is_active }, by)
    await active(false)
    const demote = () => changeAccount({ database }, user_id, { role: 'user' }, by)
    expect(await demote()).toMatchObject({ problem: 'last-admin' })
    await active(true)
    expect(await demote()).toMatchObject({ role: 'user' })
    await changeAccount({ database }, user_id, { role: 'admin' }, by)
    await deleteAccount({ database }, other.user_id, by)
  })

  test('may change the own name, and say again which role it has', async () => {
    const own = await asAdmin('PATCH', `${list}/${admin.user_id}`, { name: 'Root', role: 'admin' })
    expect(own.body).toMatchObject({ name: 'Root', role: 'admin' })
  })
})

describe('a user', () => {
  test('changes the own name and e-mail, by either path', async () => {
    const user = await house.signUp()
    const as = { token: user.token }
    const put = await call('PUT', `${v1}/auth/me`, { ...as, body: { name: 'New' } })
    expect(put.body).toMatchObject({ name: 'New', email: user.email })
    const email = `new-${user.email}`
    const patched = await call('PATCH', `${v1}/users/me`, { ...as, body: { email } })
    expect(patched.body).toMatchObject({ name: 'New', email })
    expect((await login(email, 'password')).status).toBe(200)
    const taken = await call('PUT', `${v1}/auth/me`, { ...as, body: { email: admin.email } })
    expect(said(taken)).toBe('400 email-taken')
    const role = await call('PUT', `${v1}/auth/me`, { ...as, body: { role: 'admin' } })
    expect(role.body.errors).toEqual([{ path: 'role', message: 'is not known here' }])
  })

  test('changes nobody else, and learns no more than a name of others', async () => {
    const [user, other] = [await house.signUp(), await house.signUp()]
    const as = { token: user.token }
    const path = `${v1}/users/${other.user_id}`
    expect(said(await call('PATCH', path, { ...as, body: { name: 'x' } }))).toBe('403 forbidden')
    const seen = await call('GET', path, as)
    expect(seen.body).toEqual({ user_id: other.user_id, name: 'Someone' })
    expect((await call('GET', `${v1}/users/me`, as)).body.email).toBe(user.email)
    expect((await asAdmin('GET', path)).body.email).toBe(other.email)
    for (const id of ['00000000-0000-4000-8000-000000000000', 'customer-7'])
      expect(said(await call('GET', `${v1}/users/${id}`, as))).toBe('404 user-not-found')
  })

  test('may name the present password as old_password', async () => {
    const user = await house.signUp()
    const change = (body: object) =>
      call('POST', `${v1}/auth/change-password`, { token: user.token, body })
    const wrong = await change({ old_password: 'wrong', new_password: 'battery staple' })
    expect(said(wrong)).toBe('400 wrong-password')
    expect(
      (await change({ old_password: 'password', new_password: 'battery staple' })).status,
    ).toBe(200)
    expect((await login(user.email, 'battery staple')).status).toBe(200)
    expect(await deeds(user.user_id)).toMatchObject([
      { action: 'accounts.password', actor: `user:${user.user_id}` },
    ])
  })
})

describe('POST /users', () => {
  const user_id = '11111111-1111-4111-8111-111111111111'

  test('makes an account under an id of the caller’s, that nobody can sign in with yet', async () => {
    const made = await asAdmin('POST', `${v1}/users`, { user_id, name: 'Ada', email: 'ada@x.org' })
    expect(made.status).toBe(201)
    expect(made.body).toMatchObject({ user_id, name: 'Ada', role: 'user' })
    expect(said(await login('ada@x.org', ''))).toBe('401 invalid-credentials')
    const set = { password: 'battery staple' }
    expect((await asAdmin('PATCH', `${list}/${user_id}`, set)).status).toBe(200)
    expect((await login('ada@x.org', set.password)).status).toBe(200)
  })

  test('lets a key choose an id or a password, and an administrator both', async () => {
    const { key, ...stored } = makeApiKey()
    await house.accounts.createApiKey({
      ...{ ...stored, name: 'users', scopes: ['users'], created_by: admin.user_id },
    })
    const asKey = (body: object) =>
      call('POST', `${v1}/users`, { token: key, body: { name: 'C', ...body } })
    const password = 'correct horse'
    // An id that may hold coupons already, and whose account may be gone.
    const chosen = { user_id: '33333333-3333-4333-8333-333333333333', email: 'c@x.org' }
    const both = await asKey({ ...chosen, password })
    expect(said(both)).toBe('403 forbidden')
    expect(both.body.detail).toMatch(/user_id and password/)
    expect(said(await login('c@x.org', password))).toBe('401 invalid-credentials')
    expect(said(await asKey(chosen))).toBe('201 done')
    const fresh = await asKey({ email: 'd@x.org', password })
    expect(said(fresh)).toBe('201 done')
    expect((await login('d@x.org', password)).body.user.user_id).toBe(fresh.body.user_id)
    const wanted = { user_id: '44444444-4444-4444-8444-444444444444', email: 'e@x.org', password }
    expect(said(await asAdmin('POST', `${v1}/users`, { name: 'E', ...wanted }))).toBe('201 done')
  })

  test('refuses an id or an address that is taken', async () => {
    const again = await asAdmin('POST', `${v1}/users`, { user_id, name: 'B', email: 'b@x.org' })
    expect(said(again)).toBe('400 user-exists')
    const taken = await asAdmin('POST', `${v1}/users`, { name: 'B', email: 'ADA@x.org' })
    expect(said(taken)).toBe('400 email-taken')
  })
})
