import { z } from '@hono/zod-openapi'
import type { Deps } from '../app.ts'
import { metricsType } from '../metrics.ts'
import { answer, plainText } from './respond.ts'
import { resource } from './route.ts'

/** How fit the house is to serve: what /readyz says. */
export type Readiness = {
  ready: boolean
  redis: boolean
  postgres: boolean
  /** Why it is not ready, in words, or null. */
  reason: string | null
  shards: ShardReadiness[]
}
export type ShardReadiness = {
  shard: number
  epoch: number
  phase: string
  intake: string
  /** Facts that the ledger has yet to see. */
  lag: number
}

/** What /version says. */
export type Version = { name: string; version: string; node: string; commit: string | null }

const ReadinessBody = z
  .object({
    ready: z.boolean(),
    redis: z.boolean(),
    postgres: z.boolean(),
    reason: z.string().nullable(),
    shards: z.array(
      z.object({
        shard: z.number(),
        epoch: z.number(),
        phase: z.string(),
        intake: z.string(),
        lag: z.number(),
      }),
    ),
  })
  .openapi('Readiness')

export function healthRoutes(deps: Deps) {
  return resource(deps, 'Health')
    .route(
      {
        method: 'get',
        path: '/livez',
        summary: 'Is the process alive? Touches nothing else, so that an outage restarts nobody.',
        needs: 'nobody',
        answers: { 200: z.object({ alive: z.boolean() }) },
      },
      (c) => answer(c, 200, { alive: true }),
    )
    .route(
      {
        method: 'get',
        path: '/health',
        summary: 'The same as /livez, as clients of the Coupon Book Service ask it',
        needs: 'nobody',
        answers: { 200: z.object({ status: z.literal('healthy'), version: z.string() }) },
      },
      (c) => answer(c, 200, { status: 'healthy' as const, version: deps.version.version }),
    )
    .route(
      {
        method: 'get',
        path: '/readyz',
        summary: 'Can it vouch for answers now? 503 while it cannot.',
        needs: 'nobody',
        answers: { 200: ReadinessBody, 503: ReadinessBody },
      },
      async (c) => {
        const readiness = await deps.readiness()
        return readiness.ready
          ? answer(c, 200, readiness)
          : answer(c, 503, readiness, { 'Retry-After': '1' })
      },
    )
    .route(
      {
        method: 'get',
        path: '/metrics',
        summary: 'Numbers for Prometheus. From other machines: for keys and admins only',
        needs: 'nearby',
        answers: { 200: null },
      },
      async (c) => plainText(c, await deps.metrics(), metricsType),
    )
    .route(
      {
        method: 'get',
        path: '/version',
        summary: 'What is running here?',
        needs: 'nobody',
        answers: {
          200: z
            .object({
              name: z.string(),
              version: z.string(),
              node: z.string(),
              commit: z.string().nullable(),
            })
            .openapi('Version'),
        },
      },
      (c) => answer(c, 200, deps.version),
    )
}
