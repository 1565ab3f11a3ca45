import type { RouteConfig, z } from '@hono/zod-openapi'
import { type ProblemCode, problemStatus } from '../problems.ts'
import type { Answers, Method, Needs, RouteAt } from './route.ts'

const bearer = { bearer: [] as string[] }
const security = { nobody: [], nearby: [bearer, {}], anyone: [bearer] }

/** The OpenAPI operation of a route's declaration. */
export function operation(spec: RouteAt, tag: string): RouteConfig {
  const { params, query, body } = spec
  return {
    method: spec.method,
    path: spec.path,
    operationId: operationId(spec),
    tags: [tag],
    summary: spec.summary,
    ...(spec.description ? { description: spec.description } : {}),
    security: security[typeof spec.needs === 'string' ? spec.needs : 'anyone'],
    request: {
      ...(params ? { params: params as z.ZodObject } : {}),
      ...(query ? { query: query as z.ZodObject } : {}),
      ...(body
        ? {
            body: {
              required: spec.bodyOptional !== true,
              content: { 'application/json': { schema: body } },
            },
          }
        : {}),
      ...(spec.takes ? { body: { required: true, content: files(spec.takes) } } : {}),
    },
    responses: responses(spec.answers, problemsOf(spec), spec.gives),
  }
}

/** A file as OpenAPI has it; in a form it is the part of this name. */
function files(types: readonly string[]) {
  const text = { type: 'string', format: 'binary' } as const
  const form = { type: 'object', properties: { file: text } } as const
  return Object.fromEntries(
    types.map((type) => [type, { schema: type.startsWith('multipart/') ? form : text }]),
  )
}

/** `postCouponsLockByCode`: what generated clients call the function. */
function operationId({ method, path }: RouteAt): string {
  const words = path.replaceAll(/\{(.+?)\}/g, 'by $1').split(/[^A-Za-z]+/)
  const capital = (word: string) => word.charAt(0).toUpperCase() + word.slice(1)
  return method + words.filter(Boolean).map(capital).join('')
}

const ofGuard = [
  'unauthenticated',
  'account-inactive',
  'not-ready',
  // Of keys that were made for something else, too.
  'forbidden',
  'too-many-requests',
] as const
/** A write whose COMMIT was not answered. */
const ofWrite = 'outcome-unknown' as const
const ofInput = 'invalid-request' as const
const ofBody = ['malformed-json', 'body-too-large', 'unsupported-media-type'] as const
const ofAll = 'internal-error' as const

/** Everything a route may refuse with: what it declares, and what its guard and its input imply. */
export function problemsOf(spec: RouteAt): ProblemCode[] {
  const isGuarded = spec.needs !== 'nobody'
  const codes: ProblemCode[] = [
    ...(spec.problems ?? []),
    ...(isGuarded ? ofGuard : []),
    ...(isGuarded && spec.method !== 'get' ? [ofWrite] : []),
    ...(spec.params || spec.query || spec.body ? [ofInput] : []),
    ...(spec.body ? ofBody : []),
    ofAll,
  ]
  return [...new Set(codes)]
}

/** The same as a type, of the members of a declaration. */
export type ProblemsOf<M extends Method, P, Q, B, N extends Needs, C extends ProblemCode> =
  | C
  | (N extends 'nobody'
      ? never
      : (typeof ofGuard)[number] | (M extends 'get' ? never : typeof ofWrite))
  | ([P, Q, B] extends [undefined, undefined, undefined] ? never : typeof ofInput)
  | (B extends undefined ? never : (typeof ofBody)[number])
  | typeof ofAll

/** Answers and problems as OpenAPI responses. Problems of one status share a response. */
export function responses(
  answers: Answers,
  problems: readonly ProblemCode[],
  gives?: readonly string[],
) {
  const all: RouteConfig['responses'] = {}
  for (const [status, schema] of Object.entries(answers))
    all[status] = schema
      ? { description: 'Done', content: { 'application/json': { schema } } }
      : { description: 'Done', ...(gives ? { content: files(gives) } : {}) }
  for (const [status, codes] of Object.entries(Object.groupBy(problems, problemStatus)))
    all[status] = {
      description: codes.map((code) => `\`${code}\``).join(', '),
      content: {
        ...(all[status] as { content?: object } | undefined)?.content,
        'application/problem+json': {
          schema: {
            allOf: [
              { $ref: '#/components/schemas/Problem' },
              { type: 'object', properties: { code: { type: 'string', enum: codes } } },
            ],
          },
        },
      },
    }
  return all
}
