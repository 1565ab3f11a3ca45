import { randomBytes, randomUUID } from 'node:crypto'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { operationUrl } from '../src/http/operations.ts'
import { openWorld, type Reply, type World } from './world.ts'

/**
 * Who may do what to which object: every route with an id in its path is asked by every role for an
 * object of their own, for somebody else's and for one that does not exist. A route without a row
 * fails. Letters as in auth-matrix.test.ts; nobody (n) is refused everywhere.
 */
type Row = {
  /** Roles that may call it at all; all others hear 403 whatever they name. */
  may: string
  /** What its id names: how one is made. */
  of: (letter: string, whose: 'own' | 'foreign') => Promise<string> | string
  /** Roles for whom another's object is as if it did not exist. */
  owned?: string
  unknown: string
  /** An id that nothing has. */
  none?: string
  /** Where answers differ from all that: `<letter> <whose>` to what is heard. */
  but?: Record<string, string>
  body?: (letter: string) => object
}
const everyone = 'uvosa'
const missing = '00000000-0000-4000-8000-000000000000'

let world: World
let stock: string
let routes: string[]
const callers: Record<string, string | undefined> = { n: undefined }
const ids: Record<string, string> = { s: 'customer' }
const strangers = 'stranger'
beforeAll(async () => {
  world = await openWorld()
  const roles = { u: 'user', v: 'viewer', o: 'operator', a: 'admin' } as const
  for (const [letter, role] of Object.entries(roles)) {
    const { id, token } = await world.signUp(role)
    callers[letter] = token
    ids[letter] = id
  }
  callers.s = world.service
  stock = await world.makeBook({ max_redemptions: 5 }, 1_500)
  const { body } = await world.call('GET', '/openapi.json')
  routes = Object.entries(body.paths as Record<string, object>).flatMap(([path, methods]) =>
    Object.keys(methods).map((method) => `${method.toUpperCase()} ${path}`),
  )
  await world.database.query(
    `INSERT INTO parked_facts (shard, epoch, n, i, reason, fact) VALUES (0, 9, 9, 0, 'a test', $1)`,
    [{ kind: 'assign', book: stock, epoch: 9, n: 9, fact: { i: 0 } }],
  )
})
afterAll(() => world.close())

async function done(reply: Promise<Reply>): Promise<Reply> {
  const its = await reply
  if (its.status >= 300) throw new Error(`no object: ${JSON.stringify(its.body)}`)
  return its
}
const asService = (path: string, body: object) =>
  done(world.call('POST', path, { as: world.service, body }))
const holder = (letter: string, whose: string) => (whose === 'own' ? ids[letter]! : strangers)

const coupon: Row['of'] = async (letter, whose) => {
  const body = { book_id: stock, user_id: holder(letter, whose) }
  return (await asService('coupons/assign', body)).body.coupons[0].code
}
const locked: Row['of'] = async (letter, whose) => {
  const code = await coupon(letter, whose)
  await asService(`coupons/lock/${code}`, { user_id: holder(letter, whose) })
  return code
}
const redemption: Row['of'] = async (letter, whose) => {
  const code = await coupon(letter, whose)
  const headers = { durability: 'redis' }
  const body = { user_id: holder(letter, whose) }
  const used = world.call('POST', `coupons/redeem/${code}`, { as: world.service, body, headers })
  return (await done(used)).body.redemption_id
}
const account: Row['of'] = async (letter, whose) =>
  whose === 'own' ? ids[letter]! : (await world.signUp()).id
const book = () => stock
const freshBook = () => world.makeBook()
const counter = () => world.makeBook({ kind: 'counter', units: 1 })
const key = async () =>
  (await done(world.call('POST', 'api-keys', { as: world.admin, body: { name: 'x' } }))).body.key_id
const job = async () => {
  const body = { reason: 'a test' }
  return (await done(world.call('POST', 'ops/reconcile', { as: world.admin, body }))).body.job_id
}
/** A job that is over, and that operators did not ask for. */
const endedJob = async () => {
  const id = randomUUID()
  await world.database.query(
    `INSERT INTO jobs (job_id, kind, state, created_by, finished_at)
     VALUES ($1, 'generate', 'cancelled', 'a test', now())`,
    [id],
  )
  return id
}
const importJob = async () => {
  const made = await fetch(`${world.base}/api/v1/books/${await freshBook()}/imports`, {
    method: 'POST',
    headers: { authorization: `Bearer ${world.service}`, 'content-type': 'text/csv' },
    body: `code\n${freshCode()}\n`,
  })
  return ((await made.json()) as { job_id: string }).job_id
}
const pool = async () => {
  const body = { name: `Pool ${randomUUID()}`, user_ids: ['somebody'] }
  return (await asService('pools', body)).body.pool_id as string
}
const distribution = async () => {
  const body = { book_id: await world.makeBook({}, 1), mode: 'equal', count: 1 }
  const { headers } = await asService(`pools/${await pool()}/distribute`, body)
  return headers.get('location')!.split('/').at(-2)!
}
/** Of an assignment that whoever it is has asked for. */
const operation: Row['of'] = async (letter, whose) => {
  const as = whose === 'own' ? callers[letter]! : (await world.signUp()).token
  const body = { book_id: stock, ...(letter === 's' && whose === 'own' ? { user_id: ids.s } : {}) }
  const { headers } = await done(world.call('POST', 'coupons/assign', { as, body }))
  const [shard, epoch, n, i] = /entry=(\d+)\/(\d+)-(\d+)\/(\d+)/
    .exec(headers.get('durability')!)!
    .slice(1)
    .map(Number) as [number, number, number, number]
  await world.level()
  const { rows } = await world.database.query(
    'SELECT op, context FROM ledger WHERE (shard, epoch, n, i) = ($1, $2, $3, $4)',
    [shard, epoch, n, i],
  )
  const { op, context } = rows[0]
  const its = { shard, epoch, n, i, op, at: Date.now(), request: 'test' }
  return operationUrl(world.house.deps.tokens, its, context.actor).split('/').at(-1)!
}

const reason = () => ({ reason: 'a test' })
/** Services and administrators name whom they act for. */
const acting = (letter: string) => ('sa'.includes(letter) ? { user_id: ids[letter] } : {})
const verb = {
  ...{ may: everyone, of: coupon, owned: everyone, body: acting },
  unknown: 'coupon-not-found',
}
const ofBook = { of: book, unknown: 'book-not-found' }
const onCoupon = { of: coupon, unknown: 'coupon-not-found' }
const refusedFor = (letters: string, what: string) =>
  Object.fromEntries(
    [...letters].flatMap((letter) => [
      [`${letter} foreign`, what],
      [`${letter} unknown`, what],
    ]),
  )
const ofAccount = { of: account, unknown: 'user-not-found' }
const ofPool = { of: pool, unknown: 'pool-not-found', may: 'sa' }
const ofDistribution = { of: distribution, unknown: 'job-not-found', may: 'sa' }
const ofJob = { of: endedJob, unknown: 'job-not-found', may: 'sa' }
const opsBook = { ...ofBook, of: freshBook, body: reason }

const rows: Record<string, Row> = {
  'POST /api/v1/coupons/assign/{code}': {
    ...verb,
    but: Object.fromEntries([...everyone].map((one) => [`${one} own`, '409 already-assigned'])),
  },
  'POST /api/v1/coupons/lock/{code}': verb,
  'POST /api/v1/coupons/unlock/{code}': { ...verb, of: locked },
  'POST /api/v1/coupons/redeem/{code}': verb,
  'GET /api/v1/coupons/{code}': { ...verb, owned: 'uvo' },
  'POST /api/v1/coupons/release/{code}': { ...onCoupon, may: 'a' },
  'POST /api/v1/coupons/void/{code}': { ...onCoupon, may: 'a' },
  'POST /api/v1/redemptions/{redemption_id}/rollback': {
    ...{ may: 'sa', of: redemption, unknown: 'redemption-not-found' },
  },
  'GET /api/v1/users/{user_id}/coupons': {
    ...{ may: everyone, of: holder, unknown: '', none: 'nobody-ever' },
    // Users that have no account are as good as others: they hold nothing.
    but: refusedFor('uvo', '403 forbidden'),
  },
  'GET /api/v1/users/{user_id}': {
    ...ofAccount,
    may: everyone,
    but: { 's own': '404 user-not-found' },
  },
  'PATCH /api/v1/users/{user_id}': {
    ...{ ...ofAccount, may: 'uvoa', body: () => ({}) },
    but: refusedFor('uvo', '403 forbidden'),
  },
  'GET /api/v1/auth/admin/users/{user_id}': { ...ofAccount, may: 'a' },
  'PATCH /api/v1/auth/admin/users/{user_id}': { ...ofAccount, may: 'a', body: () => ({}) },
  'DELETE /api/v1/auth/admin/users/{user_id}': {
    ...{ ...ofAccount, may: 'a', but: { 'a own': '400 own-account' } },
  },
  'DELETE /api/v1/api-keys/{key_id}': {
    ...{ may: 'a', of: key, unknown: 'api-key-not-found', none: '0123456789abcdef' },
  },
  'GET /api/v1/books/{book_id}': { ...ofBook, may: everyone },
  'GET /api/v1/books/{book_id}/stats': { ...ofBook, may: everyone },
  'GET /api/v1/books/{book_id}/coupons': { ...ofBook, may: 'sa' },
  'GET /api/v1/books/{book_id}/redemption-history': { ...ofBook, may: 'sa' },
  'PATCH /api/v1/books/{book_id}': { ...ofBook, may: 'sa', body: () => ({ name: 'Other' }) },
  'DELETE /api/v1/books/{book_id}': { ...ofBook, may: 'sa', of: freshBook },
  'POST /api/v1/books/{book_id}/codes/generate': {
    ...{ ...ofBook, may: 'sa', body: () => ({ count: 1 }) },
  },
  'POST /api/v1/books/{book_id}/codes/upload': {
    ...{ ...ofBook, may: 'sa', body: () => ({ codes: [freshCode()] }) },
  },
  'POST /api/v1/books/{book_id}/codes': {
    ...{ ...ofBook, may: 'sa', body: () => ({ codes: [freshCode()] }) },
  },
  'POST /api/v1/books/{book_id}/units': {
    ...{ ...ofBook, may: 'sa', of: counter, body: () => ({ count: 1 }) },
  },
  'GET /api/v1/books/{book_id}/stats/timeline': { ...ofBook, may: everyone },
  'GET /api/v1/books/{book_id}/stats/totals': { ...ofBook, may: everyone },
  'POST /api/v1/books/{book_id}/imports': { ...ofBook, may: 'sa', of: freshBook },
  'GET /api/v1/books/{book_id}/export/{what}': { ...ofBook, may: 'sa' },
  'GET /api/v1/imports/{job_id}/report': { ...ofJob, of: importJob },
  'POST /api/v1/jobs/{job_id}/cancel': ofJob,
  'DELETE /api/v1/jobs/{job_id}': ofJob,
  'GET /api/v1/jobs/{job_id}/events': ofJob,
  'GET /api/v1/pools/{pool_id}': ofPool,
  'PATCH /api/v1/pools/{pool_id}': { ...ofPool, body: () => ({ description: 'changed' }) },
  'DELETE /api/v1/pools/{pool_id}': ofPool,
  'POST /api/v1/pools/{pool_id}/users': { ...ofPool, body: () => ({ user_id: 'somebody' }) },
  'DELETE /api/v1/pools/{pool_id}/users': { ...ofPool, body: () => ({ user_id: 'somebody' }) },
  'DELETE /api/v1/pools/{pool_id}/users/{user_id}': ofPool,
  'POST /api/v1/pools/{pool_id}/distribute': {
    ...{ ...ofPool, body: () => ({ book_id: stock, count: 1 }) },
  },
  'GET /api/v1/distributions/{job_id}/results': ofDistribution,
  'POST /api/v1/distributions/{job_id}/cancel': ofDistribution,
  'GET /api/v1/jobs/{job_id}': { may: 'sa', of: job, unknown: 'job-not-found' },
  'GET /api/v1/operations/{operation_id}': {
    ...{ may: everyone, of: operation, owned: 'uvos', unknown: 'operation-not-found' },
  },
  'GET /api/v1/ops/coupons/{code}': { ...onCoupon, may: 'voa' },
  'GET /api/v1/ops/parked/{shard}/{entry}/{i}': {
    ...{ may: 'voa', of: () => '0/9-9/0', unknown: 'fact-not-parked', none: '0/9-8/0' },
  },
  'POST /api/v1/ops/books/{book_id}/warm': { ...ofBook, may: 'oa', body: reason },
  'POST /api/v1/ops/books/{book_id}/open': { ...opsBook, may: 'oa' },
  'POST /api/v1/ops/books/{book_id}/pause': { ...opsBook, may: 'oa' },
  'POST /api/v1/ops/books/{book_id}/close': { ...opsBook, may: 'oa' },
  'POST /api/v1/ops/books/{book_id}/archive': { ...opsBook, may: 'a' },
  'POST /api/v1/ops/coupons/{code}/release': { ...onCoupon, may: 'oa', body: reason },
  'POST /api/v1/ops/coupons/{code}/void': { ...onCoupon, may: 'a', body: reason },
  'POST /api/v1/ops/redemptions/{redemption_id}/rollback': {
    ...{ may: 'oa', of: redemption, unknown: 'redemption-not-found', body: reason },
  },
  'GET /api/v1/ops/jobs/{job_id}': { may: 'voa', of: job, unknown: 'job-not-found' },
  'POST /api/v1/ops/jobs/{job_id}/cancel': {
    ...{ may: 'oa', of: job, unknown: 'job-not-found', body: reason },
  },
  'POST /api/v1/ops/jobs/{job_id}/retry': {
    ...{ may: 'oa', of: job, unknown: 'job-not-found', body: reason },
  },
}

const freshCode = () => `OBJ-${randomBytes(6).toString('hex').toUpperCase()}`
const noneOf = (path: string, { none }: Row) => {
  if (none !== undefined) return none
  if (path.includes('{code}')) return freshCode()
  if (path.includes('{operation_id}')) return randomBytes(90).toString('base64url')
  return path.includes('{user_id}') ? missing : randomUUID()
}

/** `done`, or what the refusal says. What is found may still be in the wrong state for it. */
function heard({ status, body }: Reply): string {
  if (status < 300 || ['wrong-job-state', 'book-archived'].includes(body?.code)) return 'done'
  return `${status} ${body.code}`
}

function expected(row: Row, letter: string, whose: string): string {
  if (letter === 'n') return '401 unauthenticated'
  if (!row.may.includes(letter)) return '403 forbidden'
  const exception = row.but?.[`${letter} ${whose}`]
  if (exception !== undefined) return exception
  const isHidden = whose === 'unknown' || (whose === 'foreign' && row.owned?.includes(letter))
  return isHidden && row.unknown !== '' ? `404 ${row.unknown}` : 'done'
}

test('object matrix  has a row for every route with an id in its path, and no other', () => {
  const withId = routes.filter((route) => route.includes('{'))
  expect(Object.keys(rows).sort()).toEqual(withId.sort())
})

test.each(Object.entries(rows))('object matrix  %s', async (route, row) => {
  const [method, path] = route.split(' ') as [string, string]
  const pattern = path
    .replace('{shard}/{entry}/{i}', '{fact}')
    .replace('{what}', 'coupons')
    .replace(
      '/users/{user_id}',
      path.includes('{pool_id}') ? '/users/somebody' : '/users/{user_id}',
    )
  const found: Record<string, string> = {}
  const wanted: Record<string, string> = {}
  // One object serves all who may not touch it.
  const shared = await row.of('u', 'foreign')
  for (const letter of 'nuvosa')
    for (const whose of ['own', 'foreign', 'unknown'] as const) {
      const isFor = letter !== 'n' && row.may.includes(letter)
      const id =
        whose === 'unknown' ? noneOf(path, row) : isFor ? await row.of(letter, whose) : shared
      const url = pattern.replace(/\{\w+\}/, id)
      const none = method === 'DELETE' ? undefined : {}
      const body = method === 'GET' ? undefined : (row.body?.(letter) ?? none)
      const reply = await world.call(method, url, { as: callers[letter], body })
      found[`${letter} ${whose}`] = heard(reply)
      wanted[`${letter} ${whose}`] = expected(row, letter, whose)
    }
  expect(found).toEqual(wanted)
})

test('object matrix  a foreign object’s refusal is an unknown one’s, word for word', async () => {
  const plain = ({ status, body }: Reply) => {
    const { instance: _, request_id: __, ...rest } = body
    return { status, ...rest }
  }
  for (const [route, row] of Object.entries(rows).filter(([, { owned }]) => owned !== undefined)) {
    const [method, path] = route.split(' ') as [string, string]
    const ask = async (id: string) => {
      const body = method === 'GET' ? undefined : row.body?.('u')
      return plain(await world.call(method, path.replace(/\{\w+\}/, id), { as: callers.u, body }))
    }
    const foreign = await ask(await row.of('u', 'foreign'))
    expect(foreign, route).toEqual(await ask(noneOf(path, row)))
  }
})

test('object matrix  of another’s account a user and a key learn the name, and nothing else', async () => {
  const other = await world.signUp()
  for (const letter of 'uvos') {
    const { body } = await world.call('GET', `users/${other.id}`, { as: callers[letter] })
    expect(Object.keys(body).sort()).toEqual(['name', 'user_id'])
  }
})
