import { z } from '@hono/zod-openapi'
import type { Deps } from '../app.ts'
import type { Result } from '../ledger/distribution-results.ts'
import type { Job } from '../ledger/jobs.ts'
import { type Problem, problemDetail } from '../problems.ts'
import { byRequest, type Context, type Principal, requestId } from './context.ts'
import { readOnce, replayedHeader } from './effect.ts'
import { JobResponse, jobView } from './jobs.ts'
import { reason } from './ops.ts'
import { poolId } from './pool-view.ts'
import { answer, problemResponse } from './respond.ts'
import { resource } from './route.ts'
import { bookId, count, listOf, page, queryCount, queryFlag, strict, uuid } from './schemas.ts'

const managers = ['admin', 'service'] as const
const mode = z.enum(['random', 'equal']).optional().openapi({ default: 'random' })
const each = count(1, 100).optional().openapi({ description: 'equal: so many for each, or none' })
const inAll = count(1, 100_000_000).optional()

const DistributeRequest = strict({
  book_id: bookId,
  mode,
  count: inAll.openapi({ description: 'random: so many in all. equal: for each user' }),
  coupons_per_user: each,
}).openapi('DistributeRequest')

const BulkAssignRequest = strict({
  book_id: bookId,
  pool_id: poolId,
  distribution_mode: mode,
  coupons_per_user: each,
  count: inAll.openapi({ description: 'random: so many in all. Left out: all that are in stock' }),
}).openapi('BulkAssignRequest')

const DistributedResponse = z
  .object({
    success: z.boolean(),
    total_assigned: z.number(),
    assignments: z
      .record(z.string(), z.array(z.string()))
      .openapi({ description: 'user -> the codes that they got' }),
    errors: z.array(z.string()).openapi({ description: 'who got fewer, and why' }),
  })
  .openapi('Distributed')

const ResultResponse = z
  .object({
    user_id: z.string(),
    share: z.number().openapi({ description: 'What the plan has for this user' }),
    codes: z.array(z.string()),
    settled: z.boolean().openapi({ description: 'false: has not been asked for yet' }),
    problem: z
      .object({ code: z.string(), detail: z.string() })
      .nullable()
      .openapi({ description: 'why they got fewer, as far as that is known' }),
  })
  .openapi('DistributionResult')

/** Who got fewer than was meant for them, in words; then what the book refused everybody. */
function errorsOf(job: Job, results: Result[]): string[] {
  const { mode, amount, all } = job.input as { mode: string; amount: number; all: boolean }
  const short = results.filter(({ codes, share, why }) => codes.length < share || why !== null)
  const errors = short.map(({ user_id, codes, share, why }) => {
    const wanted = mode === 'equal' ? amount : share
    const got = codes.length < wanted ? `${codes.length} of ${wanted}` : 'none'
    return `User ${user_id} got ${got}.${why ? ` ${problemDetail(why)}` : ''}`
  })
  const given = results.reduce((sum, { codes }) => sum + codes.length, 0)
  if (mode === 'random' && !all && given < amount)
    errors.push(`${amount - given} of ${amount} coupons were not given to anybody.`)
  if (job.error) errors.push(job.error)
  return errors
}

/** The shape that clients know. Made of entries, because a user may be called `__proto__`. */
const distributedView = (job: Job, results: Result[]): z.infer<typeof DistributedResponse> => ({
  success: job.state === 'done',
  total_assigned: results.reduce((sum, { codes }) => sum + codes.length, 0),
  assignments: Object.fromEntries(
    results.filter(({ codes }) => codes.length > 0).map(({ user_id, codes }) => [user_id, codes]),
  ),
  errors: errorsOf(job, results),
})

const wrong = (path: string, message: string): Problem => ({
  ok: false,
  problem: 'invalid-request',
  errors: [{ path, message }],
})

/** Coupons for all users of a pool: as many for each, or so many in all. */
export function distributionRoutes(deps: Deps) {
  const { pools, ops } = deps

  type Asked = {
    pool_id: string
    book_id: string
    mode?: 'random' | 'equal' | undefined
    count?: number | undefined
    coupons_per_user?: number | undefined
  }
  async function distribute(c: Context, who: Principal, asked: Asked) {
    const { mode = 'random', pool_id, book_id } = asked
    const perUser = asked.coupons_per_user ?? asked.count ?? 1
    if (mode === 'equal' && asked.coupons_per_user && asked.count)
      return problemResponse(c, wrong('count', 'says the same as coupons_per_user: leave one out'))
    if (mode === 'equal' && perUser > 100)
      return problemResponse(c, wrong('count', 'must not be over 100 for each user'))
    const keyed = readOnce(c, who, 'distribute', pool_id, asked)
    if ('problem' in keyed) return problemResponse(c, keyed)
    const done = await pools.distribute({
      ...{ ...keyed, pool_id, book_id, mode, created_by: who.actor, request_id: requestId(c) },
      amount: mode === 'equal' ? perUser : asked.count,
    })
    if ('problem' in done) return problemResponse(c, done)
    const { job, results } = done
    const replayed = replayedHeader(done)
    if (!results)
      return answer(c, 202, jobView(job), { Location: `/api/v1/jobs/${job.job_id}`, ...replayed })
    return answer(c, 200, distributedView(job, results), {
      ...{ Durability: 'postgres', Location: `/api/v1/distributions/${job.job_id}/results` },
      ...replayed,
    })
  }

  const distributing = {
    needs: managers,
    answers: { 200: DistributedResponse, 202: JobResponse },
    problems: [
      ...(['pool-not-found', 'pool-inactive', 'pool-empty', 'book-not-found', 'sold-out'] as const),
      ...(['book-archived', 'book-expired', 'book-inactive', 'book-not-open'] as const),
      ...(['book-closed', 'intake-stopped', 'idempotency-key-reused'] as const),
    ],
  } as const

  return resource(deps, 'Pools')
    .route(
      {
        ...distributing,
        method: 'post',
        path: '/pools/{pool_id}/distribute',
        scope: 'assign',
        summary: 'Give a pool coupons: at once to up to 1,000 users, to more by a job',
        description:
          '`equal`: coupons_per_user for each, in full or not at all. `random`: `count` in all; shares of ' +
          'users below their limit differ by one at most, and chance decides who gets the extra ones. ' +
          'The plan is drawn once and every share is given once, whatever dies meanwhile. Where buyers take of ' +
          'the book meanwhile and it sells out, the last users of the plan may have less: results name them.',
        params: strict({ pool_id: poolId }),
        body: DistributeRequest,
      },
      async (c, { params, body }, who) => {
        if (body.mode !== 'equal' && body.count === undefined)
          return problemResponse(c, wrong('count', 'how many in all?'))
        return distribute(c, who, { ...params, ...body })
      },
    )
    .route(
      {
        ...distributing,
        method: 'post',
        path: '/pools/bulk-assign',
        scope: 'assign',
        summary: 'The same, as older clients ask for it',
        body: BulkAssignRequest,
      },
      (c, { body: { distribution_mode, ...rest } }, who) =>
        distribute(c, who, { ...rest, mode: distribution_mode }),
    )
    .route(
      {
        method: 'get',
        path: '/distributions/{job_id}/results',
        summary: 'What each user of a distribution got, or why not',
        needs: managers,
        params: strict({ job_id: uuid }),
        query: strict({
          limit: page.limit,
          starting_after: queryCount(0, 999_999_999)
            .optional()
            .openapi({ description: '`next_cursor` of the page before' }),
          short: queryFlag.optional().openapi({ description: 'true: only who got fewer' }),
        }),
        answers: { 200: listOf(ResultResponse) },
        problems: ['job-not-found'],
      },
      async (c, { params: { job_id }, query: { limit, starting_after, short } }) => {
        const rows = await pools.results(job_id, {
          ...{ limit, short: short === true },
          ...(starting_after === undefined ? {} : { after: starting_after }),
        })
        if ('problem' in rows) return problemResponse(c, rows)
        const shown = rows.slice(0, limit)
        const has_more = rows.length > limit
        const data = shown.map(({ position: _, why, ...row }) => ({
          ...row,
          problem: why && { code: why.problem, detail: problemDetail(why) },
        }))
        const next_cursor = has_more ? String(shown.at(-1)!.position) : null
        return answer(c, 200, { data, has_more, next_cursor })
      },
    )
    .route(
      {
        method: 'post',
        path: '/distributions/{job_id}/cancel',
        scope: 'assign',
        summary: 'End a distribution at its next chunk; what was given stays',
        needs: managers,
        params: strict({ job_id: uuid }),
        body: strict({ reason: reason.optional() }),
        bodyOptional: true,
        answers: { 200: JobResponse },
        problems: ['job-not-found', 'wrong-job-state'],
      },
      async (c, { params: { job_id }, body }, who) => {
        const found = await pools.job(job_id)
        if ('problem' in found) return problemResponse(c, found)
        const why = body.reason ?? 'cancelled by whoever may distribute'
        const job = await ops.changeJob(job_id, 'cancelled', byRequest(c, who, why))
        return 'problem' in job ? problemResponse(c, job) : answer(c, 200, jobView(job))
      },
    )
}
