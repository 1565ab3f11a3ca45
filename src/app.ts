import { OpenAPIHono } from '@hono/zod-openapi'
import type { Logger } from 'pino'
import type { Env } from './http/context.ts'
import { fallbacks } from './http/fallbacks.ts'
import { healthRoutes, type Readiness, type Version } from './http/health.ts'
import type { Principals } from './http/principal.ts'

/** Everything the routes need of the house. A main builds it; tests build it of the same parts. */
export type Deps = {
  principals: Principals
  log: Logger
  readiness(): Promise<Readiness>
  version: Version
}

/** The API: routes, and what happens when none fits. It never listens. */
export function createApp(deps: Deps): OpenAPIHono<Env> {
  // Not strict: a trailing slash is accepted, without a redirect.
  const app = new OpenAPIHono<Env>({ strict: false })
  app.route('/', healthRoutes(deps))
  fallbacks(app, deps.log)
  return app
}
