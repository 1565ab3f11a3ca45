import { OpenAPIHono } from '@hono/zod-openapi'
import type { Hono } from 'hono'
import type { BlankEnv } from 'hono/types'
import type { UnionToIntersection } from 'hono/utils/types'
import type { Logger } from 'pino'
import type { Board } from './board.ts'
import type { AddressOf } from './http/address.ts'
import { adminUserRoutes } from './http/admin-users.ts'
import { apiKeyRoutes } from './http/api-keys.ts'
import { assignRoutes } from './http/assign.ts'
import { assignBatchRoutes } from './http/assign-batch.ts'
import { authRoutes } from './http/auth.ts'
import { boardPages } from './http/board.ts'
import { bookListRoutes } from './http/book-lists.ts'
import { bookRoutes } from './http/books.ts'
import { codeRoutes } from './http/codes.ts'
import type { Env } from './http/context.ts'
import { withCors } from './http/cors.ts'
import { distributionRoutes } from './http/distributions.ts'
import { documentation } from './http/docs.ts'
import { exportRoutes } from './http/exports.ts'
import { fallbacks } from './http/fallbacks.ts'
import type { Guard } from './http/guard.ts'
import { healthRoutes, type Readiness, type Version } from './http/health.ts'
import { holdingRoutes } from './http/holdings.ts'
import { importRoutes } from './http/imports.ts'
import { jobEventRoutes } from './http/job-events.ts'
import { jobRoutes } from './http/jobs.ts'
import { lockRoutes } from './http/lock.ts'
import type { Meters } from './http/meter.ts'
import { operationRoutes } from './http/operations.ts'
import { opsRoutes } from './http/ops.ts'
import { opsBookRoutes } from './http/ops-books.ts'
import { opsJobRoutes } from './http/ops-jobs.ts'
import { opsLossRoutes } from './http/ops-loss.ts'
import { opsParkedRoutes } from './http/ops-parked.ts'
import { opsQueueRoutes } from './http/ops-queues.ts'
import { poolRoutes } from './http/pools.ts'
import type { Principals } from './http/principal.ts'
import { redeemRoutes } from './http/redeem.ts'
import type { RefusalCounter } from './http/refusals.ts'
import { releaseRoutes } from './http/release.ts'
import type { Resource } from './http/route.ts'
import { HouseRouter } from './http/router.ts'
import { showRoutes } from './http/show.ts'
import { statsRoutes } from './http/stats.ts'
import type { Tokens } from './http/tokens.ts'
import { userRoutes } from './http/users.ts'
import { voidRoutes } from './http/void.ts'
import type { Accounts } from './ledger/accounts.ts'
import { outageOf } from './ledger/database.ts'
import type { Exports } from './ledger/exports.ts'
import type { Holdings } from './ledger/holdings.ts'
import type { JobWatch } from './ledger/job-watch.ts'
import type { Stats } from './ledger/stats.ts'
import type { OperatorVerbs } from './ops/open.ts'
import type { Books } from './recovery/books.ts'
import type { Directory } from './recovery/directory.ts'
import type { Durable } from './recovery/durable.ts'
import type { Imports } from './recovery/imports.ts'
import type { Operations } from './recovery/operations.ts'
import type { Pools } from './recovery/pools.ts'
import type { Store } from './store/store.ts'

/** Everything the routes need of the house. A main builds it; tests build it of the same parts. */
export type Deps = {
  accounts: Accounts
  tokens: Tokens
  principals: Principals
  guard: Guard
  addressOf: AddressOf
  store: Store
  directory: Directory
  durable: Durable
  operations: Operations
  holdingsOf: Holdings
  ops: OperatorVerbs
  /** Bull Board, loaded when somebody looks. */
  board(): Promise<Board>
  books: Books
  stats: Stats
  refusals: RefusalCounter
  jobWatch: JobWatch
  pools: Pools
  imports: Imports
  exports: Exports
  log: Logger
  readiness(): Promise<Readiness>
  meters: Meters
  /** The text of /metrics. */
  metrics(): Promise<string>
  version: Version
}

const v1 = [
  authRoutes,
  adminUserRoutes,
  userRoutes,
  apiKeyRoutes,
  assignRoutes,
  lockRoutes,
  redeemRoutes,
  releaseRoutes,
  voidRoutes,
  showRoutes,
  holdingRoutes,
  bookRoutes,
  bookListRoutes,
  codeRoutes,
  poolRoutes,
  distributionRoutes,
  jobRoutes,
  importRoutes,
  exportRoutes,
  operationRoutes,
  opsRoutes,
  opsBookRoutes,
  opsParkedRoutes,
  opsJobRoutes,
  opsQueueRoutes,
  opsLossRoutes,
  assignBatchRoutes,
  jobEventRoutes,
  statsRoutes,
] as const

type EndpointsOf<R> = R extends (deps: Deps) => Resource<infer S> ? S : never
/** Every route below /api/v1, by path and method: what one sends, and what is answered. */
export type Endpoints = UnionToIntersection<EndpointsOf<(typeof v1)[number]>>
/** The same as hono/client takes it: src/client.ts. */
export type Api = Hono<BlankEnv, Endpoints, '/'>

/** The API: routes, and what happens when none fits. It never listens. `origins`: see cors.ts. */
export function createApp(deps: Deps, origins: readonly string[] = []): OpenAPIHono<Env> {
  // Not strict: a trailing slash is accepted, without a redirect.
  const app = new OpenAPIHono<Env>({ strict: false, router: new HouseRouter() })
  app.route('/', healthRoutes(deps).api)
  for (const routes of v1) app.route('/api/v1', routes(deps).api)
  documentation(app, deps.version)
  fallbacks(app, deps.log, deps.meters, outageOf, boardPages(deps))
  if (origins.length > 0) app.fetch = withCors(origins, app.fetch)
  return app
}
