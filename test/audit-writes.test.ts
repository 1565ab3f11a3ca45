import { afterAll, beforeAll, expect, test } from 'vitest'
import { openWorld, type World } from './world.ts'

/** Every write of an administrator or a service that changes no coupon: coupons have the ledger. */
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
