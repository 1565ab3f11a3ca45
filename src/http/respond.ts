import type { TypedResponse } from 'hono'
import type { StatusCode } from 'hono/utils/http-status'
import type { z } from 'zod'
import { type FieldError, type Problem, problemDocument, problemStatus } from '../problems.ts'
import { type Context, requestId } from './context.ts'
import { ofJson } from './headers.ts'

type Headers = Record<string, string>

/** A JSON answer whose status and body the compiler checks against the route's declaration. */
export type Answer<S extends StatusCode, B> = Response & TypedResponse<B, S, 'json'>

/**
 * Every JSON answer leaves here. Headers are a plain object, because @hono/node-server writes one
 * as it is, while a Headers instance costs more than the rest of the answer.
 */
export function answer<const S extends StatusCode, B>(
  c: Context,
  status: S,
  body: B,
  headers?: Headers,
): Answer<S, B> {
  return rawJson(c, status, JSON.stringify(body), headers) as Answer<S, B>
}

/** The same for a body that is JSON text already. */
export function rawJson(c: Context, status: number, json: string, headers?: Headers): Response {
  return send(c, status, json, 'application/json', headers)
}

/** The same for text that is no JSON. */
export function plainText(c: Context, text: string, type: string): Answer<200, null> {
  return send(c, 200, text, type) as Answer<200, null>
}

/** An answer that is made while it is sent; null: its headers alone. */
export function streamed(c: Context, body: ReadableStream | null, type: string, more: Headers) {
  return send(c, 200, body, type, more) as Answer<200, null>
}

/** An answer without a body. */
export function noContent(c: Context): Answer<204, null> {
  return new Response(null, {
    status: 204,
    headers: { ...ofJson, 'X-Request-Id': requestId(c), 'Cache-Control': 'no-store' },
  }) as Answer<204, null>
}

function send(
  c: Context,
  status: number,
  body: string | ReadableStream | null,
  type: string,
  more?: Headers,
): Response {
  const headers: Headers = {
    'Content-Type': type,
    'X-Request-Id': requestId(c),
    'Cache-Control': 'no-store',
    // Written out, because this stands behind every request: headers.ts says why these.
    'X-Content-Type-Options': ofJson['X-Content-Type-Options'],
    'Content-Security-Policy': ofJson['Content-Security-Policy'],
    'Strict-Transport-Security': ofJson['Strict-Transport-Security'],
  }
  if (more !== undefined) Object.assign(headers, more)
  return new Response(body, { status, headers })
}

/** A problem as application/problem+json. Fits every route: which ones it may answer is declared. */
export function problemResponse(c: Context, refusal: Problem): Answer<never, never> {
  const status = problemStatus(refusal.problem)
  c.set('outcome', refusal.problem)
  const document = problemDocument(refusal, c.req.path, requestId(c))
  const headers: Headers = {}
  const retryAfter = refusal.retryAfter ?? (status === 503 ? 1 : undefined)
  if (retryAfter !== undefined) headers['Retry-After'] = String(Math.ceil(retryAfter))
  if (status === 429) Object.assign(headers, rateHeaders(refusal))
  if (status === 401) headers['WWW-Authenticate'] = 'Bearer'
  if (status === 405) headers.Allow = String(refusal.values?.allow)
  const body = JSON.stringify(document)
  return send(c, status, body, 'application/problem+json', headers) as Answer<never, never>
}

/** As draft-ietf-httpapi-ratelimit-headers has them: what the limit is, and when it is over. */
function rateHeaders({ values }: Problem): Headers {
  const { policy, quota, seconds, retry_after } = values!
  return {
    'RateLimit-Policy': `"${policy}";q=${quota};w=${seconds}`,
    RateLimit: `"${policy}";r=0;t=${retry_after}`,
  }
}

/** More than this many wrong fields help nobody, and a body may hold thousands. */
const errorsMax = 20

/** zod's issues as `errors[]`: paths as in `codes[3]`, the message, and nothing of the input. */
export function invalidRequest(error: z.core.$ZodError, root = ''): Problem {
  const errors: FieldError[] = []
  for (const issue of error.issues) {
    const path = issue.path.reduce<string>(joined, root)
    if (issue.code === 'unrecognized_keys')
      for (const key of issue.keys)
        errors.push({ path: joined(path, key.slice(0, 100)), message: 'is not known here' })
    else errors.push({ path: path || 'body', message: issue.message })
    if (errors.length >= errorsMax) break
  }
  return { ok: false, problem: 'invalid-request', errors: errors.slice(0, errorsMax) }
}

function joined(path: string, key: PropertyKey): string {
  if (typeof key === 'number') return `${path}[${key}]`
  return path === '' ? String(key) : `${path}.${String(key)}`
}
