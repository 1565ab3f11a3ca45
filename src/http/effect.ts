import { createHash } from 'node:crypto'
import { z } from '@hono/zod-openapi'
import type { Deps } from '../app.ts'
import type { Durability, Context as FactContext } from '../journal/entry.ts'
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

export const keyPattern = /^[\x21-\x7e]{1,255}$/

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
  /** Under which id its facts stand: the request's, of an item of a batch one of its own. */
  request: string
  key: string
  hash: string
  context: string
  durability: Durability | undefined
  /** When it came, by performance.now(): whoever waited for other things since waits less for the ledger. */
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
  place: BookPlace,
  asked: unknown,
  metadata?: unknown,
): Promise<{ ok: true; ask: Ask } | Problem> {
  const level = readLevel(c)
  if (typeof level === 'object') return level
  const keyed = readOnce(c, who, verb, place.book, asked)
  if ('problem' in keyed) return keyed
  if (durable.away() && (await needsPostgres(durable, verb, place, level)))
    return problem('not-ready')
  const context = factContext(c, who, addressOf)
  if (metadata !== undefined) context.metadata = metadata
  const askedAt = c.get('startedAt')
  return { ok: true, ask: askOf(who, verb, place.book, context, level, keyed.once, askedAt) }
}

/** The header Durability: when whoever asks wants to be answered. */
export function readLevel(c: Context): Durability | undefined | Problem {
  const level = c.req.raw.headers.get('durability')
  if (level !== null && level !== 'redis' && level !== 'postgres')
    return invalid('Durability', 'must be redis or postgres')
  return level ?? undefined
}

/** With PostgreSQL away: whether this verb of this book would wait for it. */
export async function needsPostgres(
  durable: Deps['durable'],
  verb: keyof typeof usual,
  { shard, book }: BookPlace,
  level: Durability | undefined,
): Promise<boolean> {
  const wanted = level ?? (await durable.ofBook(shard, book)) ?? durable.usual(usual[verb])
  return wanted === 'postgres'
}

/** `context` is the ask's own from now on. */
export function askOf(
  { actor }: Principal,
  verb: keyof typeof usual,
  book: string,
  context: FactContext,
  durability: Durability | undefined,
  once: Once | undefined,
  askedAt: number,
): Ask {
  const { key, hash } = once ?? { key: '', hash: '' }
  if (once) Object.assign(context, once)
  const text = JSON.stringify(context)
  const { request_id: request } = context
  return { verb, book, actor, request, key, hash, context: text, durability, askedAt }
}

type Once = { key: string; hash: string }

/** Reads Idempotency-Key alone, for what is created in PostgreSQL. */
export function readOnce(
  c: Context,
  who: Principal,
  route: string,
  scope: string,
  asked: unknown,
): { once: Once | undefined } | Problem {
  const sent = c.req.raw.headers.get('idempotency-key')
  if (sent === null) return { once: undefined }
  if (!keyPattern.test(sent))
    return invalid('Idempotency-Key', 'must be 1 to 255 visible ASCII characters')
  return { once: onceOf(who, route, scope, sent, asked) }
}

/** An Idempotency-Key as Redis and PostgreSQL keep it. */
export function onceOf(
  { actor }: Principal,
  route: string,
  scope: string,
  sent: string,
  asked: unknown,
): Once {
  return { key: digest(actor, route, scope, sent), hash: digest(JSON.stringify(asked)) }
}

/** The header that tells a repeat from the first answer. */
export const replayedHeader = (made: object): Record<string, string> =>
  'replayed' in made ? { 'Idempotent-Replayed': 'true' } : {}

export function invalid(header: string, message: string): Problem {
  return { ...problem('invalid-request'), errors: [{ path: `header ${header}`, message }] }
}

/** What a refusal has to know of what was asked; all of it but `actor` may be unknown. */
type Asked = Pick<Ask, 'actor'> & Partial<Pick<Ask, 'book' | 'request'>>

/** What a verb that was not done is answered with; one that may have been says where to ask. */
export function refusalOf(
  c: Context,
  { tokens, refusals }: Deps,
  refusal: Problem,
  ask: Asked,
): Problem {
  if (ask.book !== undefined) refusals.count(ask.book, refusal.problem)
  if (!refusal.call) return refusal
  const operation = { ...refusal.call, i: undefined, request: ask.request ?? requestId(c) }
  return {
    ...refusal,
    values: { ...refusal.values, operation: operationUrl(tokens, operation, ask.actor) },
  }
}

/** Answers a verb that was not done. */
export const refuseEffect = (c: Context, deps: Deps, refusal: Problem, ask: Asked) =>
  problemResponse(c, refusalOf(c, deps, refusal, ask))

/** When a verb that was done is to be answered. */
export function wantedOf<V>({ durable }: Deps, outcome: Outcome<V>, ask: Ask): Durability {
  durable.learn(ask.book, outcome.durability)
  return ask.durability ?? outcome.durability ?? durable.usual(usual[ask.verb])
}

/** Waits until PostgreSQL holds what was done. */
export function reach<V>({ durable }: Deps, outcome: Outcome<V>, ask: Ask): Promise<Reached> {
  const { fact, entry } = outcome
  const spentMs = performance.now() - ask.askedAt
  return fact ? durable.reach(fact, spentMs) : durable.passed(entry, spentMs)
}

/** The URL that tells what became of what a verb wrote. */
export const operationOf = <V>(
  { tokens }: Deps,
  { at }: Outcome<V>,
  fact: FactId,
  { actor, request }: Ask,
) => operationUrl(tokens, { ...fact, at, request }, actor)

/** A verb that was done in Redis, which lost it before the ledger had it. */
export function lostOf<V>(deps: Deps, outcome: Outcome<V>, ask: Ask): Problem {
  deps.refusals.count(ask.book, 'not-durable')
  return problem('not-durable', { operation: operationOf(deps, outcome, outcome.fact!, ask) })
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
  const wanted = wantedOf(deps, outcome, ask)
  const { fact, replayed } = outcome
  const reached: Reached = wanted === 'postgres' ? await reach(deps, outcome, ask) : 'redis'
  if (reached === 'lost') return problemResponse(c, lostOf(deps, outcome, ask))
  const headers: Record<string, string> = {
    Durability: fact ? `${reached}; entry=${factName(fact)}` : reached,
  }
  if (replayed) headers['Idempotent-Replayed'] = 'true'
  if (reached === wanted) {
    if (replayed) c.set('outcome', 'replayed')
    return answer(c, 200, body, headers)
  }
  c.set('outcome', 'late')
  if (fact) headers.Location = operationOf(deps, outcome, fact, ask)
  return answer(c, 202, body, headers)
}
