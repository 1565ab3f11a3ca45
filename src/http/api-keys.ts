import { z } from '@hono/zod-openapi'
import type { Deps } from '../app.ts'
import { type Scope, scopes } from '../keys.ts'
import type { ApiKey } from '../ledger/accounts.ts'
import { byRequest } from './context.ts'
import { reason } from './ops.ts'
import { answer, noContent, problemResponse } from './respond.ts'
import { resource } from './route.ts'
import { count, instant, line, listOf, page, strict } from './schemas.ts'
import { makeApiKey } from './tokens.ts'

const keyId = z
  .string()
  .regex(/^[0-9a-f]{16}$/, 'must be 16 hexadecimal digits')
  .openapi({ example: '5f0c2b9e41d7a683' })

const perSecond = count(1, 1_000_000)
const limits = strict({
  ...(Object.fromEntries(
    [...scopes, 'all' as const].map((name) => [name, perSecond.optional()]),
  ) as Record<Scope | 'all', z.ZodOptional<z.ZodNumber>>),
  routes: z
    .record(z.string().max(100), perSecond)
    .optional()
    .openapi({
      description:
        'Of single routes, by method and path below /api/v1: `{"POST /coupons/assign": 50}`. Each path of a ' +
        'route that has two is one of its own',
    }),
}).openapi({
  description:
    'Requests a second, by scope, by route and of `all` together, of each API process; a batch is one ' +
    'request, whatever it holds. null: no limit',
})

const ApiKeyResponse = z
  .object({
    key_id: z.string(),
    name: z.string(),
    created_by: z.string(),
    created_at: instant,
    revoked_at: instant.nullable(),
    last_used_at: instant.nullable().openapi({ description: 'To the minute' }),
    scopes: z.array(z.enum(scopes)).nullable().openapi({
      description: 'What it may do. null: all that a service may',
    }),
    limits: limits.nullable(),
  })
  .openapi('ApiKeyResponse')
const NewApiKeyResponse = ApiKeyResponse.extend({
  key: z.string().openapi({ description: 'The key itself. It is shown this once.' }),
}).openapi('NewApiKeyResponse')

const view = (key: ApiKey) => ({
  key_id: key.key_id,
  name: key.name,
  created_by: key.created_by,
  created_at: key.created_at.toISOString(),
  revoked_at: key.revoked_at?.toISOString() ?? null,
  last_used_at: key.last_used_at?.toISOString() ?? null,
  scopes: key.scopes,
  limits: key.limits,
})

/** Keys of services, which may act for any user: made, listed and ended by administrators. */
export function apiKeyRoutes(deps: Deps) {
  const { accounts, principals, ops, meters } = deps

  return resource(deps, 'API keys')
    .route(
      {
        method: 'post',
        path: '/api-keys',
        summary: 'Make an API key for a service. The key is shown this once',
        needs: ['admin'],
        body: strict({
          name: line(1, 255),
          reason: reason.optional(),
          scopes: z.array(z.enum(scopes)).min(1).max(scopes.length).optional(),
          limits: limits.optional(),
        }).openapi('CreateApiKeyRequest'),
        answers: { 201: NewApiKeyResponse },
      },
      async (c, { body }, who) => {
        const named = Object.keys(body.limits?.routes ?? {})
        // What is misspelt would be no limit at all.
        const errors = named.flatMap((route) =>
          meters.knows(route)
            ? []
            : [{ path: 'limits.routes', message: `there is no route ${JSON.stringify(route)}` }],
        )
        if (errors.length > 0)
          return problemResponse(c, { ok: false, problem: 'invalid-request', errors })
        const { key_id, key, secret_hash } = makeApiKey()
        const { reason: why, ...wanted } = body
        const made = await ops.createKey({ key_id, secret_hash, ...wanted }, byRequest(c, who, why))
        return answer(c, 201, { ...view(made), key })
      },
    )
    .route(
      {
        method: 'get',
        path: '/api-keys',
        summary: 'List the API keys, oldest first, without the keys themselves',
        needs: ['admin'],
        query: strict({ limit: page.limit, starting_after: keyId.optional() }),
        answers: { 200: listOf(ApiKeyResponse) },
        problems: ['invalid-cursor'],
      },
      async (c, { query }) => {
        const { limit, starting_after } = query
        const keys = await accounts.apiKeys(limit + 1, starting_after)
        if ('problem' in keys) return problemResponse(c, keys)
        const data = keys.slice(0, limit).map(view)
        const has_more = keys.length > limit
        return answer(c, 200, {
          data,
          has_more,
          next_cursor: has_more ? data.at(-1)!.key_id : null,
        })
      },
    )
    .route(
      {
        method: 'delete',
        path: '/api-keys/{key_id}',
        summary: 'Revoke an API key: within a second nobody accepts it any more',
        needs: ['admin'],
        params: strict({ key_id: keyId }),
        query: strict({ reason: reason.optional() }),
        answers: { 204: null },
        problems: ['api-key-not-found'],
      },
      async (c, { params, query }, who) => {
        const refused = await ops.revokeKey(params.key_id, byRequest(c, who, query.reason))
        if (refused) return problemResponse(c, refused)
        principals.forget(params.key_id)
        return noContent(c)
      },
    )
}
