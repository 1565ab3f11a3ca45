import { z } from '@hono/zod-openapi'
import type { Deps } from '../app.ts'
import { problem } from '../problems.ts'
import { admins, by, lookers, reason } from './ops.ts'
import { answer, problemResponse } from './respond.ts'
import { resource } from './route.ts'
import { queryCount, strict } from './schemas.ts'

const side = z.object({ epoch: z.int(), entry: z.int(), facts: z.int() })
const Loss = z
  .object({
    shard: z.int(),
    postgres: side,
    redis: side,
    retained: z.int().openapi({
      description: 'Entries that the journal still has: they are committed again, and not lost',
    }),
  })
  .openapi('Loss')

/** A PostgreSQL that was restored from a backup, and lacks what it once had. */
export function opsLossRoutes(deps: Deps) {
  const { ops } = deps

  return resource(deps, 'Ops')
    .route(
      {
        method: 'get',
        path: '/ops/accept-loss',
        summary: 'What a restored PostgreSQL lacks, which would be lost',
        needs: lookers,
        query: strict({ shard: queryCount(0, 63).optional() }),
        answers: { 200: z.object({ losses: z.array(Loss) }) },
        problems: ['shard-not-found', 'not-ready'],
      },
      async (c, { query }) => {
        const losses = await ops.losses(query.shard)
        if (!losses) return problemResponse(c, problem('shard-not-found'))
        if ('problem' in losses) return problemResponse(c, losses)
        return answer(c, 200, { losses })
      },
    )
    .route(
      {
        method: 'post',
        path: '/ops/accept-loss',
        summary: 'Go on with a restored PostgreSQL, without what it lacks',
        needs: admins,
        body: strict({ shard: z.int().min(0).max(63).optional(), reason }),
        answers: { 200: z.object({ losses: z.array(Loss), accepted: z.boolean() }) },
        problems: ['shard-not-found', 'not-ready'],
      },
      async (c, { body }, who) => {
        const losses = await ops.losses(body.shard)
        if (!losses) return problemResponse(c, problem('shard-not-found'))
        if ('problem' in losses) return problemResponse(c, losses)
        await ops.acceptLosses(losses, by(c, who, body.reason))
        return answer(c, 200, { losses, accepted: losses.length > 0 })
      },
    )
}
