import { createHash } from 'node:crypto'
import { z } from '@hono/zod-openapi'
import type { Deps } from '../app.ts'
import { factKinds } from '../journal/entry.ts'
import { problem } from '../problems.ts'
import type { Principal } from './context.ts'
import { answer, problemResponse } from './respond.ts'
import { resource } from './route.ts'
import { bookId, instant, strict } from './schemas.ts'
import type { Tokens } from './tokens.ts'

/** A request's part in a script call, as far as it is known when it is answered. */
type Operation = Parameters<Deps['operations']>[0]

const digest = (actor: string) =>
  createHash('sha256').update(actor).digest('base64url').slice(0, 16)
type Seal = Pick<Tokens, 'seal'>
/** Characters of the seal that an id begins with. */
const sealed = 22

/**
 * The URL that tells what became of an operation. Opaque to clients; whose it is stands in it, under
 * the installation's seal: a made-up id would cost both stores a look and Redis an hour's memory.
 */
export function operationUrl({ seal }: Seal, operation: Operation, actor: string): string {
  const { shard, epoch, n, i, op, at, request } = operation
  const parts = [shard, epoch, n, i ?? '', op, at, digest(actor), request].join(' ')
  const id = seal(parts).slice(0, sealed) + Buffer.from(parts).toString('base64url')
  return `/api/v1/operations/${id}`
}

const shape =
  /^(\d{1,2}) (\d{1,15}) (\d{1,15}) (\d{0,6}) ([\da-f]{8}(?:-[\da-f]{4}){3}-[\da-f]{12}) (\d{1,15}) ([\w-]{16}) ([\x21-\x7e]{1,70})$/

function readOperation(
  { seals }: Pick<Tokens, 'seals'>,
  id: string,
): (Operation & { owner: string }) | undefined {
  const text = Buffer.from(id.slice(sealed), 'base64url').toString('latin1')
  const parts = shape.exec(text)?.slice(1)
  const given = id.slice(0, sealed)
  if (!parts || !seals(text).some((one) => one.slice(0, sealed) === given)) return undefined
  const [shard, epoch, n, i, op, at, owner, request] = parts as [
    string,
    string,
    string,
    string,
    string,
    string,
    string,
    string,
  ]
  return {
    shard: Number(shard),
    epoch: Number(epoch),
    n: Number(n),
    i: i === '' ? undefined : Number(i),
    op,
    at: Number(at),
    owner,
    request,
  }
}

const OperationResponse = z
  .object({
    operation_id: z.string(),
    state: z.enum(['durable', 'pending', 'absent']).openapi({
      description: '`absent`: it did nothing and never will. `pending`: ask again in a moment',
    }),
    facts: z.array(
      z.object({
        kind: z.enum(factKinds),
        entry: z.string(),
        at: instant,
        code: z.string(),
        book_id: bookId,
        user_id: z.string().nullable().openapi({ description: 'null: of a code in stock' }),
        redemption_count: z.number(),
        max_redemptions: z.number().nullable(),
        lock_token: z.string().nullable(),
        locked_until: instant.nullable(),
        redemption_id: z.string().nullable(),
      }),
    ),
  })
  .openapi('Operation')

/** What became of a verb whose answer did not say. */
export function operationRoutes(deps: Deps) {
  return resource(deps, 'Operations').route(
    {
      method: 'get',
      path: '/operations/{operation_id}',
      summary: 'What became of a verb that was answered 202, `outcome-unknown` or `not-durable`',
      needs: 'anyone',
      params: strict({ operation_id: z.string().regex(/^[\w-]{1,330}$/) }),
      answers: { 200: OperationResponse },
      problems: ['operation-not-found', 'not-ready'],
    },
    async (c, { params: { operation_id } }, who) => {
      const operation = readOperation(deps.tokens, operation_id)
      if (!operation || !isTheirs(who, operation.owner))
        return problemResponse(c, problem('operation-not-found'))
      const told = await deps.operations(operation)
      const isForeign = told?.facts.some(({ actor }) => actor !== who.actor)
      if (!told || (isForeign && who.kind !== 'admin'))
        return problemResponse(c, problem('operation-not-found'))
      return answer(c, 200, {
        operation_id,
        state: told.state,
        facts: told.facts.map(({ actor, ...fact }) => ({
          kind: fact.kind,
          entry: `${operation.shard}/${fact.epoch}-${fact.n}/${fact.i}`,
          at: fact.at.toISOString(),
          code: fact.code,
          book_id: fact.book_id,
          user_id: fact.user_id || null,
          redemption_count: fact.redemptions,
          max_redemptions: fact.max_redemptions || null,
          // A token is its holder's alone.
          lock_token: actor === who.actor ? fact.lock_token : null,
          locked_until: fact.locked_until?.toISOString() ?? null,
          redemption_id: fact.redemption_id,
        })),
      })
    },
  )
}

const isTheirs = (who: Principal, owner: string) =>
  who.kind === 'admin' || digest(who.actor) === owner
