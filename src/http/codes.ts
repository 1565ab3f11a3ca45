import { z } from '@hono/zod-openapi'
import type { Deps } from '../app.ts'
import { maxUnits } from './book-view.ts'
import { type Context, type Principal, requestId } from './context.ts'
import { readOnce, replayedHeader } from './effect.ts'
import { JobResponse, jobView } from './jobs.ts'
import { answer, problemResponse } from './respond.ts'
import { resource } from './route.ts'
import { bookId, count, line, looseFlag, newCode, queryFlag, strict } from './schemas.ts'

const params = strict({ book_id: bookId })
const writers = ['admin', 'service'] as const
const uploadBytes = 1024 * 1024

const limit = count(1).nullable().optional().openapi({
  description: "How often each may be redeemed. null: no limit; left out: the book's",
})
/** As PostgreSQL and Redis keep it: null = the book's, 0 = no limit. */
const keptLimit = (max: number | null | undefined) => (max === undefined ? null : (max ?? 0))

const generateShape = {
  count: count(1, 1_000_000),
  pattern: line(1, 50).nullable().optional().openapi({
    description: "`{}` is the random part; without it a prefix. Left out: the book's pattern",
    example: 'SUMMER-{}',
  }),
  length: count(4, 50).optional().openapi({ description: 'of the random part', default: 8 }),
  charset: z
    .string()
    .regex(/^[\x21-\x7e]{2,94}$/, 'must be 2 to 94 visible ASCII characters')
    .refine((text) => new Set(text).size === text.length, 'must not name a character twice')
    .optional()
    .openapi({ description: 'of the random part. Left out: A-Z and 0-9' }),
  max_redemptions: limit,
}
const GenerateRequest = strict(generateShape).openapi('GenerateCodesRequest')

const GeneratedResponse = z
  .object({
    book_id: bookId,
    codes_created: z.number(),
    codes: z.array(z.string()).nullable(),
  })
  .openapi('GeneratedCodes')

const uploadShape = {
  codes: z
    .array(newCode)
    .min(1)
    .max(10_000)
    .superRefine((codes, ctx) => {
      const seen = new Set<string>()
      for (const [i, one] of codes.entries()) {
        if (seen.has(one))
          ctx.addIssue({ code: 'custom', path: [i], message: 'stands in the list before' })
        seen.add(one)
      }
    }),
  max_redemptions: limit,
}
const UploadRequest = strict(uploadShape).openapi('UploadCodesRequest')

const UploadedResponse = GeneratedResponse.extend({
  codes_skipped: z.number(),
  skipped: z.array(z.string()).openapi({ description: 'existed before' }),
}).openapi('UploadedCodes')

/** A list or a number: which of the two it is, the body says. */
const fillShapes = [uploadShape, { ...generateShape, include_codes: looseFlag.optional() }] as const
const FillRequest = z.union([strict(fillShapes[0]), strict(fillShapes[1])])
const FillBookRequest = z.union([
  strict({ book_id: bookId, ...fillShapes[0] }),
  strict({ book_id: bookId, ...fillShapes[1] }),
])

const UnitsResponse = z
  .object({ book_id: bookId, units_added: z.number(), total_code_count: z.number() })
  .openapi('AddedUnits')

/** What fills a book: PostgreSQL first, then Redis; answered once the codes can be assigned. */
export function codeRoutes(deps: Deps) {
  const { books } = deps

  async function generate(
    c: Context,
    who: Principal,
    params: { book_id: string },
    query: { include_codes?: boolean | undefined },
    body: z.output<typeof GenerateRequest>,
  ) {
    const keyed = readOnce(c, who, 'generate', params.book_id, { ...query, ...body })
    if ('problem' in keyed) return problemResponse(c, keyed)
    const made = await books.generate({
      ...keyed,
      ...params,
      ...body,
      max_redemptions: keptLimit(body.max_redemptions),
      created_by: who.actor,
      request_id: requestId(c),
    })
    if ('problem' in made) return problemResponse(c, made)
    if (made.job)
      return answer(c, 202, jobView(made.job), {
        Location: `/api/v1/jobs/${made.job.job_id}`,
        ...replayedHeader(made),
      })
    const codes = query.include_codes ? made.codes : null
    return answer(
      c,
      200,
      { ...params, codes_created: made.codes.length, codes },
      replayedHeader(made),
    )
  }

  async function upload(
    c: Context,
    who: Principal,
    params: { book_id: string },
    query: { on_duplicate?: 'fail' | 'skip' | undefined },
    body: z.output<typeof UploadRequest>,
  ) {
    const keyed = readOnce(c, who, 'upload', params.book_id, { ...query, ...body })
    if ('problem' in keyed) return problemResponse(c, keyed)
    const added = await books.upload({
      ...keyed,
      ...params,
      codes: body.codes,
      max_redemptions: keptLimit(body.max_redemptions),
      on_duplicate: query.on_duplicate ?? 'fail',
      created_by: who.actor,
      request_id: requestId(c),
    })
    if ('problem' in added) return problemResponse(c, added)
    const fresh = new Set(added.codes!)
    const skipped = body.codes.filter((one) => !fresh.has(one))
    const counts = {
      codes_created: fresh.size,
      codes: null,
      codes_skipped: skipped.length,
      skipped,
    }
    return answer(c, 200, { ...params, ...counts }, replayedHeader(added))
  }

  const either = {
    method: 'post',
    summary: 'Fill a book with codes: a list of your own, or so many generated ones',
    needs: writers,
    scope: 'books',
    bodyLimit: uploadBytes,
    answers: { 200: z.union([UploadedResponse, GeneratedResponse]), 202: JobResponse },
    problems: [
      'book-not-found',
      'book-archived',
      'wrong-book-kind',
      'codes-exist',
      'invalid-pattern',
      'pattern-too-small',
      'idempotency-key-reused',
      'not-in-force',
    ],
  } as const
  const fill = (
    c: Context,
    who: Principal,
    book_id: string,
    body: z.output<typeof FillRequest>,
  ) => {
    if ('codes' in body) return upload(c, who, { book_id }, {}, body)
    const { include_codes, ...wanted } = body
    return generate(c, who, { book_id }, { include_codes }, wanted)
  }

  return resource(deps, 'Codes')
    .route(
      {
        method: 'post',
        path: '/books/{book_id}/codes/generate',
        summary: 'Generate codes: up to 10,000 at once, up to 1,000,000 by a job',
        description:
          'Without a pattern: 16 characters of Crockford base 32. All random parts come from the ' +
          "operating system's cryptographic generator.",
        needs: writers,
        scope: 'books',
        params,
        query: strict({ include_codes: queryFlag.optional() }),
        body: GenerateRequest,
        answers: { 200: GeneratedResponse, 202: JobResponse },
        problems: [
          'book-not-found',
          'book-archived',
          'wrong-book-kind',
          'invalid-pattern',
          'pattern-too-small',
          'idempotency-key-reused',
          'not-in-force',
        ],
      },
      (c, { params, query, body }, who) => generate(c, who, params, query, body),
    )
    .route(
      {
        method: 'post',
        path: '/books/{book_id}/codes/upload',
        summary: 'Add up to 10,000 codes of your own',
        needs: writers,
        scope: 'books',
        params,
        query: strict({
          on_duplicate: z.enum(['fail', 'skip']).optional().openapi({
            description: 'What if some exist: refuse all, or skip those',
            default: 'fail',
          }),
        }),
        body: UploadRequest,
        bodyLimit: uploadBytes,
        answers: { 200: UploadedResponse },
        problems: [
          'book-not-found',
          'book-archived',
          'wrong-book-kind',
          'codes-exist',
          'idempotency-key-reused',
          'not-in-force',
        ],
      },
      (c, { params, query, body }, who) => upload(c, who, params, query, body),
    )
    .route(
      {
        ...either,
        path: '/coupons/codes',
        body: FillBookRequest,
      },
      (c, { body: { book_id, ...body } }, who) => fill(c, who, book_id, body),
    )
    .route(
      { ...either, path: '/books/{book_id}/codes', params, body: FillRequest },
      (c, { params, body }, who) => fill(c, who, params.book_id, body),
    )
    .route(
      {
        method: 'post',
        path: '/books/{book_id}/units',
        summary: 'Add units to a counter book',
        needs: writers,
        scope: 'books',
        params,
        body: strict({ count: count(1, maxUnits) }).openapi('AddUnitsRequest'),
        answers: { 200: UnitsResponse },
        problems: ['book-not-found', 'book-archived', 'idempotency-key-reused', 'not-in-force'],
      },
      async (c, { params, body }, who) => {
        const keyed = readOnce(c, who, 'units', params.book_id, body)
        if ('problem' in keyed) return problemResponse(c, keyed)
        const book = await books.addUnits(
          ...([params.book_id, body.count, who.actor, keyed.once, requestId(c)] as const),
        )
        if ('problem' in book) return problemResponse(c, book)
        const { total_code_count } = book
        const counts = { units_added: body.count, total_code_count }
        return answer(c, 200, { ...params, ...counts }, replayedHeader(book))
      },
    )
}
