import type { HttpBindings } from '@hono/node-server'
import type { Context as HonoContext } from 'hono'
import type { Context as FactContext } from '../journal/entry.ts'
import { type Problem, problem } from '../problems.ts'
import type { Grant } from './grant.ts'

/**
 * Who is asking. `actor` is how the ledger names them: `user:<id>` or `key:<id>`. Viewers and operators
 * are users with the operators' routes besides.
 */
export type PrincipalKind = 'user' | 'viewer' | 'operator' | 'service' | 'admin'
export type Principal = {
  kind: PrincipalKind
  id: string
  actor: string
  /** Of an API key that may not do all that services may, or not as often as it likes. */
  grant?: Grant | undefined
}

export type Env = {
  Variables: {
    requestId: string
    /** When the route began, by performance.now(), later by as long as the body took to arrive. */
    startedAt: number
    /** Of our own span, where spans are made. */
    traceparent: string
    /** What the answer comes to, for /metrics; undefined: done. */
    outcome: string
    /** Left by a route that threw: whoever answers in its place counts the answer. */
    settle: (outcome: string) => void
  }
  Bindings: Partial<HttpBindings>
}
export type Context = HonoContext<Env>

/**
 * Ids of requests that brought none: a prefix drawn per process and a counter. A UUID per request
 * would cost more than routing it.
 */
const prefix = `${Date.now().toString(36)}${Math.floor(Math.random() * 36 ** 4).toString(36)}`
let counter = 0
const acceptable = /^[\x21-\x7e]{1,64}$/

/** The request's id: the client's X-Request-Id if it is usable, else a fresh one; always the same. */
export function requestId(c: Context): string {
  const known = c.get('requestId')
  if (known !== undefined) return known
  const sent = c.req.raw.headers.get('x-request-id')
  const id = sent !== null && acceptable.test(sent) ? sent : `${prefix}-${(++counter).toString(36)}`
  c.set('requestId', id)
  return id
}

/** Version, trace, parent and flags of W3C Trace Context; later versions may add more at the end. */
const traceparent = /^(?!ff)[\da-f]{2}-(?!0{32})[\da-f]{32}-(?!0{16})[\da-f]{16}-[\da-f]{2}(-.*)?$/

/**
 * The caller's trace, in the layout of version 00. One that is not valid counts as none: then the
 * trace begins here, as W3C has it.
 */
export function callersTrace(c: Context): string | undefined {
  const sent = c.req.raw.headers.get('traceparent')
  if (sent === null || !traceparent.test(sent)) return undefined
  if (sent.startsWith('00') && sent.length > 55) return undefined
  return `00${sent.slice(2, 55)}`
}

/** What a fact remembers of the request that made it. `addressOf`: see address.ts. */
export function factContext(
  c: Context,
  who: Principal,
  addressOf: (c: Context) => string | undefined,
): FactContext {
  const context: FactContext = { actor: who.actor, request_id: requestId(c) }
  const trace = c.get('traceparent') ?? callersTrace(c)
  if (trace !== undefined) context.traceparent = trace
  const address = addressOf(c)
  if (address !== undefined) context.address = address
  const agent = c.req.raw.headers.get('user-agent')
  if (agent !== null) context.agent = agent.length > 200 ? agent.slice(0, 200) : agent
  return context
}

/** For the audit log: who does it, on which request, and why, if they say. */
export const byRequest = (c: Context, who: Principal, reason?: string) => ({
  ...{ actor: who.actor, request_id: requestId(c), reason },
})

/** Services and administrators act for any user, and see everybody's coupons. */
export const actsForOthers = ({ kind }: Principal) => kind === 'service' || kind === 'admin'

/**
 * The user that a call acts for. A user acts only as themselves; an administrator as themselves
 * unless they name someone; a service has no coupons of its own and must name someone.
 */
export function actingUser(who: Principal, requested?: string | null): string | Problem {
  if (!actsForOthers(who)) {
    if (requested == null || requested === who.id) return who.id
    return problem('forbidden', { needs: 'an administrator or an API key to act for another user' })
  }
  if (requested != null) return requested
  if (who.kind === 'admin') return who.id
  return {
    ok: false,
    problem: 'invalid-request',
    errors: [{ path: 'user_id', message: 'name the user: an API key acts for someone else' }],
  }
}
