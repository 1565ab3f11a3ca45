import type { InferRequestType, InferResponseType } from 'hono/client'
import { afterAll, beforeAll, describe, expect, expectTypeOf, test } from 'vitest'
import { createClient, type Endpoints } from '../src/client.ts'
import type { CouponView } from '../src/http/coupon-view.ts'
import { type Declared, declaredRoutes } from './contract.ts'
import { type House, openHouse } from './house.ts'

/**
 * Every route of the client. It does not compile when the types have lost one, or have one too many;
 * the test below compares it with what the server declares.
 */
const endpoints: { [Path in keyof Endpoints]: Record<keyof Endpoints[Path], true> } = {
  '/auth/register': { $post: true },
  '/auth/login': { $post: true },
  '/auth/me': { $get: true, $put: true },
  '/auth/change-password': { $post: true },
  '/auth/admin/users': { $post: true, $get: true },
  '/auth/admin/users/:user_id': { $get: true, $patch: true, $delete: true },
  '/users': { $post: true },
  '/users/search/by-email': { $get: true },
  '/users/:user_id': { $get: true, $patch: true },
  '/users/:user_id/coupons': { $get: true },
  '/api-keys': { $post: true, $get: true },
  '/api-keys/:key_id': { $delete: true },
  '/coupons/assign': { $post: true },
  '/coupons/assign/random': { $post: true },
  '/coupons/assign/:code': { $post: true },
  '/coupons/assign:batch': { $post: true },
  '/coupons/lock/:code': { $post: true },
  '/coupons/unlock/:code': { $post: true },
  '/coupons/redeem/:code': { $post: true },
  '/coupons/release/:code': { $post: true },
  '/coupons/void/:code': { $post: true },
  '/coupons/:code': { $get: true },
  '/coupons': { $post: true },
  '/coupons/codes': { $post: true },
  '/redemptions/:redemption_id/rollback': { $post: true },
  '/operations/:operation_id': { $get: true },
  '/books': { $post: true, $get: true },
  '/books/:book_id': { $get: true, $patch: true, $delete: true },
  '/books/:book_id/stats': { $get: true },
  '/books/:book_id/stats/timeline': { $get: true },
  '/books/:book_id/stats/totals': { $get: true },
  '/books/:book_id/coupons': { $get: true },
  '/books/:book_id/redemption-history': { $get: true },
  '/books/:book_id/codes': { $post: true },
  '/books/:book_id/codes/generate': { $post: true },
  '/books/:book_id/codes/upload': { $post: true },
  '/books/:book_id/units': { $post: true },
  '/books/:book_id/imports': { $post: true },
  '/books/:book_id/export/:what': { $get: true },
  '/imports/:job_id/report': { $get: true },
  '/stats/timeline': { $get: true },
  '/pools': { $post: true, $get: true },
  '/pools/:pool_id': { $get: true, $patch: true, $delete: true },
  '/pools/:pool_id/users': { $post: true, $delete: true },
  '/pools/:pool_id/users/:user_id': { $delete: true },
  '/pools/:pool_id/distribute': { $post: true },
  '/pools/bulk-assign': { $post: true },
  '/distributions/:job_id/results': { $get: true },
  '/distributions/:job_id/cancel': { $post: true },
  '/jobs': { $get: true },
  '/jobs/:job_id': { $get: true, $delete: true },
  '/jobs/:job_id/cancel': { $post: true },
  '/jobs/:job_id/events': { $get: true },
  '/ops/status': { $get: true },
  '/ops/doctor': { $get: true },
  '/ops/certificates/verify': { $post: true },
  '/ops/intake': { $post: true },
  '/ops/flush': { $post: true },
  '/ops/audit': { $get: true },
  '/ops/books/:book_id/open': { $post: true },
  '/ops/books/:book_id/pause': { $post: true },
  '/ops/books/:book_id/close': { $post: true },
  '/ops/books/:book_id/archive': { $post: true },
  '/ops/books/:book_id/warm': { $post: true },
  '/ops/coupons/:code': { $get: true },
  '/ops/coupons/:code/release': { $post: true },
  '/ops/coupons/:code/void': { $post: true },
  '/ops/redemptions/:redemption_id/rollback': { $post: true },
  '/ops/parked': { $get: true },
  '/ops/parked/:shard/:entry/:i': { $get: true },
  '/ops/parked/retry': { $post: true },
  '/ops/parked/discard': { $post: true },
  '/ops/jobs': { $get: true },
  '/ops/jobs/:job_id': { $get: true },
  '/ops/jobs/:job_id/cancel': { $post: true },
  '/ops/jobs/:job_id/retry': { $post: true },
  '/ops/drain': { $post: true },
  '/ops/reconcile': { $post: true },
  '/ops/replay': { $post: true },
  '/ops/rebuild': { $get: true, $post: true },
  '/ops/queues': { $get: true },
  '/ops/queues/failed': { $get: true },
  '/ops/queues/retry': { $post: true },
  '/ops/queues/clean': { $post: true },
  '/ops/accept-loss': { $get: true, $post: true },
}

let house: House
let declared: Declared[]
beforeAll(async () => {
  house = await openHouse()
  declared = declaredRoutes(house.app).filter(({ path }) => path.startsWith('/api/v1/'))
})
afterAll(() => house.close())

const client = createClient('http://127.0.0.1:8000', { token: 'token' })
const { assign, lock } = client.coupons
const book = client.books[':book_id']

/** The codes that a route may refuse with. */
type Refusals<F extends (...args: never) => Promise<unknown>> =
  Extract<Awaited<ReturnType<F>>, { ok: false }> extends { json(): Promise<{ code: infer C }> }
    ? C
    : never

describe('client', () => {
  test('has every route below /api/v1, and no other', () => {
    const typed = Object.entries(endpoints).flatMap(([path, methods]) =>
      Object.keys(methods).map((method) => `${method.slice(1)} /api/v1${path}`),
    )
    const served = declared.map(
      ({ method, path }) => `${method.toLowerCase()} ${path.replaceAll(/\{(\w+)\}/g, ':$1')}`,
    )
    expect(typed.sort()).toEqual(served.sort())
  })

  test('asks for each route by the path that the server has for it', () => {
    type Walk = { [step: string]: Walk } & { $url(input: object): URL }
    for (const path of Object.keys(endpoints)) {
      const steps = path.slice(1).split('/')
      const names = steps.filter((step) => step.startsWith(':')).map((step) => step.slice(1))
      const param = Object.fromEntries(names.map((name) => [name, `some-${name}`]))
      const at = steps.reduce((walk, step) => walk[step]!, client as unknown as Walk)
      const its = `/api/v1${path.replaceAll(/\/:(\w+)/g, '/{$1}')}`
      const { pattern } = declared.find((route) => route.path === its)!
      expect(at.$url({ param }).pathname).toMatch(pattern)
      expect(at.$url({ param }).pathname.match(/\/some-/g)?.length ?? 0).toBe(names.length)
    }
  })

  test('knows what is sent', () => {
    expectTypeOf<InferRequestType<typeof assign.$post>>().toEqualTypeOf<{
      json: { book_id: string; user_id?: string; count?: number }
    }>()
    const coupon = lock[':code']
    expectTypeOf<InferRequestType<typeof coupon.$post>>().toEqualTypeOf<{
      param: { code: string }
      json?: { user_id?: string; lock_duration_seconds?: number; lock_token?: string }
    }>()
    const { report } = client.imports[':job_id']
    expectTypeOf<InferRequestType<typeof report.$get>>().toEqualTypeOf<{
      param: { job_id: string }
    }>()
    expectTypeOf(client.auth.me.$get).toBeCallableWith()
    const batch = client.coupons['assign:batch']
    expectTypeOf<InferRequestType<typeof batch.$post>>().toEqualTypeOf<{
      json: { items: { book_id: string; user_id?: string; count?: number; key?: string }[] }
    }>()
  })

  test('knows a query as the texts that a URL has', () => {
    expectTypeOf<InferRequestType<(typeof client.pools)['$get']>>().toEqualTypeOf<{
      query?: { limit?: string; starting_after?: string; skip?: string }
    }>()
    const { 'by-email': search } = client.users.search
    expectTypeOf<InferRequestType<typeof search.$get>>().toEqualTypeOf<{
      query: { email: string }
    }>()
    const { export: files } = book
    expectTypeOf<InferRequestType<(typeof files)[':what']['$get']>['param']>().toEqualTypeOf<{
      book_id: string
      what: 'coupons' | 'assignments' | 'redemptions' | 'facts'
    }>()
  })

  test('knows what is answered, by its status', () => {
    type Assigned = { success: boolean; assigned_count: number; coupons: CouponView[] }
    expectTypeOf<InferResponseType<typeof assign.$post, 200>>().toEqualTypeOf<Assigned>()
    expectTypeOf<InferResponseType<typeof assign.$post, 202>>().toEqualTypeOf<Assigned>()
    expectTypeOf<InferResponseType<typeof client.books.$post, 201>>().toHaveProperty('lock_policy')
    expectTypeOf<InferResponseType<typeof client.books.$post, 200>>().toEqualTypeOf<never>()
    expectTypeOf<InferResponseType<typeof book.$delete, 204>>().toEqualTypeOf<null>()
    const { generate } = book.codes
    expectTypeOf<InferResponseType<typeof generate.$post, 202>>().toHaveProperty('job_id')
  })

  test('tells a refusal by `ok`, and which codes a route may give', () => {
    type Response = Awaited<ReturnType<typeof assign.$post>>
    expectTypeOf<Extract<Response, { ok: true }>['status']>().toEqualTypeOf<200 | 202>()
    expectTypeOf<409>().toExtend<Extract<Response, { ok: false }>['status']>()
    expectTypeOf<405>().not.toExtend<Extract<Response, { ok: false }>['status']>()

    type Refused = InferResponseType<typeof assign.$post, 409>
    expectTypeOf<Refused['detail']>().toEqualTypeOf<string>()
    expectTypeOf<Refused['code']>().toEqualTypeOf<Refusals<typeof assign.$post>>()
    expectTypeOf<'sold-out' | 'forbidden' | 'invalid-request'>().toExtend<Refused['code']>()
    expectTypeOf<'coupon-locked'>().not.toExtend<Refused['code']>()
    expectTypeOf<Refusals<typeof client.auth.me.$get>>().toEqualTypeOf<
      | 'unauthenticated'
      | 'account-inactive'
      | 'not-ready'
      | 'forbidden'
      | 'too-many-requests'
      | 'internal-error'
    >()
  })
})
