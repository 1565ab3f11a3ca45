import { z } from '@hono/zod-openapi'
import type { Deps } from '../app.ts'
import type { Book } from '../ledger/books.ts'
import type {
  ExportedCode,
  ExportedFact,
  ExportedRedemption,
  ExportFilter,
} from '../ledger/exports.ts'
import { type Problem, problem } from '../problems.ts'
import { codeView } from './book-lists.ts'
import { download, downloadTypes, formats, type Line } from './download.ts'
import { letIn } from './lasting.ts'
import { problemResponse } from './respond.ts'
import { resource } from './route.ts'
import { bookId, code, dateTime, strict, userId, uuid } from './schemas.ts'

const readers = ['admin', 'service'] as const
const couponStates = ['UNASSIGNED', 'ASSIGNED', 'LOCKED', 'REDEEMED', 'EXPIRED', 'VOID']
const kinds = ['assign', 'lock', 'unlock', 'redeem', 'rollback', 'release', 'void']

const couponColumns = [
  ...['code', 'state', 'assigned_user_id', 'redemption_count', 'max_redemptions', 'locked_until'],
  ...['created_at', 'updated_at', 'metadata'],
]

/** A coupon as lists have it, without what every line would repeat. */
function couponLine(
  book: Book,
  { metadata, ...row }: ExportedCode,
  now: Date,
  usual: number,
): Line {
  const coupon = row.coupon && { ...row.coupon, code: row.code }
  const view = codeView(book, { ...row, coupon, max: row.max_redemptions ?? usual }, now)
  const { code, state, assigned_user_id, redemption_count, max_redemptions } = view
  const { locked_until, created_at, updated_at } = view
  return {
    ...{ code, state, assigned_user_id, redemption_count },
    max_redemptions: max_redemptions ?? 'unlimited',
    ...{ locked_until, created_at, updated_at, metadata },
  }
}

const plain = (row: ExportedRedemption | ExportedFact): Line => ({ ...row })

/** The fact's name as exports and operations have it: shard/epoch-n/i. */
const factName = z.string().regex(/^\d{1,3}\/\d{1,15}-\d{1,15}\/\d{1,9}$/)

/** What can be exported: its columns, what `state` may be, and how the first column names a line. */
const files = {
  coupons: { columns: couponColumns, states: couponStates, name: code },
  assignments: {
    columns: couponColumns,
    name: code,
    states: couponStates.filter((state) => state !== 'UNASSIGNED' && state !== 'VOID'),
  },
  redemptions: {
    columns: [
      ...['redemption_id', 'code', 'user_id', 'redeemed_at', 'rolled_back_at', 'rolled_back_by'],
      'metadata',
    ],
    name: uuid,
    states: ['REDEEMED', 'ROLLED_BACK'],
  },
  facts: {
    columns: [
      ...['fact', 'at', 'kind', 'code', 'user_id', 'version', 'redemptions', 'max_redemptions'],
      ...['locked_until', 'redemption_id', 'actor', 'request_id', 'metadata', 'recorded_at'],
    ],
    name: factName,
    states: kinds,
  },
} as const
const whats = ['coupons', 'assignments', 'redemptions', 'facts'] as const
type What = (typeof whats)[number]

/** Lines of a book, page by page. */
async function* linesOf(deps: Deps, what: What, book: Book, filter: ExportFilter) {
  const { exports } = deps
  if (what === 'redemptions' || what === 'facts') {
    for await (const { rows } of exports[what](book, filter)) yield rows.map(plain)
    return
  }
  const pages = what === 'coupons' ? exports.codes : exports.assignments
  const usual = deps.books.maxRedemptions(book)
  for await (const { now, rows } of pages(book, filter))
    yield rows.map((row) => couponLine(book, row, now, usual))
}

const invalid = (path: string, message: string): Problem => ({
  ok: false,
  problem: 'invalid-request',
  errors: [{ path, message }],
})

/** Whether something can come behind it: a file that is empty would be taken for the rest of a book. */
const fits = async ({ exports }: Deps, what: What, book: Book, after: string) =>
  files[what].name.safeParse(after).success && (await exports.hasLine(what, book, after))

/** Whole tables of a book as files, and the reports of its imports. */
export function exportRoutes(deps: Deps) {
  const { books, durable, exports, imports, log } = deps

  return resource(deps, 'Files')
    .route(
      {
        method: 'get',
        path: '/books/{book_id}/export/{what}',
        summary: 'Download coupons, assignments, redemptions or facts of a book: CSV or NDJSON',
        description:
          'As the book was at one moment, with all that was answered before. In CSV, text that a ' +
          "spreadsheet would take for a formula has a `'` in front of it; NDJSON has it as it is. A " +
          'connection that breaks means that the file is not whole: `after` goes on behind the last ' +
          'whole line, with what is there then. It is broken off within about a second once the key is ' +
          'revoked, the account inactive or the token over. Lock tokens are never in it.',
        needs: readers,
        params: strict({ book_id: bookId, what: z.enum(whats) }),
        query: strict({
          format: z.enum(formats).optional().openapi({ default: 'csv' }),
          state: z
            .string()
            .max(20)
            .optional()
            .openapi({
              description: `Of coupons and assignments as they are listed; of redemptions: ${files.redemptions.states.join(', ')}; of facts the kind: ${kinds.join(', ')}`,
            }),
          user_id: userId.optional(),
          from: dateTime.optional().openapi({
            description: 'When it was assigned, redeemed or happened: from then on',
          }),
          to: dateTime.optional().openapi({ description: 'and before then' }),
          after: z
            .string()
            .min(1)
            .max(80)
            .optional()
            .openapi({
              description:
                'Only lines behind this one, and no line of column names: the code, redemption_id or fact ' +
                "of the last whole line, without the `'` that CSV may have put in front. (A code may " +
                'begin with one of its own: only NDJSON leaves no doubt.)',
            }),
        }),
        gives: downloadTypes,
        answers: { 200: null },
        problems: ['book-not-found', 'transfers-busy'],
      },
      async (c, { params: { book_id, what }, query }) => {
        const { format = 'csv', state, user_id, from, to, after } = query
        const { columns, states } = files[what]
        if (state !== undefined && !(states as readonly string[]).includes(state))
          return problemResponse(c, invalid('state', `must be one of ${states.join(', ')}`))
        const book = await books.get(book_id)
        if ('problem' in book) return problemResponse(c, book)
        const level = await durable.barrier([book.shard])
        if (!level.ok) return problemResponse(c, level)
        if (after !== undefined && !(await fits(deps, what, book, after)))
          return problemResponse(c, invalid('after', `must be a ${columns[0]} of the book`))
        const leave = exports.enter()
        if (!leave) return problemResponse(c, { ...problem('transfers-busy'), retryAfter: 5 })
        const day = (time: string | undefined) => (time === undefined ? undefined : new Date(time))
        const filter = { state, user_id, from: day(from), to: day(to), after }
        const pages = linesOf(deps, what, book, filter)
        const isRest = after !== undefined
        const name = `${what}-${book_id}`
        const isLetIn = letIn(deps, c, readers)
        return download(c, log, { format, name, columns, isRest, pages, isLetIn, leave })
      },
    )
    .route(
      {
        method: 'get',
        path: '/imports/{job_id}/report',
        summary: 'Which rows of a file were not imported, and why: CSV',
        description: 'By line of the file; kept for 7 days after the end of the job.',
        needs: readers,
        params: strict({ job_id: uuid }),
        gives: ['text/csv'],
        answers: { 200: null },
        problems: ['job-not-found', 'report-gone', 'transfers-busy'],
      },
      async (c, { params: { job_id } }) => {
        const found = await imports.ofJob(job_id)
        if ('problem' in found) return problemResponse(c, found)
        const leave = exports.enter()
        if (!leave) return problemResponse(c, { ...problem('transfers-busy'), retryAfter: 5 })
        const faults = exports.faults(found.import_id)
        const pages = (async function* () {
          for await (const { rows } of faults) yield rows.map((row): Line => ({ ...row }))
        })()
        const columns = ['line', 'code', 'kind', 'reason']
        return download(c, log, {
          ...{ format: 'csv', name: `import-${job_id}`, columns, pages, leave },
          isLetIn: letIn(deps, c, readers),
        })
      },
    )
}
