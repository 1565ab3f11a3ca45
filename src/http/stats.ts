import { z } from '@hono/zod-openapi'
import type { Deps } from '../app.ts'
import type { FactKind } from '../journal/entry.ts'
import { withinBounds } from '../ledger/fold.ts'
import type { Span, Step, Timeline, Totals } from '../ledger/stats.ts'
import type { Problem } from '../problems.ts'
import { answer, problemResponse } from './respond.ts'
import { resource } from './route.ts'
import { bookId, dateTime, instant, strict } from './schemas.ts'

const steps = { minute: 60_000, hour: 3_600_000, day: 86_400_000 } as const
/** What is shown where nobody says how much. */
const usualPoints = { minute: 60, hour: 24, day: 30 } as const
const pointsMax = 1_500

/** What clients call the kinds of facts. */
const words = {
  assign: 'assigned',
  lock: 'locked',
  unlock: 'unlocked',
  redeem: 'redeemed',
  rollback: 'rolled_back',
  release: 'released',
  void: 'voided',
} as const satisfies Record<FactKind, string>
type Counts = Record<(typeof words)[FactKind], number>

const Counted = z.object({
  assigned: z.number(),
  locked: z.number().openapi({ description: 'locks, and their extensions' }),
  unlocked: z.number().openapi({ description: 'by their holders: a deadline is no fact' }),
  redeemed: z.number(),
  rolled_back: z.number(),
  released: z.number(),
  voided: z.number(),
  refused: z.record(z.string(), z.number()).openapi({
    description:
      'Refused verbs of clients, by the `code` of the problem; what a distribution is refused stands in ' +
      'its results alone. Approximate: counted in memory and written once a second',
  }),
})
const complete = z.boolean().openapi({
  description: 'false: facts of before an upgrade are still being counted. Ask again in a moment',
})
const share = z.number().nullable()

const TimelineResponse = z
  .object({
    step: z.enum(['minute', 'hour', 'day']),
    from: instant,
    to: instant,
    complete,
    points: z.array(Counted.extend({ at: instant })),
  })
  .openapi('StatsTimeline')

const TotalsResponse = Counted.extend({
  book_id: bookId,
  complete,
  conversion: z
    .object({
      locked: share.openapi({ description: 'locks per assignment' }),
      redeemed: share.openapi({
        description: 'redemptions that were not rolled back, per assignment',
      }),
      redeemed_within: z.array(z.object({ seconds: z.number(), redemptions: z.number(), share })),
    })
    .openapi({
      description:
        'Shares are null where nothing was assigned, and may be over 1 where a coupon has several uses. ' +
        '`redeemed_within`: so soon after the assignment, those that were rolled back later too',
    }),
}).openapi('BookTotals')

const query = strict({
  from: dateTime.optional().openapi({ description: 'Rounded down to a whole step, in UTC' }),
  to: dateTime.optional().openapi({ description: 'Not included. Left out: now' }),
  step: z
    .enum(['minute', 'hour', 'day'])
    .optional()
    .transform((step) => step ?? 'minute')
    .openapi({ type: 'string', enum: ['minute', 'hour', 'day'], default: 'minute' }),
})
const description = `Counted by Redis' clock, in UTC; at most ${pointsMax} steps. \`from\` left out: an hour, a day or 30 days.`

const empty = (): Counts & { refused: Record<string, number> } => ({
  ...{ assigned: 0, locked: 0, unlocked: 0, redeemed: 0 },
  ...{ rolled_back: 0, released: 0, voided: 0, refused: {} },
})

/** Whole steps, the one that `to` lies in too; or what is wrong with them. */
function spanOf(asked: { from?: string; to?: string; step: Step }): Omit<Span, 'book'> | Problem {
  const ms = steps[asked.step]
  const to = Math.ceil((asked.to ? Date.parse(asked.to) : Date.now() + 1) / ms) * ms
  const from = asked.from
    ? Math.floor(Date.parse(asked.from) / ms) * ms
    : to - usualPoints[asked.step] * ms
  const invalid = (path: string, message: string): Problem => ({
    ...{ ok: false, problem: 'invalid-request', errors: [{ path, message }] },
  })
  if (from >= to) return invalid('from', 'must be earlier than to')
  if ((to - from) / ms > pointsMax)
    return invalid('from', `must be at most ${pointsMax} steps before to: take a larger step`)
  return { from: new Date(from), to: new Date(to), step: asked.step }
}

/** Every step has a point, those in which nothing happened too. */
function timelineView({ from, to, step }: Span, { complete, happened, refused }: Timeline) {
  const points = []
  const byTime = new Map<number, ReturnType<typeof empty>>()
  for (let at = from.getTime(); at < to.getTime(); at += steps[step]) {
    const point = { at: new Date(at).toISOString(), ...empty() }
    points.push(point)
    byTime.set(at, point)
  }
  for (const { at, kind, count } of happened) byTime.get(at.getTime())![words[kind]] = count
  for (const { at, reason, count } of refused) byTime.get(at.getTime())!.refused[reason] = count
  return { step, from: from.toISOString(), to: to.toISOString(), complete, points }
}

function totalsView(book_id: string, { complete, happened, refused }: Totals) {
  const sums = empty()
  const soon = new Map<number, number>()
  for (const { kind, within, count } of happened) {
    sums[words[kind]] += count
    if (within > 0) soon.set(within, (soon.get(within) ?? 0) + count)
  }
  for (const { reason, count } of refused) sums.refused[reason] = count
  const perAssignment = (count: number) => (sums.assigned === 0 ? null : count / sums.assigned)
  let redemptions = 0
  const redeemed_within = withinBounds.map((seconds) => {
    redemptions += soon.get(seconds) ?? 0
    return { seconds, redemptions, share: perAssignment(redemptions) }
  })
  const locked = perAssignment(sums.locked)
  const redeemed = perAssignment(sums.redeemed - sums.rolled_back)
  return { book_id, ...sums, complete, conversion: { locked, redeemed, redeemed_within } }
}

/** What happened to books over time, and what came of it. */
export function statsRoutes(deps: Deps) {
  const { books, durable, stats } = deps

  return resource(deps, 'Statistics')
    .route(
      {
        method: 'get',
        path: '/books/{book_id}/stats/timeline',
        summary: 'What happened to a book, step by step: assigned, locked, redeemed, refused, ...',
        description,
        needs: 'anyone',
        params: strict({ book_id: bookId }),
        query,
        answers: { 200: TimelineResponse },
        problems: ['book-not-found'],
      },
      async (c, { params, query }) => {
        const span = spanOf(query)
        if ('problem' in span) return problemResponse(c, span)
        const book = await books.get(params.book_id)
        if ('problem' in book) return problemResponse(c, book)
        const level = await durable.barrier([book.shard])
        if (!level.ok) return problemResponse(c, level)
        const its = { ...span, book }
        return answer(c, 200, timelineView(its, await stats.timeline(its)))
      },
    )
    .route(
      {
        method: 'get',
        path: '/books/{book_id}/stats/totals',
        summary:
          'What happened to a book since it was made, and how much of it led to a redemption',
        needs: 'anyone',
        params: strict({ book_id: bookId }),
        answers: { 200: TotalsResponse },
        problems: ['book-not-found'],
      },
      async (c, { params }) => {
        const book = await books.get(params.book_id)
        if ('problem' in book) return problemResponse(c, book)
        const level = await durable.barrier([book.shard])
        if (!level.ok) return problemResponse(c, level)
        return answer(c, 200, totalsView(book.book_id, await stats.totals(book)))
      },
    )
    .route(
      {
        method: 'get',
        path: '/stats/timeline',
        summary: 'What happened to all books together, step by step',
        description,
        needs: ['admin'],
        query,
        answers: { 200: TimelineResponse },
      },
      async (c, { query }) => {
        const span = spanOf(query)
        if ('problem' in span) return problemResponse(c, span)
        const level = await durable.barrier()
        if (!level.ok) return problemResponse(c, level)
        return answer(c, 200, timelineView(span, await stats.timeline(span)))
      },
    )
}
