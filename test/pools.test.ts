import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { openWorld, type World } from './world.ts'

let world: World
let as: string
beforeAll(async () => {
  world = await openWorld({ worker: false })
  as = world.service
})
afterAll(() => world?.close())

const call = (method: string, path: string, body?: unknown, headers = {}) =>
  world.call(method, path, { as, body, headers })
let names = 0
async function makePool(user_ids: string[] = [], more = {}): Promise<string> {
  const made = await call('POST', 'pools', { name: `Pool ${++names}`, user_ids, ...more })
  expect(made.status).toBe(201)
  return made.body.pool_id
}
const idsOf = ({ body }: { body: { users: { user_id: string }[] } }) =>
  body.users.map(({ user_id }) => user_id)

describe('a pool', () => {
  test('is made with its users, shown with their names, and deleted', async () => {
    const { id } = await world.signUp()
    const body = { name: 'VIP', description: 'The best', user_ids: [id, 'opaque', 'opaque'] }
    const made = await call('POST', 'pools/', body)
    expect([made.status, made.body]).toEqual([
      201,
      {
        ...{ pool_id: expect.any(String), name: 'VIP', description: 'The best' },
        ...{ created_by: expect.any(String), is_active: true, user_count: 2 },
        ...{ created_at: expect.any(String), updated_at: null },
      },
    ])
    const path = `pools/${made.body.pool_id}`
    expect(made.headers.get('location')).toBe(`/api/v1/${path}`)
    const { body: shown } = await call('GET', `${path}/`)
    expect(shown).toMatchObject({ ...made.body, has_more: false, next_cursor: null })
    expect(shown.users).toHaveLength(2)
    expect(shown.users).toContainEqual({
      ...{ user_id: id, name: 'Someone', email: null, added_at: expect.any(String) },
    })
    expect(shown.users).toContainEqual({
      ...{ user_id: 'opaque', name: null, email: null, added_at: expect.any(String) },
    })
    expect((await call('DELETE', path)).status).toBe(204)
    for (const method of ['GET', 'DELETE'])
      expect((await call(method, path)).body.code).toBe('pool-not-found')
  })

  test('has a name of its own', async () => {
    await makePool([], { name: 'Unique' })
    const other = await makePool()
    for (const [method, path] of [
      ['POST', 'pools'],
      ['PATCH', `pools/${other}`],
    ] as const) {
      const refused = await call(method, path, { name: 'Unique' })
      expect([refused.status, refused.body.code]).toEqual([409, 'pool-name-taken'])
    }
  })

  test('is changed where it is named, with booleans as clients spell them', async () => {
    const id = await makePool([], { description: 'before' })
    const patch = (body: object) => call('PATCH', `pools/${id}`, body)
    for (const [sent, kept] of [
      ['False', false],
      [1, true],
      [false, false],
      ['true', true],
      [0, false],
      ['True', true],
    ]) {
      const { status, body } = await patch({ is_active: sent })
      expect([status, body.is_active]).toEqual([200, kept])
    }
    expect((await patch({ is_active: 'maybe' })).body.errors[0].path).toBe('is_active')
    const { body } = await patch({ description: null })
    expect(body).toMatchObject({ description: null, is_active: true })
    expect(body.updated_at).not.toBeNull()
    expect((await patch({ colour: 'red' })).status).toBe(422)
  })

  test('is made once under one Idempotency-Key', async () => {
    const wanted = { name: 'Once', user_ids: ['a'] }
    const key = { 'idempotency-key': 'pool' }
    const [first, second] = await Promise.all([
      call('POST', 'pools', wanted, key),
      call('POST', 'pools', wanted, key),
    ])
    expect(second.body).toEqual(first.body)
    const other = await call('POST', 'pools', { name: 'Twice' }, key)
    expect(other.body.code).toBe('idempotency-key-reused')
  })

  test('stands in the list, the newest first, a page at a time', async () => {
    const ids = [await makePool(), await makePool(), await makePool()].reverse()
    const first = await call('GET', 'pools?limit=2')
    expect(first.body.data.map((one: { pool_id: string }) => one.pool_id)).toEqual(ids.slice(0, 2))
    expect(first.body.has_more).toBe(true)
    const next = await call('GET', `pools/?limit=1&starting_after=${first.body.next_cursor}`)
    expect(next.body.data[0].pool_id).toBe(ids[2])
    const gone = '00000000-0000-4000-8000-000000000000'
    expect((await call('GET', `pools?starting_after=${gone}`)).body.code).toBe('invalid-cursor')
  })
})

describe('users of a pool', () => {
  test('are added and removed, one or many, each once', async () => {
    const id = await makePool(['a'])
    const path = `pools/${id}/users`
    expect(idsOf(await call('POST', path, { user_ids: ['b', 'a', 'c', 'b'] }))).toEqual([
      ...['a', 'b', 'c'],
    ])
    const added = await call('POST', `${path}/`, { user_id: 'd' })
    expect([idsOf(added), added.body.user_count]).toEqual([['a', 'b', 'c', 'd'], 4])
    // As older clients do it: a DELETE with a body.
    const removed = await call('DELETE', path, { user_ids: ['a', 'nobody'] })
    expect([idsOf(removed), removed.body.user_count]).toEqual([['b', 'c', 'd'], 3])
    expect(idsOf(await call('DELETE', path, { user_id: 'b' }))).toEqual(['c', 'd'])
    const last = await call('DELETE', `${path}/c`)
    expect([last.status, idsOf(last), last.body.user_count]).toEqual([200, ['d'], 1])
    expect((await call('GET', `pools/${id}`)).body.user_count).toBe(1)
  })

  test('are refused in both forms at once, in none, and one too many', async () => {
    const path = `pools/${await makePool()}/users`
    for (const body of [{}, { user_id: 'a', user_ids: ['a'] }, { user_ids: [] }, { user_id: 'me' }])
      expect((await call('POST', path, body)).status).toBe(422)
    const many = (count: number) => Array.from({ length: count }, (_, u) => `user-${u}`)
    expect((await call('POST', path, { user_ids: many(10_001) })).status).toBe(422)
    const all = await call('POST', path, { user_ids: many(10_000) })
    expect([all.status, all.body.user_count, all.body.users.length]).toEqual([200, 10_000, 100])
    const gone = 'pools/00000000-0000-4000-8000-000000000000/users'
    expect((await call('POST', gone, { user_id: 'a' })).body.code).toBe('pool-not-found')
  })

  test('are listed a page at a time, whatever they are called', async () => {
    const users = ['Zoë', 'a b', '__proto__', '用户', '100%', 'a/b?c'].sort((a, b) =>
      Buffer.compare(Buffer.from(a), Buffer.from(b)),
    )
    const path = `pools/${await makePool(users)}`
    const seen: string[] = []
    for (let after = ''; ; ) {
      const page = await call('GET', `${path}?limit=2${after}`)
      seen.push(...idsOf(page))
      if (!page.body.has_more) break
      after = `&starting_after=${page.body.next_cursor}`
    }
    expect(seen).toEqual(users)
    // U+0000, bytes that are no UTF-8, and what is no base64url.
    for (const wrong of ['AA', '_w', 'TAC%22,(rG']) {
      const { status, body } = await call('GET', `${path}?starting_after=${wrong}`)
      expect([status, body.code]).toEqual([422, 'invalid-cursor'])
    }
    for (const user of users) {
      const left = await call('DELETE', `${path}/users/${encodeURIComponent(user)}`)
      expect(idsOf(left)).not.toContain(user)
    }
  })

  test('are no more than a million', async () => {
    const id = await makePool(['one'])
    await world.database.query('UPDATE pools SET user_count = 999999 WHERE pool_id = $1', [id])
    const full = await call('POST', `pools/${id}/users`, { user_ids: ['two', 'three'] })
    expect([full.status, full.body.code, full.body.limit]).toEqual([409, 'pool-full', 1_000_000])
    expect((await call('GET', `pools/${id}`)).body.users).toHaveLength(1)
    expect((await call('POST', `pools/${id}/users`, { user_id: 'two' })).status).toBe(200)
  })

  test('are counted right when many are added and removed at once', async () => {
    const id = await makePool()
    const some = (n: number) =>
      Array.from({ length: 50 }, (_, u) => `user-${(n * 31 + u * 7) % 90}`)
    await Promise.all(
      Array.from({ length: 20 }, (_, n) =>
        call(n % 3 === 2 ? 'DELETE' : 'POST', `pools/${id}/users`, { user_ids: some(n) }),
      ),
    )
    const { body } = await call('GET', `pools/${id}?limit=1000`)
    expect(body.users).toHaveLength(body.user_count)
  })
})

describe('e-mails of users', () => {
  test('are for administrators: a key that puts an account into a pool does not learn its own', async () => {
    const { id } = await world.signUp()
    const pool = await makePool()
    const added = await call('POST', `pools/${pool}/users`, { user_id: id })
    const left = await call('DELETE', `pools/${pool}/users/nobody`)
    for (const { body } of [added, left, await call('GET', `pools/${pool}`)])
      expect(body.users).toMatchObject([{ user_id: id, name: 'Someone', email: null }])
    const seen = await world.call('GET', `pools/${pool}`, { as: world.admin })
    expect(seen.body.users[0].email).toMatch(/@example\.com$/)
  })
})

describe('an account that is removed', () => {
  const remove = (id: string) => world.call('DELETE', `auth/admin/users/${id}`, { as: world.admin })

  test('leaves its pools, on record, and nothing is distributed to it any more', async () => {
    const { id } = await world.signUp()
    const pools = [await makePool([id, 'other']), await makePool([id])].sort()
    await makePool(['other'])
    expect((await remove(id)).status).toBe(204)
    for (const pool of pools) {
      const { body } = await call('GET', `pools/${pool}`)
      expect(idsOf({ body })).not.toContain(id)
      expect(body.user_count).toBe(body.users.length)
    }
    const { rows } = await world.database.query(
      "SELECT detail FROM audit_log WHERE action = 'accounts.delete' AND target = $1",
      [`account:${id}`],
    )
    expect(rows[0].detail.before.pools).toEqual(pools)
  })

  test('does so while others change the same pools', async () => {
    const people = await Promise.all(Array.from({ length: 6 }, () => world.signUp()))
    const ids = people.map(({ id }) => id)
    const pools = await Promise.all([0, 1, 2].map(() => makePool(ids)))
    const changes = pools.flatMap((pool) => [
      call('DELETE', `pools/${pool}/users`, { user_ids: ids.slice(0, 3) }),
      call('POST', `pools/${pool}/users`, { user_ids: ['a', 'b'] }),
    ])
    const all = await Promise.all([...ids.map(remove), ...changes])
    expect(all.filter(({ status }) => status >= 300)).toEqual([])
    for (const pool of pools)
      expect((await call('GET', `pools/${pool}`)).body).toMatchObject({
        ...{ user_count: 2, users: [{ user_id: 'a' }, { user_id: 'b' }] },
      })
  })
})

test('what is done to pools stands in the audit log: who, on which request, before and after', async () => {
  const many = Array.from({ length: 150 }, (_, u) => `user-${1_000 + u}`)
  const made = await call('POST', 'pools', { name: 'Told', user_ids: ['a'] })
  const path = `pools/${made.body.pool_id}`
  const replies = [
    made,
    await call('PATCH', path, { name: 'Retold' }),
    await call('POST', `${path}/users`, { user_ids: ['a', 'b'] }),
    await call('POST', `${path}/users`, { user_ids: many }),
    await call('DELETE', `${path}/users/b`),
    await call('DELETE', path),
  ]
  const { rows } = await world.database.query(
    'SELECT actor, action, detail FROM audit_log WHERE target = $1 ORDER BY audit_id',
    [`pool:${made.body.pool_id}`],
  )
  expect(rows).toMatchObject([
    {
      action: 'pools.create',
      detail: { before: null, after: { name: 'Told', user_count: 1 } },
    },
    { action: 'pools.update', detail: { before: { name: 'Told' }, after: { name: 'Retold' } } },
    {
      action: 'pools.add-users',
      detail: { before: { user_count: 1 }, after: { user_count: 2 } },
    },
    { action: 'pools.add-users', detail: { after: { user_count: 152 } } },
    { action: 'pools.remove-users', detail: { after: { user_count: 151 } } },
    { action: 'pools.delete', detail: { before: { user_count: 151 }, after: null } },
  ])
  const told = rows.map(({ detail }) => detail.added ?? detail.removed)
  // Those alone who came or went; of many the first hundred, and how many they were.
  expect(told.slice(0, 3)).toEqual([
    { count: 1, user_ids: ['a'] },
    undefined,
    { count: 1, user_ids: ['b'] },
  ])
  expect(told[3]).toEqual({ count: 150, user_ids: many.slice(0, 100) })
  expect(rows[4].detail.removed).toEqual({ count: 1, user_ids: ['b'] })
  for (const [i, { actor, detail }] of rows.entries()) {
    expect(actor).toMatch(/^key:/)
    expect(detail.request_id).toBe(replies[i]!.headers.get('x-request-id'))
  }
})
