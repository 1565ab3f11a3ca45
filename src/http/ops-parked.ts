import { z } from '@hono/zod-openapi'
import type { Deps } from '../app.ts'
import { problem } from '../problems.ts'
import { actors, admins, by, limit, lookers, loose, reason } from './ops.ts'
import { answer, problemResponse } from './respond.ts'
import { resource } from './route.ts'
import { instant, strict } from './schemas.ts'

const factName = z
  .string()
  .regex(/^\d{1,2}\/\d{1,15}-\d{1,15}\/\d{1,6}$/, 'must be the name of a fact, such as 3/1-345/0')
const ParkedFact = z
  .object({
    name: z.string(),
    reason: z.string(),
    parked_at: instant,
    kind: z.string(),
    book_id: z.string(),
    code: z.string(),
    user_id: z.string(),
  })
  .openapi('ParkedFact')

/** Facts that did not fit into the ledger, and wait for a person. */
export function opsParkedRoutes(deps: Deps) {
  const { ops } = deps

  return resource(deps, 'Ops')
    .route(
      {
        method: 'get',
        path: '/ops/parked',
        summary: 'Facts that did not fit into the ledger, the oldest first',
        needs: lookers,
        query: strict({ limit }),
        answers: { 200: z.object({ facts: z.array(ParkedFact) }) },
      },
      async (c, { query }) => {
        const facts = await ops.parkedFacts(query.limit)
        return answer(c, 200, {
          facts: facts.map((fact) => ({ ...fact, parked_at: fact.parked_at.toISOString() })),
        })
      },
    )
    .route(
      {
        method: 'get',
        path: '/ops/parked/{shard}/{entry}/{i}',
        summary: 'All that is known of one parked fact; its name is the end of the path',
        needs: lookers,
        params: strict({
          shard: z.string().regex(/^\d{1,2}$/, 'must be the number of a shard'),
          entry: z.string().regex(/^\d{1,15}-\d{1,15}$/, 'must be an entry, such as 1-345'),
          i: z.string().regex(/^\d{1,6}$/, 'must be the place of a fact in its entry'),
        }),
        answers: { 200: loose },
        problems: ['fact-not-parked'],
      },
      async (c, { params: { shard, entry, i } }) => {
        const fact = await ops.parkedFact(`${shard}/${entry}/${i}`)
        return fact ? answer(c, 200, { ...fact }) : problemResponse(c, problem('fact-not-parked'))
      },
    )
    .route(
      {
        method: 'post',
        path: '/ops/parked/retry',
        summary: 'Try parked facts once more: a page of them, or those that are named',
        description:
          'Without `facts` the next `limit` in the order of the journals. `more`: others follow, which ' +
          'were not tried; the last name of `retried` as `after` goes on with them.',
        needs: actors,
        body: strict({
          facts: z.array(factName).max(1_000).optional(),
          after: factName.optional(),
          limit: z.number().int().min(1).max(1_000).default(1_000),
          reason,
        }),
        answers: {
          200: z.object({
            retried: z.array(
              z.object({
                name: z.string(),
                applied: z.boolean(),
                reason: z.string().nullable(),
                rebuilds: z.boolean().openapi({
                  description:
                    'true: Redis had been made anew without the fact, so its shard is made anew once more',
                }),
              }),
            ),
            more: z.boolean(),
          }),
        },
      },
      async (c, { body: { facts, reason: why, ...page } }, who) => {
        if (!facts) return answer(c, 200, await ops.retryPage(page, by(c, who, why)))
        const retried = await ops.retryParked(facts, by(c, who, why))
        return answer(c, 200, { retried, more: false })
      },
    )
    .route(
      {
        method: 'post',
        path: '/ops/parked/discard',
        summary: 'Give a parked fact up for good; what it was stays in the audit log',
        needs: admins,
        body: strict({ fact: factName, reason }),
        answers: { 204: null },
        problems: ['fact-not-parked'],
      },
      async (c, { body }, who) => {
        const gone = await ops.discardParked(body.fact, by(c, who, body.reason))
        return gone ? answer(c, 204, null) : problemResponse(c, problem('fact-not-parked'))
      },
    )
}
