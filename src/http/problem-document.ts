import { z } from '@hono/zod-openapi'
import { type ProblemCode, problemCodes } from '../problems.ts'

/** A problem as clients get it (RFC 9457); some bring members of their own, such as `locked_until`. */
export const ProblemDocument = z
  .looseObject({
    type: z.string(),
    title: z.string(),
    status: z.int(),
    detail: z.string().openapi({ description: 'What to do next' }),
    instance: z.string(),
    code: z.enum(problemCodes),
    request_id: z.string(),
    errors: z.array(z.object({ path: z.string(), message: z.string() })).optional(),
  })
  .openapi('Problem')

/** The document of one of these. */
export type DocumentOf<C extends ProblemCode> = z.output<typeof ProblemDocument> & { code: C }
