import type { OpenAPIHono } from '@hono/zod-openapi'
import type { Logger } from 'pino'
import { problem } from '../problems.ts'
import { type Env, requestId } from './context.ts'
import { problemResponse } from './respond.ts'

const methods = ['GET', 'POST', 'PUT', 'PATCH', 'DELETE']

/** What happens when no route fits, and when one throws. */
export function fallbacks(app: OpenAPIHono<Env>, log: Logger): void {
  app.notFound((c) => {
    const allow = methods.filter((method) => app.router.match(method, c.req.path)[0].length > 0)
    if (allow.length === 0) return problemResponse(c, problem('route-not-found'))
    if (allow[0] === 'GET') allow.splice(1, 0, 'HEAD')
    return problemResponse(c, problem('method-not-allowed', { allow: allow.join(', ') }))
  })

  // Expected refusals are values. What is thrown is a bug or a broken machine: log it, and tell the
  // client no more than the request id. Neither body nor path is logged, for they may hold codes.
  app.onError((error, c) => {
    log.error({ request_id: requestId(c), method: c.req.method, err: error }, 'request failed')
    return problemResponse(c, problem('internal-error'))
  })
}
