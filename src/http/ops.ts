import { z } from '@hono/zod-openapi'
import type { Deps } from '../app.ts'
import type { AuditRow } from '../ledger/audit.ts'
import { problem } from '../problems.ts'
import { type Context, type Principal, requestId } from './context.ts'
import { answer, problemResponse } from './respond.ts'
import { resource } from './route.ts'
import { code, instant, line, queryCount, strict } from './schemas.ts'

export const lookers = ['viewer', 'operator', 'admin'] as const
export const actors = ['operator', 'admin'] as const
export const admins = ['admin'] as const
/** Who asks, on which request, and why. */
export const by = (c: Context, who: Principal, why: string) => ({
  ...{ actor: who.actor, reason: why, request_id: requestId(c) },
})

/** Why it is done: it stands in the audit log. */
export const reason = line(1, 500)
export const limit = queryCount(1, 1_000)
  .optional()
  .transform((value) => value ?? 100)
/** What both stores say, in their own shapes. */
export const loose = z.record(z.string(), z.unknown())

const StatusResponse = z
  .object({
    problems: z.array(z.string()),
    redis: loose,
    postgres: loose,
    processes: z.array(loose),
    shards: z.array(loose),
    parked_facts: z.number().nullable(),
    failed_jobs: z.number().nullable(),
  })
  .openapi('Status')
export const Switched = z
  .object({ before: z.string(), now: z.string(), in_force: z.boolean() })
  .openapi('Switched')
const Deed = z
  .object({
    audit_id: z.number(),
    at: instant,
    actor: z.string(),
    action: z.string(),
    target: z.string(),
    reason: z.string().nullable(),
    detail: loose.nullable(),
  })
  .openapi('Deed')

const ChecklistItem = z
  .object({
    of: z.enum(['redis', 'postgres', 'clock', 'shards', 'queue']),
    setting: z.string(),
    value: z.string(),
    verdict: z.enum(['fine', 'note', 'warning', 'refusal']),
    remedy: z.string(),
  })
  .openapi('ChecklistItem')

const digest = z.string().max(100)
/** As `drain` made it: every member is signed. */
const CertificateBody = strict({
  installation: z.string().max(100),
  at: z.string().max(100),
  book: z.string().max(100).nullable(),
  shards: z
    .array(strict({ shard: z.int(), epoch: z.int(), entry: z.int(), facts: z.int() }))
    .max(64),
  verdict: z.enum(['equal', 'different']),
  books: z
    .array(strict({ book_id: z.string().max(100), codes: z.int(), coupons: z.int(), digest }))
    .max(100_000),
  parked_facts: z.int(),
  compared: z.enum(['exact', 'live']).optional(),
  waiting_jobs: z.array(z.string().max(100)).max(100_000).optional(),
  signature: z.string().max(200),
}).openapi('Certificate')

/** A deed as whoever is no administrator sees it: no e-mail address of others, no code that may be in stock again. */
function blurred(deed: AuditRow): AuditRow {
  const target = deed.target.startsWith('coupon:') ? 'coupon:…' : deed.target
  if (!deed.detail) return { ...deed, target }
  const hidden = (name: string, value: unknown) =>
    name === 'email' || name === 'code' ? undefined : value
  return { ...deed, target, detail: JSON.parse(JSON.stringify(deed.detail, hidden)) }
}

/** The operators' verbs over HTTP: the same functions as `npm run stampede`. */
export function opsRoutes(deps: Deps) {
  const { ops } = deps

  return resource(deps, 'Ops')
    .route(
      {
        method: 'get',
        path: '/ops/status',
        summary: 'How the installation is: problems first',
        needs: lookers,
        answers: { 200: StatusResponse },
      },
      async (c) => {
        // Its dates become text on the way out.
        return answer(c, 200, (await ops.status()) as unknown as z.input<typeof StatusResponse>)
      },
    )
    .route(
      {
        method: 'get',
        path: '/ops/doctor',
        summary:
          'Whether the settings of Redis, PostgreSQL and BullMQ keep our promises, each with its remedy',
        needs: lookers,
        answers: { 200: z.object({ items: z.array(ChecklistItem) }) },
      },
      async (c) => answer(c, 200, { items: await ops.doctor() }),
    )
    .route(
      {
        method: 'post',
        path: '/ops/certificates/verify',
        summary: 'Whether this installation has signed a certificate exactly as it is',
        needs: lookers,
        body: CertificateBody,
        answers: { 200: z.object({ genuine: z.boolean() }) },
      },
      async (c, { body }) => answer(c, 200, { genuine: await ops.isGenuine(body) }),
    )
    .route(
      {
        method: 'post',
        path: '/ops/intake',
        summary: 'Stop or open intake of all coupon verbs',
        needs: actors,
        body: strict({ state: z.enum(['open', 'stopped']), reason }),
        answers: { 200: Switched },
      },
      async (c, { body }, who) =>
        answer(c, 200, await ops.setIntake(body.state, by(c, who, body.reason))),
    )
    .route(
      {
        method: 'post',
        path: '/ops/flush',
        summary: 'Hold the flush or let it run',
        needs: actors,
        body: strict({ state: z.enum(['running', 'paused']), reason }),
        answers: { 200: Switched },
      },
      async (c, { body }, who) =>
        answer(c, 200, await ops.setFlush(body.state, by(c, who, body.reason))),
    )
    .route(
      {
        method: 'get',
        path: '/ops/coupons/{code}',
        summary: 'Every fact of a coupon, and what both stores say of it now',
        needs: lookers,
        guesses: true,
        params: strict({ code }),
        answers: { 200: loose },
        problems: ['coupon-not-found', 'not-ready'],
      },
      async (c, { params }) => {
        const found = await ops.timeline(params.code)
        if (!found) return problemResponse(c, problem('coupon-not-found'))
        if ('problem' in found) return problemResponse(c, found)
        return answer(c, 200, { ...found })
      },
    )
    .route(
      {
        method: 'get',
        path: '/ops/audit',
        summary: 'What operators did, and why, the newest first',
        description:
          'Administrators see all of it. Viewers and operators see no e-mail address of others, and no ' +
          'code: what was put back into stock is for whoever gets it next.',
        needs: lookers,
        query: strict({
          limit,
          before: queryCount(1, 999_999_999)
            .optional()
            .openapi({ description: '`audit_id` of the last deed of the page before' }),
        }),
        answers: { 200: z.object({ deeds: z.array(Deed) }) },
      },
      async (c, { query }, who) => {
        const deeds = await ops.deeds({
          limit: query.limit,
          ...(query.before === undefined ? {} : { before: query.before }),
        })
        return answer(c, 200, {
          deeds: (who.kind === 'admin' ? deeds : deeds.map(blurred)).map(
            ({ at, reason: why, detail, ...deed }) => ({
              ...{ ...deed, at: at.toISOString() },
              ...{ reason: why ?? null, detail: detail ?? null },
            }),
          ),
        })
      },
    )
}
