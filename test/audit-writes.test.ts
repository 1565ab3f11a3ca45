import { randomUUID } from 'node:crypto'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { openWorld, type Reply, type World } from './world.ts'

/** Every write of an administrator or a service: coupons have the ledger, all else the audit log. */
let world: World
beforeAll(async () => {
  world = await openWorld()
})
afterAll(() => world.close())

type Deed = {
  actor: string
  action: string
  target: string
  // biome-ignore lint/suspicious/noExplicitAny: each deed has its own
  detail: any
}
const deedOf = async (requestId: string): Promise<Deed[]> => {
  const { rows } = await world.database.query(
    `SELECT actor, action, target, detail FROM audit_log WHERE detail->>'request_id' = $1`,
    [requestId],
  )
  return rows
}
const ask = async (method: string, path: string, body?: unknown, as = world.admin) => {
  const reply = await world.call(method, path, { as, ...(body === undefined ? {} : { body }) })
  expect(reply.status, JSON.stringify(reply.body)).toBeLessThan(300)
  return { reply, deeds: await deedOf(reply.headers.get('x-request-id')!) }
}

test('audit  of a book says what it was before and is after, by whom and on which request', async () => {
  const made = await ask('POST', 'books', { name: 'Before', owner_id: 'o' })
  const { book_id } = made.reply.body
  const actor = `user:${world.adminId}`
  const target = `book:${book_id}`
  expect(made.deeds).toMatchObject([
    { actor, target, action: 'books.create', detail: { before: null, after: { name: 'Before' } } },
  ])
  const changed = await ask('PATCH', `books/${book_id}`, { name: 'After' })
  expect(changed.deeds).toMatchObject([
    { action: 'books.update', detail: { before: { name: 'Before' }, after: { name: 'After' } } },
  ])
  const { detail } = (await ask('DELETE', `books/${book_id}`)).deeds[0]!
  expect(detail.before.archived_at).toBe(null)
  expect(detail.after.archived_at).not.toBe(null)
  expect(detail.after.version).toBe(detail.before.version + 1)
})

test('audit  of codes says how many were asked for, and of units how many there are', async () => {
  const book = await world.makeBook()
  const many = await ask('POST', `books/${book}/codes/generate`, { count: 7 }, world.service)
  expect(many.deeds).toMatchObject([
    { action: 'codes.generate', target: `book:${book}`, detail: { after: { total: 7 } } },
  ])
  expect(many.deeds[0]!.actor).toMatch(/^key:/)
  const later = await ask('POST', `books/${book}/codes/generate`, { count: 11_000 })
  expect(later.deeds[0]!.detail.after).toMatchObject({ job_id: later.reply.body.job_id })
  const list = await ask('POST', `books/${book}/codes/upload`, { codes: ['AUDIT-1', 'AUDIT-2'] })
  expect(list.deeds).toMatchObject([{ action: 'codes.upload', detail: { after: { total: 2 } } }])
  expect(JSON.stringify(list.deeds)).not.toContain('AUDIT-1')
  const counter = await world.makeBook({ kind: 'counter', units: 5 })
  const more = await ask('POST', `books/${counter}/units`, { count: 3 })
  expect(more.deeds).toMatchObject([
    {
      action: 'books.units',
      detail: { before: { total_code_count: 5 }, after: { total_code_count: 8 } },
    },
  ])
})

test('audit  of a key says what it may, and never the key', async () => {
  const made = await ask('POST', 'api-keys', { name: 'shop', scopes: ['read'], reason: 'a shop' })
  const { key, key_id } = made.reply.body
  expect(made.deeds).toMatchObject([
    { action: 'keys.create', detail: { before: null, after: { name: 'shop', scopes: ['read'] } } },
  ])
  const gone = await ask('DELETE', `api-keys/${key_id}`)
  expect(gone.deeds).toMatchObject([
    { action: 'keys.revoke', detail: { before: { revoked_at: null }, after: { key_id } } },
  ])
  expect(gone.deeds[0]!.detail.after.revoked_at).not.toBe(null)
  const { rows } = await world.database.query(
    'SELECT secret_hash FROM api_keys WHERE key_id = $1',
    [key_id],
  )
  const told = JSON.stringify([...made.deeds, ...gone.deeds])
  for (const secret of [key.slice(20), rows[0].secret_hash]) expect(told).not.toContain(secret)
})

test('audit  of what operators do names their request, in a job’s deeds too', async () => {
  const paused = await ask('POST', 'ops/flush', { state: 'running', reason: 'a test' })
  expect(paused.deeds).toMatchObject([
    { action: 'resume', detail: { before: 'running', now: 'running' } },
  ])
  const job = await ask('POST', 'ops/reconcile', { reason: 'a test' })
  expect(job.deeds).toMatchObject([{ action: 'reconcile.request' }])
  const code = (await ask('POST', 'coupons/assign', { book_id: await world.makeBook({}, 1) })).reply
    .body.coupons[0].code
  const released = await ask('POST', `ops/coupons/${code}/release`, { reason: 'a test' })
  expect(released.deeds.map(({ action }) => action)).toEqual([
    'coupon.release.request',
    'coupon.release',
  ])
})

test('audit  of a coupon’s verb by an administrator is the ledger: who, which request, before and after', async () => {
  const book = await world.makeBook({}, 1)
  const got = await ask('POST', 'coupons/assign', { book_id: book, user_id: 'someone' })
  const { code } = got.reply.body.coupons[0]
  const { reply } = await ask('POST', `coupons/release/${code}`)
  await world.level()
  const { rows } = await world.database.query(
    `SELECT kind, user_id, version, context->>'actor' AS actor, context->>'request_id' AS request
     FROM ledger WHERE code = $1 ORDER BY version`,
    [code],
  )
  expect(rows).toMatchObject([
    { kind: 'assign', user_id: 'someone' },
    { kind: 'release', actor: `user:${world.adminId}` },
  ])
  expect(rows[1].request).toBe(reply.headers.get('x-request-id'))
})

/**
 * Where a write stands afterwards: `change`, in the audit log with what was there before and after;
 * `operator`, there with the operator's reason; `ledger`; or, in words, why nowhere or what else says so.
 */
type Row = ['change' | 'operator' | 'ledger', () => Promise<Reply>] | string

const call = (method: string, path: string, body?: unknown) =>
  world.call(method, path, { as: world.admin, body })
const post = (path: string, body: unknown = {}) => call('POST', path, body)
const reason = { reason: 'a test' }
let names = 0
const person = () => ({ name: 'x', email: `audited-${++names}@example.com` })
const password = 'correct horse'
const account = async () => (await world.signUp()).id
const book = async (count = 0) => world.makeBook({}, count)
const counter = () => world.makeBook({ kind: 'counter', units: 1 })
const wanted = { name: 'A book', owner_id: 'o' }
const codes = () => [`AUDITED-${++names}`]
const pool = async () => {
  const made = await post('pools', { name: `Audited ${++names}`, user_ids: ['a', 'b'] })
  return made.body.pool_id as string
}
const coupon = async () => {
  const body = { book_id: await book(1), user_id: 'somebody' }
  return (await post('coupons/assign', body)).body.coupons[0].code as string
}
const redemption = async () => {
  const used = await post(`coupons/redeem/${await coupon()}`, { user_id: 'somebody' })
  return used.body.redemption_id as string
}
/** A job that no worker takes up. */
const failed = async (kind = 'generate', input: object = {}) => {
  const id = randomUUID()
  await world.database.query(
    `INSERT INTO jobs (job_id, kind, state, input, created_by, finished_at)
     VALUES ($1, $2, 'failed', $3, 'a test', now())`,
    [id, kind, input],
  )
  return id
}
const inStock = async () => {
  const [code] = codes()
  await world.makeBook({}, [code!])
  return code!
}
const user = { user_id: 'somebody' }
const discard = async () => {
  await world.database.query(
    `INSERT INTO parked_facts (shard, epoch, n, i, reason, fact) VALUES (0, 9, 9, 0, 'a test', $1)`,
    [{ kind: 'assign', book: await book(), epoch: 9, n: 9, fact: { i: 0 } }],
  )
  return post('ops/parked/discard', { ...reason, fact: '0/9-9/0' })
}

const rows: Record<string, Row> = {
  'POST /api/v1/auth/register': 'nobody in office: whoever makes an account of their own',
  'POST /api/v1/auth/login': 'it changes nothing',
  'POST /api/v1/auth/change-password': 'test/accounts.test.ts: whoever does it is signed out by it',
  'PUT /api/v1/auth/me': ['change', () => call('PUT', 'auth/me', { name: 'Me' })],
  'POST /api/v1/auth/admin/users': [
    'change',
    () => post('auth/admin/users', { ...person(), password }),
  ],
  'PATCH /api/v1/auth/admin/users/{user_id}': [
    'change',
    async () => call('PATCH', `auth/admin/users/${await account()}`, { is_active: false }),
  ],
  'DELETE /api/v1/auth/admin/users/{user_id}': [
    'change',
    async () => call('DELETE', `auth/admin/users/${await account()}`),
  ],
  'POST /api/v1/users': ['change', () => post('users', person())],
  'PATCH /api/v1/users/{user_id}': [
    'change',
    async () => call('PATCH', `users/${await account()}`, { name: 'Other' }),
  ],
  'POST /api/v1/api-keys': ['change', () => post('api-keys', { name: 'x' })],
  'DELETE /api/v1/api-keys/{key_id}': [
    'change',
    async () => {
      const { body } = await post('api-keys', { name: 'x' })
      return call('DELETE', `api-keys/${body.key_id}`)
    },
  ],
  'POST /api/v1/books': ['change', () => post('books', wanted)],
  'POST /api/v1/coupons': ['change', () => post('coupons', wanted)],
  'PATCH /api/v1/books/{book_id}': [
    'change',
    async () => call('PATCH', `books/${await book()}`, { name: 'Other' }),
  ],
  'DELETE /api/v1/books/{book_id}': ['change', async () => call('DELETE', `books/${await book()}`)],
  'POST /api/v1/books/{book_id}/codes/generate': [
    'change',
    async () => post(`books/${await book()}/codes/generate`, { count: 2 }),
  ],
  'POST /api/v1/books/{book_id}/codes/upload': [
    'change',
    async () => post(`books/${await book()}/codes/upload`, { codes: codes() }),
  ],
  'POST /api/v1/books/{book_id}/codes': [
    'change',
    async () => post(`books/${await book()}/codes`, { codes: codes() }),
  ],
  'POST /api/v1/coupons/codes': [
    'change',
    async () => post('coupons/codes', { book_id: await book(), count: 2 }),
  ],
  'POST /api/v1/books/{book_id}/units': [
    'change',
    async () => post(`books/${await counter()}/units`, { count: 2 }),
  ],
  'POST /api/v1/books/{book_id}/imports': [
    'change',
    async () => {
      const { status, headers } = await fetch(
        `${world.base}/api/v1/books/${await book()}/imports`,
        {
          method: 'POST',
          headers: { authorization: `Bearer ${world.admin}`, 'content-type': 'text/csv' },
          body: `code\n${codes()}\n`,
        },
      )
      return { status, headers, body: undefined }
    },
  ],
  'POST /api/v1/pools': ['change', () => post('pools', { name: `Audited ${++names}` })],
  'PATCH /api/v1/pools/{pool_id}': [
    'change',
    async () => call('PATCH', `pools/${await pool()}`, { description: 'x' }),
  ],
  'DELETE /api/v1/pools/{pool_id}': ['change', async () => call('DELETE', `pools/${await pool()}`)],
  'POST /api/v1/pools/{pool_id}/users': [
    'change',
    async () => post(`pools/${await pool()}/users`, { user_id: 'c' }),
  ],
  'DELETE /api/v1/pools/{pool_id}/users': [
    'change',
    async () => call('DELETE', `pools/${await pool()}/users`, { user_ids: ['a'] }),
  ],
  'DELETE /api/v1/pools/{pool_id}/users/{user_id}': [
    'change',
    async () => call('DELETE', `pools/${await pool()}/users/a`),
  ],
  'POST /api/v1/pools/{pool_id}/distribute': [
    'change',
    async () => post(`pools/${await pool()}/distribute`, { book_id: await book(2), count: 2 }),
  ],
  'POST /api/v1/pools/bulk-assign': [
    'change',
    async () => post('pools/bulk-assign', { book_id: await book(2), pool_id: await pool() }),
  ],
  'POST /api/v1/distributions/{job_id}/cancel': [
    'change',
    async () => post(`distributions/${await failed('distribute')}/cancel`),
  ],
  'POST /api/v1/jobs/{job_id}/cancel': [
    'change',
    async () => post(`jobs/${await failed()}/cancel`),
  ],
  'DELETE /api/v1/jobs/{job_id}': ['change', async () => call('DELETE', `jobs/${await failed()}`)],

  'POST /api/v1/coupons/assign': [
    'ledger',
    async () => post('coupons/assign', { ...user, book_id: await book(1) }),
  ],
  'POST /api/v1/coupons/assign/random': [
    'ledger',
    async () => post('coupons/assign/random', { ...user, book_id: await book(1) }),
  ],
  'POST /api/v1/coupons/assign:batch': [
    'ledger',
    async () => post('coupons/assign:batch', { items: [{ ...user, book_id: await book(1) }] }),
  ],
  'POST /api/v1/coupons/assign/{code}': [
    'ledger',
    async () => post(`coupons/assign/${await inStock()}`, user),
  ],
  'POST /api/v1/coupons/lock/{code}': [
    'ledger',
    async () => post(`coupons/lock/${await coupon()}`, user),
  ],
  'POST /api/v1/coupons/unlock/{code}': [
    'ledger',
    async () => {
      const code = await coupon()
      await post(`coupons/lock/${code}`, user)
      return post(`coupons/unlock/${code}`, user)
    },
  ],
  'POST /api/v1/coupons/redeem/{code}': [
    'ledger',
    async () => post(`coupons/redeem/${await coupon()}`, user),
  ],
  'POST /api/v1/coupons/release/{code}': [
    'ledger',
    async () => post(`coupons/release/${await coupon()}`),
  ],
  'POST /api/v1/coupons/void/{code}': [
    'ledger',
    async () => post(`coupons/void/${await coupon()}`),
  ],
  'POST /api/v1/redemptions/{redemption_id}/rollback': [
    'ledger',
    async () => post(`redemptions/${await redemption()}/rollback`),
  ],

  'POST /api/v1/ops/certificates/verify': 'it changes nothing',
  'POST /api/v1/ops/intake': ['operator', () => post('ops/intake', { ...reason, state: 'open' })],
  'POST /api/v1/ops/flush': ['operator', () => post('ops/flush', { ...reason, state: 'running' })],
  'POST /api/v1/ops/reconcile': ['change', () => post('ops/reconcile', reason)],
  'POST /api/v1/ops/replay': ['change', () => post('ops/replay', reason)],
  'POST /api/v1/ops/drain': 'as reconcile, whose request is the same function’s; it stops intake',
  'POST /api/v1/ops/rebuild': 'as reconcile, whose request is the same function’s; it shuts gates',
  'POST /api/v1/ops/accept-loss': 'test/accept-loss.test.ts: there is no loss to accept here',
  'POST /api/v1/ops/parked/retry': 'as discard, by the same words; no fact here would fit',
  'POST /api/v1/ops/parked/discard': ['operator', discard],
  'POST /api/v1/ops/queues/retry': ['operator', () => post('ops/queues/retry', reason)],
  'POST /api/v1/ops/queues/clean': ['operator', () => post('ops/queues/clean', reason)],
  'POST /api/v1/ops/books/{book_id}/warm': [
    'change',
    async () => post(`ops/books/${await book()}/warm`, reason),
  ],
  'POST /api/v1/ops/books/{book_id}/open': [
    'operator',
    async () => post(`ops/books/${await book()}/open`, reason),
  ],
  'POST /api/v1/ops/books/{book_id}/pause': [
    'operator',
    async () => post(`ops/books/${await book()}/pause`, reason),
  ],
  'POST /api/v1/ops/books/{book_id}/close': [
    'change',
    async () => post(`ops/books/${await book()}/close`, reason),
  ],
  'POST /api/v1/ops/books/{book_id}/archive': [
    'change',
    async () => post(`ops/books/${await book()}/archive`, reason),
  ],
  'POST /api/v1/ops/coupons/{code}/release': [
    'operator',
    async () => post(`ops/coupons/${await coupon()}/release`, reason),
  ],
  'POST /api/v1/ops/coupons/{code}/void': [
    'operator',
    async () => post(`ops/coupons/${await coupon()}/void`, reason),
  ],
  'POST /api/v1/ops/redemptions/{redemption_id}/rollback': [
    'operator',
    async () => post(`ops/redemptions/${await redemption()}/rollback`, reason),
  ],
  'POST /api/v1/ops/jobs/{job_id}/cancel': [
    'change',
    async () => post(`ops/jobs/${await failed('reconcile')}/cancel`, reason),
  ],
  'POST /api/v1/ops/jobs/{job_id}/retry': [
    'change',
    async () => {
      const by = { actor: 'a test', ...reason }
      const input = { kind: 'reconcile', exact: false, by }
      return post(`ops/jobs/${await failed('reconcile', input)}/retry`, reason)
    },
  ],
}

test('audit  has a row for every route that writes, and no other', async () => {
  const { body } = await world.call('GET', '/openapi.json')
  const writes = Object.entries(body.paths as Record<string, object>).flatMap(([path, methods]) =>
    Object.keys(methods)
      .filter((method) => method !== 'get')
      .map((method) => `${method.toUpperCase()} ${path}`),
  )
  expect(Object.keys(rows).sort()).toEqual(writes.sort())
})

const recorded = Object.entries(rows).filter((row): row is [string, Exclude<Row, string>] =>
  Array.isArray(row[1]),
)
test.each(recorded)('audit  %s says who did it, on which request', async (_, [where, ask]) => {
  const { status, headers, body } = await ask()
  expect(status, JSON.stringify(body)).toBeLessThan(300)
  const request = headers.get('x-request-id')!
  const actor = `user:${world.adminId}`
  if (where === 'ledger') {
    await world.level()
    const { rows: facts } = await world.database.query(
      "SELECT context->>'actor' AS actor FROM ledger WHERE context->>'request_id' IN ($1, $2)",
      // Items of a batch have a number each.
      [request, `${request}.0`],
    )
    return expect(facts).toEqual([{ actor }])
  }
  const { rows: deeds } = await world.database.query(
    "SELECT actor, target, reason, detail FROM audit_log WHERE detail->>'request_id' = $1",
    [request],
  )
  expect(deeds.length).toBeGreaterThan(0)
  for (const deed of deeds) {
    expect(deed).toMatchObject({ actor, target: expect.stringMatching(/./) })
    if (where === 'operator') expect(deed.reason).toBe(reason.reason)
    else expect(Object.keys(deed.detail)).toEqual(expect.arrayContaining(['before', 'after']))
    if (where === 'change') expect(deed.detail.before).not.toEqual(deed.detail.after)
  }
})

test('audit  shows whoever is no administrator no e-mail address of others, and no code to take', async () => {
  const made = await post('users', person())
  const { email, user_id: id } = made.body
  const freed = await coupon()
  expect((await post(`ops/coupons/${freed}/release`, reason)).status).toBe(200)
  const seen = async (as: string) => {
    const { body } = await world.call('GET', 'ops/audit?limit=1000', { as })
    const { deeds } = body as { deeds: { target: string }[] }
    return {
      text: JSON.stringify(deeds),
      ofAccount: deeds.filter(({ target }) => target === `account:${id}`),
      targets: deeds.map(({ target }) => target),
    }
  }
  const all = await seen(world.admin)
  expect(all.text).toContain(email)
  expect(all.targets).toContain(`coupon:${freed}`)
  for (const role of ['viewer', 'operator'] as const) {
    const some = await seen((await world.signUp(role)).token)
    expect(some.text).not.toContain(freed)
    expect(some.text).not.toMatch(/@example|@x\.org/)
    expect(some.ofAccount).toMatchObject([{ detail: { after: { user_id: id, role: 'user' } } }])
    expect(some.targets).toContain('coupon:…')
  }
})
