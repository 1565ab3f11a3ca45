import { z } from '@hono/zod-openapi'
import type { Deps } from '../app.ts'
import { parseEntryId } from '../journal/entry.ts'
import { jobStates } from '../ledger/jobs.ts'
import { problem } from '../problems.ts'
import type { Context, Principal } from './context.ts'
import { JobResponse, jobView } from './jobs.ts'
import { actors, admins, by, limit, lookers, reason } from './ops.ts'
import { answer, problemResponse } from './respond.ts'
import { denied, resource } from './route.ts'
import { bookId, queryCount, strict, uuid } from './schemas.ts'

const Plan = z
  .object({
    ...{ shard: z.int(), phase: z.string(), books: z.int(), codes: z.int(), coupons: z.int() },
    lag: z.int().openapi({ description: 'Facts that Redis holds and the ledger lacks' }),
  })
  .openapi('RebuildPlan')
const oneOf = (which: { book_id?: unknown; shard?: unknown; all?: unknown }) =>
  [which.book_id, which.shard, which.all].filter((one) => one !== undefined).length === 1
const onlyOne = { path: ['shard'], message: 'exactly one of book_id, shard and all must be there' }

const shardNumber = z.number().int().min(0).max(63)

/** These an operator may ask for; whoever has somebody's job done again asks for it as much. */
const ofOperators = ['drain', 'reconcile', 'replay', 'warm']

const operatorJob = { needs: actors, answers: { 202: JobResponse } } as const
const ofJob = {
  method: 'post',
  needs: actors,
  params: strict({ job_id: uuid }),
  body: strict({ reason }),
  answers: { 200: JobResponse },
  problems: ['job-not-found', 'wrong-job-state'],
} as const
type OfJob = { params: { job_id: string }; body: { reason: string } }

/** Operators' verbs that outlive their request, and all other jobs. */
export function opsJobRoutes(deps: Deps) {
  const { ops } = deps

  const begin = async (c: Context, asked: Parameters<typeof ops.requestJob>[0]) => {
    const job = await ops.requestJob(asked)
    if ('problem' in job) return problemResponse(c, job)
    return answer(c, 202, jobView(job), { Location: `/api/v1/ops/jobs/${job.job_id}` })
  }
  const change =
    (name: 'cancel' | 'retry') =>
    async (c: Context, { params, body }: OfJob, who: Principal) => {
      const old = name === 'retry' ? await ops.job(params.job_id) : undefined
      if (old && who.kind !== 'admin' && !ofOperators.includes(old.kind))
        return problemResponse(c, denied(admins))
      const wanted = name === 'retry' ? 'queued' : 'cancelled'
      const job = await ops.changeJob(params.job_id, wanted, by(c, who, body.reason))
      return 'problem' in job ? problemResponse(c, job) : answer(c, 200, jobView(job))
    }

  return resource(deps, 'Ops')
    .route(
      {
        method: 'get',
        path: '/ops/jobs',
        summary: 'Jobs, the newest first',
        needs: lookers,
        query: strict({ state: z.enum(jobStates).optional(), limit }),
        answers: { 200: z.object({ jobs: z.array(JobResponse) }) },
      },
      async (c, { query }) =>
        answer(c, 200, { jobs: (await ops.listJobs(query)).map((job) => jobView(job)) }),
    )
    .route(
      {
        ...operatorJob,
        method: 'post',
        path: '/ops/drain',
        summary:
          'Stop intake, of everything or of one book, wait for the ledger, compare, attest: a job',
        description:
          'The job `result` has the certificate and the differences. Intake stays stopped, also when the ' +
          'job fails because the ledger did not follow in time; `/ops/intake` opens it again, setting ' +
          '`is_active` that of a book. The time counts from the request: if no worker takes the job up ' +
          'in it, nothing is stopped. What somebody opened again meanwhile is not stopped once more.',
        body: strict({
          book_id: bookId.optional(),
          timeout_seconds: z.number().int().min(1).max(3_600).default(60),
          reason,
        }),
        problems: ['book-not-found'],
      },
      (c, { body: { book_id, timeout_seconds, reason: why } }, who) =>
        begin(c, {
          ...{ kind: 'drain', timeoutMs: timeout_seconds * 1000, by: by(c, who, why) },
          ...(book_id ? { book: book_id } : {}),
        }),
    )
    .route(
      {
        ...operatorJob,
        method: 'post',
        path: '/ops/reconcile',
        summary: 'Compare Redis and PostgreSQL, code by code, also while they are in use: a job',
        description:
          '`exact` reads everything once, and fails unless intake is stopped and the ledger has everything.',
        body: strict({ book_id: bookId.optional(), exact: z.boolean().default(false), reason }),
        problems: ['book-not-found'],
      },
      (c, { body: { book_id, exact, reason: why } }, who) =>
        begin(c, {
          ...{ kind: 'reconcile', exact, by: by(c, who, why) },
          ...(book_id ? { book: book_id } : {}),
        }),
    )
    .route(
      {
        ...operatorJob,
        method: 'post',
        path: '/ops/replay',
        summary: 'Bring what the journals still hold into the ledger again: a job',
        body: strict({
          shard: shardNumber.optional(),
          from: z
            .string()
            .regex(/^\d{1,15}-\d{1,15}$/, 'must be an entry, such as 1-345')
            .optional()
            .openapi({ description: 'Entries before this one are left alone', example: '1-345' }),
          reason,
        }),
        problems: ['shard-not-found'],
      },
      (c, { body: { shard, from, reason: why } }, who) =>
        begin(c, {
          ...{ kind: 'replay', by: by(c, who, why) },
          ...(shard === undefined ? {} : { shard }),
          ...(from === undefined ? {} : { from: parseEntryId(from) }),
        }),
    )
    .route(
      {
        method: 'get',
        path: '/ops/rebuild',
        summary: 'What a rebuild would make anew in Redis, and what the ledger lacks of it',
        needs: lookers,
        query: strict({
          book_id: bookId.optional(),
          shard: queryCount(0, 63).optional(),
          all: z.literal('true').optional(),
        }).refine(oneOf, onlyOne),
        answers: { 200: z.object({ plan: z.array(Plan) }) },
        problems: ['book-not-found', 'shard-not-found', 'not-ready'],
      },
      async (c, { query: { book_id, shard } }) => {
        const plan = await ops.planRebuild({
          ...(book_id ? { book: book_id } : {}),
          ...(shard === undefined ? {} : { shard }),
        })
        if ('problem' in plan) return problemResponse(c, plan)
        if (plan.length > 0) return answer(c, 200, { plan })
        return problemResponse(c, problem(book_id ? 'book-not-found' : 'shard-not-found'))
      },
    )
    .route(
      {
        ...operatorJob,
        needs: admins,
        method: 'post',
        path: '/ops/rebuild',
        summary: 'Make shards in Redis anew from PostgreSQL; they answer 503 meanwhile: a job',
        description:
          'Exactly one of book_id (the shard it lives on), shard and all. The job fails while Redis holds ' +
          'facts that the ledger lacks, unless flush_first has them flushed first.',
        body: strict({
          book_id: bookId.optional(),
          shard: shardNumber.optional(),
          all: z.literal(true).optional(),
          flush_first: z.boolean().default(false),
          timeout_seconds: z.number().int().min(1).max(3_600).default(120),
          reason,
        }).refine(oneOf, onlyOne),
        problems: ['book-not-found', 'shard-not-found'],
      },
      (c, { body: { book_id, shard, flush_first, timeout_seconds, reason: why } }, who) =>
        begin(c, {
          ...{ kind: 'rebuild', flushFirst: flush_first, timeoutMs: timeout_seconds * 1000 },
          ...{ by: by(c, who, why), ...(book_id ? { book: book_id } : {}) },
          ...(shard === undefined ? {} : { shard }),
        }),
    )
    .route(
      {
        ...operatorJob,
        method: 'post',
        path: '/ops/books/{book_id}/warm',
        summary: 'Look a book over before its sale: ready, or why not: a job',
        params: strict({ book_id: bookId }),
        body: strict({ reason }),
        problems: ['book-not-found'],
      },
      (c, { params, body }, who) =>
        begin(c, { kind: 'warm', book: params.book_id, by: by(c, who, body.reason) }),
    )
    .route(
      {
        method: 'get',
        path: '/ops/jobs/{job_id}',
        summary: 'How far a job is, and what came of it',
        needs: lookers,
        params: strict({ job_id: uuid }),
        answers: { 200: JobResponse },
        problems: ['job-not-found'],
      },
      async (c, { params }) => {
        const job = await ops.job(params.job_id)
        return job ? answer(c, 200, jobView(job)) : problemResponse(c, problem('job-not-found'))
      },
    )
    .route(
      {
        ...ofJob,
        path: '/ops/jobs/{job_id}/cancel',
        summary:
          'End a job that is queued or running, or put aside one that failed; what it did stays',
      },
      change('cancel'),
    )
    .route(
      {
        ...ofJob,
        path: '/ops/jobs/{job_id}/retry',
        summary:
          'Have a job that failed or was cancelled done again, by whoever may ask for one of its kind',
      },
      change('retry'),
    )
}
