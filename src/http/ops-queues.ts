import { z } from '@hono/zod-openapi'
import type { Deps } from '../app.ts'
import { actors, admins, by, limit, lookers, reason } from './ops.ts'
import { answer, problemResponse } from './respond.ts'
import { resource } from './route.ts'
import { instant, strict } from './schemas.ts'

const count = z.int()
const QueueOverview = z
  .object({
    ...{ queue: z.string(), paused: z.boolean(), workers: count },
    ...{ waiting: count, active: count, delayed: count, failed: count },
  })
  .openapi('QueueOverview')
const FailedJob = z
  .object({
    ...{ queue: z.string(), id: z.string(), reason: z.string() },
    ...{ attempts: count, at: instant },
  })
  .openapi('FailedJob')

/** BullMQ's queues, which say when and carry nothing of their own. */
export function opsQueueRoutes(deps: Deps) {
  const { ops } = deps
  const problems = ['not-ready'] as const

  return resource(deps, 'Ops')
    .route(
      {
        method: 'get',
        path: '/ops/queues',
        summary: 'How many jobs are in which state, and who works',
        needs: lookers,
        answers: {
          200: z.object({
            queues: z.array(QueueOverview),
            over: count.openapi({ description: 'Jobs that `clean` would remove' }),
          }),
        },
        problems,
      },
      async (c) => {
        const found = await ops.queues()
        return 'problem' in found ? problemResponse(c, found) : answer(c, 200, found)
      },
    )
    .route(
      {
        method: 'get',
        path: '/ops/queues/failed',
        summary: 'Jobs that failed for good, at most `limit` of each queue',
        needs: lookers,
        query: strict({ limit }),
        answers: { 200: z.object({ failed: z.array(FailedJob) }) },
        problems,
      },
      async (c, { query }) => {
        const found = await ops.failedInQueues(query.limit)
        if ('problem' in found) return problemResponse(c, found)
        const failed = found.map((job) => ({ ...job, at: job.at.toISOString() }))
        return answer(c, 200, { failed })
      },
    )
    .route(
      {
        method: 'post',
        path: '/ops/queues/retry',
        summary: 'Have every failed job of the queues done again',
        needs: actors,
        body: strict({ reason }),
        answers: { 200: z.object({ retried: count }) },
        problems,
      },
      async (c, { body }, who) => {
        const retried = await ops.retryQueues(by(c, who, body.reason))
        return typeof retried === 'number'
          ? answer(c, 200, { retried })
          : problemResponse(c, retried)
      },
    )
    .route(
      {
        method: 'post',
        path: '/ops/queues/clean',
        summary: 'Remove what is over: jobs that were done or failed; waiting ones stay',
        needs: admins,
        body: strict({ reason }),
        answers: { 200: z.object({ removed: count }) },
        problems,
      },
      async (c, { body }, who) => {
        const removed = await ops.cleanQueues(by(c, who, body.reason))
        return typeof removed === 'number'
          ? answer(c, 200, { removed })
          : problemResponse(c, removed)
      },
    )
}
