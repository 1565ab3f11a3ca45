import { z } from '@hono/zod-openapi'
import type { Deps } from '../app.ts'
import { type Job, jobStates } from '../ledger/jobs.ts'
import { answer, problemResponse } from './respond.ts'
import { resource } from './route.ts'
import { bookId, instant, strict, uuid } from './schemas.ts'

export const JobResponse = z
  .object({
    job_id: uuid,
    kind: z.string(),
    book_id: bookId.nullable(),
    state: z.enum(jobStates),
    total: z.number(),
    done: z.number(),
    result: z.record(z.string(), z.unknown()).nullable(),
    error: z.string().nullable(),
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
  result: job.result as Record<string, unknown> | null,
  error: job.error,
  created_at: job.created_at.toISOString(),
  updated_at: job.updated_at.toISOString(),
  finished_at: job.finished_at?.toISOString() ?? null,
})

/** Work that outlives its request: how far it is. */
export function jobRoutes(deps: Deps) {
  const { api, route } = resource(deps, 'Jobs')

  route(
    {
      method: 'get',
      path: '/jobs/{job_id}',
      summary: 'How far a job is, and what came of it',
      needs: ['admin', 'service'],
      params: strict({ job_id: uuid }),
      answers: { 200: JobResponse },
      problems: ['job-not-found'],
    },
    async (c, { params }) => {
      const job = await deps.books.job(params.job_id)
      return 'problem' in job ? problemResponse(c, job) : answer(c, 200, jobView(job))
    },
  )
  return api
}
