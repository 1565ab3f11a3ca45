import { z } from '@hono/zod-openapi'
import type { Deps } from '../app.ts'
import { type Job, jobStates } from '../ledger/jobs.ts'
import { byRequest, type Context, type Principal } from './context.ts'
import { reason } from './ops.ts'
import { answer, problemResponse } from './respond.ts'
import { denied, resource } from './route.ts'
import { bookId, instant, listOf, page, strict, uuid } from './schemas.ts'

export const JobResponse = z
  .object({
    job_id: uuid,
    kind: z.string(),
    book_id: bookId.nullable(),
    state: z.enum(jobStates),
    total: z.number(),
    done: z.number(),
    progress: z.number().nullable().openapi({
      description: 'done / total, from 0 to 1; null while nobody knows the total',
    }),
    result: z.record(z.string(), z.unknown()).nullable(),
    error: z.string().nullable(),
    created_by: z.string().openapi({ description: '`user:<id>`, `key:<id>` or `cli:<who>`' }),
    created_at: instant,
    updated_at: instant,
    finished_at: instant.nullable(),
  })
  .openapi('Job')

export const jobView = (job: Job): z.infer<typeof JobResponse> => ({
  job_id: job.job_id,
  kind: job.kind,
  book_id: job.book_id,
  state: job.state,
  total: job.total,
  done: job.done,
  progress: job.total > 0 ? Math.min(1, job.done / job.total) : null,
  result: job.result as Record<string, unknown> | null,
  error: job.error,
  created_by: job.created_by,
  created_at: job.created_at.toISOString(),
  updated_at: job.updated_at.toISOString(),
  finished_at: job.finished_at?.toISOString() ?? null,
})

const params = strict({ job_id: uuid })
const whose = ['admin', 'service'] as const
const why = reason.optional().openapi({ description: 'Why: it stands in the audit log' })

/** Work that outlives its request: what there is of it, how far it is, and its end. */
export function jobRoutes(deps: Deps) {
  const { books, ops } = deps

  const ending = {
    needs: whose,
    params,
    answers: { 200: JobResponse },
    problems: ['job-not-found', 'wrong-job-state'],
  } as const
  async function cancel(c: Context, id: string, who: Principal, reason: string | undefined) {
    const job = await books.job(id)
    if ('problem' in job) return problemResponse(c, job)
    if (who.kind !== 'admin' && ops.isOperators(job)) return problemResponse(c, denied(['admin']))
    // Whoever may not begin one may not end it either.
    const refused = job.kind === 'distribute' && who.grant?.outOfScope('assign')
    if (refused) return problemResponse(c, refused)
    const done = await ops.changeJob(id, 'cancelled', byRequest(c, who, reason))
    return 'problem' in done ? problemResponse(c, done) : answer(c, 200, jobView(done))
  }
  const cancelled = 'End a job that is queued or running, or put aside one that failed'
  const description =
    'What it did stays. An import that is being taken back, because its file is imported whole or not ' +
    'at all, is so to its end, and cancelled then. Jobs that operators asked for, such as a drain, are ' +
    'ended by administrators.'

  return resource(deps, 'Jobs')
    .route(
      {
        method: 'get',
        path: '/jobs',
        summary: 'Jobs, the newest first',
        needs: whose,
        query: strict({
          state: z.enum(jobStates).optional(),
          kind: z
            .string()
            .regex(/^[a-z_]{1,40}$/, 'must be the kind of a job')
            .optional(),
          book_id: bookId.optional(),
          limit: page.limit,
          starting_after: uuid
            .optional()
            .openapi({ description: '`next_cursor` of the page before' }),
        }),
        answers: { 200: listOf(JobResponse) },
        problems: ['invalid-cursor'],
      },
      async (c, { query: { starting_after: after, ...filter } }) => {
        const rows = await books.jobs({ ...filter, after })
        if ('problem' in rows) return problemResponse(c, rows)
        const data = rows.slice(0, filter.limit).map(jobView)
        const has_more = rows.length > filter.limit
        return answer(c, 200, {
          data,
          has_more,
          next_cursor: has_more ? data.at(-1)!.job_id : null,
        })
      },
    )
    .route(
      {
        method: 'get',
        path: '/jobs/{job_id}',
        summary: 'How far a job is, and what came of it',
        needs: whose,
        params,
        answers: { 200: JobResponse },
        problems: ['job-not-found'],
      },
      async (c, { params }) => {
        const job = await books.job(params.job_id)
        return 'problem' in job ? problemResponse(c, job) : answer(c, 200, jobView(job))
      },
    )
    .route(
      {
        ...ending,
        method: 'post',
        path: '/jobs/{job_id}/cancel',
        scope: 'books',
        summary: `${cancelled}; what it did stays`,
        description,
        body: strict({ reason: why }),
        bodyOptional: true,
      },
      (c, { params, body }, who) => cancel(c, params.job_id, who, body.reason),
    )
    .route(
      {
        ...ending,
        method: 'delete',
        path: '/jobs/{job_id}',
        scope: 'books',
        summary: `${cancelled}: the same as cancel`,
        description,
        query: strict({ reason: why }),
      },
      (c, { params, query }, who) => cancel(c, params.job_id, who, query.reason),
    )
}
