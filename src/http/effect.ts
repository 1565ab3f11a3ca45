import { createHash } from 'node:crypto'
import { z } from '@hono/zod-openapi'
import type { Deps } from '../app.ts'
import type { Durability } from '../journal/entry.ts'
import { type Problem, problem } from '../problems.ts'
import { factName, type Reached } from '../recovery/durable.ts'
import type { BookPlace } from '../store/store.ts'
import type { FactId, Outcome } from '../store/verb.ts'
import { type Context, factContext, type Principal, requestId } from './context.ts'
import { operationUrl } from './operations.ts'
import { answer, problemResponse } from './respond.ts'
import { strict, userId } from './schemas.ts'

/** What every coupon verb may answer besides its own refusals. */
export const repeats = [
  'idempotency-key-reused',
  'intake-stopped',
  'backlog',
  'outcome-unknown',
  'not-durable',
] as const

export const ForUser = strict({ user_id: userId.optional() }).openapi('ForUser')
export const lockToken = z
  .string()
  .regex(/^[\w-]{1,64}$/, 'must be a `lock_token` as lock answered it')
  .openapi({ example: 'q1f0v9yVbD3m0kX2r8aZ5w' })

const digest = (...parts: string[]) =>
  createHash('sha256').update(JSON.stringify(parts)).digest('base64url').slice(0, 22)

const keyPattern = /^[\x21-\x7e]{1,255}$/

/** When each verb answers where neither request nor book says so. */
const usual = {
  assign: 'redis',
  assign_code: 'redis',
  lock: 'redis',
  unlock: 'redis',
  redeem: 'postgres',
  rollback: 'postgres',
  release: 'postgres',
  void: 'postgres',
} as const satisfies Record<string, Durability>

/** What every coupon verb sends along: who asks, from where, and under which Idempotency-Key. */
export type Ask = {
  verb: keyof typeof usual
  book: string
  actor: string
  key: string
  hash: string
  context: string
  durability: Durability | undefined
  /** When it came, by performance.now(). */
  askedAt: number
}

/**
 * Reads Idempotency-Key and Durability of a request. A key counts per principal, route and book; its
 * hash is of everything that was asked, so that another request under the same key is told apart.
 */
export async function readAsk(
  c: Context,
  { durable, addressOf }: Deps,
  who: Principal,
  verb: keyof typeof usual,
  { shard, book }: BookPlace,
  asked: unknown,
  metadata?: unknown,
): Promise<{ ok: true; ask: Ask } | Problem> {
  const { headers } = c.req.raw
  const level = headers.get('durability')
  if (level !== null && level !== 'redis' && level !== 'postgres')
    return invalid('Durability', 'must be redis or postgres')
  const keyed = readOnce(c, who, verb, book, asked)
  if ('problem' in keyed) return keyed
  if (durable.away()) {
    const wanted = level ?? (await durable.ofBook(shard, book)) ?? durable.usual(usual[verb])
    if (wanted === 'postgres') return problem('not-ready')
  }
  const { key, hash } = keyed.once ?? { key: '', hash: '' }
  const context = factContext(c, who, addressOf)
  if (metadata !== undefined) context.metadata = metadata
  if (keyed.once) Object.assign(context, keyed.once)
  const durability = level ?? undefined
  const { actor } = who
  const text = JSON.stringify(context)
  const askedAt = performance.now()
  return { ok: true, ask: { verb, book, actor, key, hash, context: text, durability, askedAt } }
}

/** Reads Idempotency-Key alone, for what is created in PostgreSQL. */
export function readOnce(
  c: Context,
  who: Principal,
  route: string,
  scope: string,
  asked: unknown,
): { once: { key: string; hash: string } | undefined } | Problem {
  const sent = c.req.raw.headers.get('idempotency-key')
  if (sent === null) return { once: undefined }
  if (!keyPattern.test(sent))
    return invalid('Idempotency-Key', 'must be 1 to 255 visible ASCII characters')
  const key = digest(who.actor, route, scope, sent)
  return { once: { key, hash: digest(JSON.stringify(asked)) } }
}

/** The header that tells a repeat from the first answer. */
export const replayedHeader = (made: object): Record<string, string> =>
  'replayed' in made ? { 'Idempotent-Replayed': 'true' } : {}

function invalid(header: string, message: string): Problem {
  return { ...problem('invalid-request'), errors: [{ path: `header ${header}`, message }] }
}

/** Answers a verb that was not done; one that may have been says where to ask. */
export function refuseEffect(
  c: Context,
  { tokens }: Deps,
  refusal: Problem,
  ask: Pick<Ask, 'actor'>,
) {
  if (!refusal.call) return problemResponse(c, refusal)
  const operation = { ...refusal.call, i: undefined, request: requestId(c) }
  return problemResponse(c, {
    ...refusal,
    values: { ...refusal.values, operation: operationUrl(tokens, operation, ask.actor) },
  })
}

/**
 * Answers a verb that was done: waits for the durability that was asked for, and says which one was
 * reached. 202 instead of 200: done in Redis, but the ledger did not follow in time; the Location
 * tells when it did.
 */
export async function answerEffect<V, B>(
  c: Context,
  deps: Deps,
  outcome: Outcome<V>,
  ask: Ask,
  body: B,
) {
  const wanted = ask.durability ?? outcome.durability ?? deps.durable.usual(usual[ask.verb])
  deps.durable.learn(ask.book, outcome.durability)
  const { fact, entry, replayed } = outcome
  const { durable } = deps
  let reached: Reached = 'redis'
  if (wanted === 'postgres')
    reached = await (fact
      ? durable.reach(fact, performance.now() - ask.askedAt)
      : durable.passed(entry))
  const operationOf = (known: FactId) =>
    operationUrl(deps.tokens, { ...known, at: outcome.at, request: requestId(c) }, ask.actor)
  if (reached === 'lost')
    return problemResponse(c, problem('not-durable', { operation: operationOf(fact!) }))
  const headers: Record<string, string> = {
    Durability: fact ? `${reached}; entry=${factName(fact)}` : reached,
  }
  if (replayed) headers['Idempotent-Replayed'] = 'true'
  if (reached === wanted) {
    if (replayed) c.set('outcome', 'replayed')
    return answer(c, 200, body, headers)
  }
  c.set('outcome', 'late')
  if (fact) headers.Location = operationOf(fact)
  return answer(c, 202, body, headers)
}
