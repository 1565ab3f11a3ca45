import type { OpenAPIHono } from '@hono/zod-openapi'
import type { Logger } from 'pino'
import { problem } from '../problems.ts'
import { isOfBoard } from './board.ts'
import { type Context, type Env, requestId } from './context.ts'
import type { Meters } from './meter.ts'
import { problemResponse } from './respond.ts'

const methods = ['GET', 'POST', 'PUT', 'PATCH', 'DELETE']

/** What a client hears when PostgreSQL went away before it was asked, and while it committed. */
const outageProblems = { away: 'not-ready', 'commit-unknown': 'outcome-unknown' } as const

/** What happens when no route fits, and when one throws. `board`: answers below /queues, off every hot path. */
export function fallbacks(
  app: OpenAPIHono<Env>,
  log: Logger,
  meters: Meters,
  outage: (error: unknown) => 'away' | 'commit-unknown' | undefined,
  board: (c: Context) => Promise<Response>,
): void {
  const none = meters.meter('none', 'none')
  app.notFound((c) => {
    if (isOfBoard(c)) return board(c)
    const allow = methods.filter((method) => app.router.match(method, c.req.path)[0].length > 0)
    none.count(allow.length === 0 ? 'route-not-found' : 'method-not-allowed', 0)
    if (allow.length === 0) return problemResponse(c, problem('route-not-found'))
    if (allow[0] === 'GET') allow.splice(1, 0, 'HEAD')
    return problemResponse(c, problem('method-not-allowed', { allow: allow.join(', ') }))
  })

  // Expected refusals are values. What is thrown is a bug or a broken machine: log it, and tell the
  // client no more than the request id. Neither body nor path is logged, for they may hold codes.
  app.onError((error, c) => {
    const request_id = requestId(c)
    const kind = outage(error)
    const code = kind ? outageProblems[kind] : 'internal-error'
    c.get('settle')?.(code)
    if (kind) {
      log.warn({ request_id, method: c.req.method, err: error }, 'PostgreSQL is away')
      return problemResponse(c, problem(code))
    }
    log.error({ request_id, method: c.req.method, err: error }, 'request failed')
    return problemResponse(c, problem('internal-error'))
  })
}
