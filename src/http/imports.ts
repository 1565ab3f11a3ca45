import { z } from '@hono/zod-openapi'
import type { Deps } from '../app.ts'
import { csvReader } from '../files/csv.ts'
import { ndjsonReader } from '../files/ndjson.ts'
import { UnusableFile } from '../files/row.ts'
import { type Problem, problem } from '../problems.ts'
import type { Stage } from '../recovery/imports.ts'
import { type Context, requestId } from './context.ts'
import { readOnce, replayedHeader } from './effect.ts'
import { JobResponse, jobView } from './jobs.ts'
import { takeTime } from './listener.ts'
import { answer, problemResponse } from './respond.ts'
import { resource } from './route.ts'
import { bookId, strict } from './schemas.ts'
import { isBroken, pace, StrayField, TooSlow, UnsupportedFile, uploadOf } from './upload.ts'

const formats = ['csv', 'ndjson'] as const
type Format = (typeof formats)[number]

const notInForms = 'is not read from a form: put it into the query; the form has the file alone'

/** Reads the file of a request into a stage, row by row; what is wrong with it is a problem. */
async function readFile(
  c: Context,
  format: Format | undefined,
  stage: Stage,
): Promise<Problem | undefined> {
  try {
    const { bytes, isJson } = await uploadOf(c)
    let rows = 0
    const open = (format ?? (isJson ? 'ndjson' : 'csv')) === 'csv' ? csvReader : ndjsonReader
    const reader = open((row) => {
      rows += 1
      stage.add(row)
    })
    for await (const slice of bytes) {
      await reader.push(slice)
      await stage.settle()
    }
    await reader.end()
    if (rows === 0) throw new UnusableFile(1, 'the file has no rows')
  } catch (error) {
    // Refusals come up through streams, which know errors only.
    if (error instanceof UnusableFile)
      return problem('unusable-file', { line: error.line, reason: error.message })
    if (error instanceof UnsupportedFile) return problem('unsupported-file')
    if (error instanceof StrayField)
      return { ...problem('invalid-request'), errors: [{ path: error.field, message: notInForms }] }
    if (error instanceof TooSlow)
      return problem('upload-too-slow', { bytes: pace.bytes, seconds: pace.ms / 1000 })
    // Nobody will read this answer.
    if (isBroken(error))
      return problem('unusable-file', { line: 0, reason: 'the upload broke off' })
    throw error
  }
}

/** Files of codes, into a book: taken in while they arrive, imported by a job. */
export function importRoutes(deps: Deps) {
  return resource(deps, 'Files').route(
    {
      method: 'post',
      path: '/books/{book_id}/imports',
      scope: 'books',
      summary: 'Import up to 10,000,000 codes from a file, CSV or NDJSON, by a job',
      description:
        'CSV has a header row with `code` and perhaps `max_redemptions` (empty: the book’s; ' +
        '`unlimited`); other columns are kept as metadata. NDJSON has an object of these a line ' +
        '(null: no limit). The body is the file, or a form with it alone; gzip by header or as a ' +
        'file. Answered once PostgreSQL has all of it. Its job checks all rows (`on_error=refuse` alone), ' +
        'writes them, then brings them into stock: `total` counts the rows that could be read, and ' +
        '`done` is how far all of these steps together have come. `result` has the counts, also where ' +
        'the job failed. A repeat under the same Idempotency-Key is answered with the first job, ' +
        'whatever its file holds.',
      needs: ['admin', 'service'],
      params: strict({ book_id: bookId }),
      query: strict({
        format: z.enum(formats).optional().openapi({
          description: 'Left out: NDJSON where Content-Type or file name say JSON, else CSV',
        }),
        on_duplicate: z.enum(['fail', 'skip']).optional().openapi({
          description: 'What if a code exists: count its row as bad, or skip it',
          default: 'fail',
        }),
        on_error: z.enum(['keep', 'refuse']).optional().openapi({
          description: 'What if rows are bad: import the good ones, or nothing at all',
          default: 'refuse',
        }),
      }),
      takes: ['text/csv', 'application/x-ndjson', 'application/gzip', 'multipart/form-data'],
      answers: { 202: JobResponse },
      problems: [
        'book-not-found',
        'book-archived',
        'wrong-book-kind',
        'unsupported-file',
        'unusable-file',
        'upload-too-slow',
        'upload-dropped',
        'transfers-busy',
        'idempotency-key-reused',
      ],
    },
    async (c, { params, query }, who) => {
      const { format, on_duplicate = 'fail', on_error = 'refuse' } = query
      const keyed = readOnce(c, who, 'import', params.book_id, query)
      if ('problem' in keyed) return problemResponse(c, keyed)
      const by = { created_by: who.actor, request_id: requestId(c) }
      const wanted = { ...keyed, ...params, on_duplicate, on_error, ...by }
      const done = takeTime(c)
      try {
        const made = await deps.imports.take(wanted, (stage) => readFile(c, format, stage))
        if ('problem' in made) return problemResponse(c, made)
        return answer(c, 202, jobView(made.job), {
          Location: `/api/v1/jobs/${made.job.job_id}`,
          ...replayedHeader(made),
        })
      } finally {
        done()
      }
    },
  )
}
