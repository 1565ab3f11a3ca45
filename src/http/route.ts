import { OpenAPIHono, type z } from '@hono/zod-openapi'
import type { BlankSchema } from 'hono/types'
import type { StatusCode } from 'hono/utils/http-status'
import type { Deps } from '../app.ts'
import { requests } from '../channels.ts'
import type { Scope } from '../keys.ts'
import { type Problem, type ProblemCode, problem } from '../problems.ts'
import { readBody } from './body.ts'
import { type Context, type Env, type Principal, type PrincipalKind, requestId } from './context.ts'
import type { Asked, Endpoint } from './endpoint.ts'
import { operation, type ProblemsOf } from './openapi.ts'
import { isOfThisMachine } from './principal.ts'
import { type Answer, invalidRequest, problemResponse } from './respond.ts'

type Schema = z.ZodType
type Out<T> = T extends Schema ? z.output<T> : undefined
export type Method = 'get' | 'post' | 'put' | 'patch' | 'delete'

/** What a route promises. The OpenAPI document, the guard and the validation all come from it. */
export type RouteSpec<
  P extends Schema | undefined = Schema | undefined,
  Q extends Schema | undefined = Schema | undefined,
  B extends Schema | undefined = Schema | undefined,
  A extends Answers = Answers,
  N extends Needs = Needs,
  M extends Method = Method,
  Path extends string = string,
  O extends boolean = boolean,
  C extends ProblemCode = ProblemCode,
> = {
  method: M
  /** In OpenAPI's form: /coupons/lock/{code}. Several: the same route under each. */
  path: Path | readonly Path[]
  summary: string
  description?: string
  /** The verb its answers are counted under in /metrics; without one: the resource. */
  verb?: string
  needs: N
  params?: P
  query?: Q
  body?: B
  /** An absent body counts as {}, whatever the Content-Type. */
  bodyOptional?: O
  bodyLimit?: number
  /** What an API key must have been made for; left out: `read` of a GET, else a key without scopes. */
  scope?: Scope
  /** Its params name a code, which may be a guess: unknown ones are counted against who asks. */
  guesses?: boolean
  /** Media types of a body that the handler reads itself while it arrives; `bodyLimit` is not for it. */
  takes?: readonly string[]
  /** Media types of an answer that is no JSON. */
  gives?: readonly string[]
  answers: A
  problems?: readonly C[]
}

/** The same under one of its paths. */
export type RouteAt = Omit<RouteSpec, 'path'> & { path: string }

/** Status to schema of the body; null where there is none. */
export type Answers = { readonly [status: number]: Schema | null }
/**
 * Who may call: nobody in particular, anyone signed in, or only these. `nearby`: whoever asks from
 * this machine; from elsewhere, keys and administrators.
 */
export type Needs = 'nobody' | 'nearby' | 'anyone' | readonly PrincipalKind[]

type Reply<A extends Answers> = {
  [S in keyof A & StatusCode]: Answer<S, A[S] extends Schema ? z.input<A[S]> : null>
}[keyof A & StatusCode]

type Input<P, Q, B> = { params: Out<P>; query: Out<Q>; body: Out<B> }
type Handler<P, Q, B, A extends Answers, N extends Needs> = (
  c: Context,
  input: Input<P, Q, B>,
  who: N extends 'nobody' | 'nearby' ? undefined : Principal,
) => Reply<A> | Promise<Reply<A>>

const names: Record<PrincipalKind, string> = {
  user: 'a user account',
  viewer: 'a viewer',
  operator: 'an operator',
  service: 'an API key',
  admin: 'an administrator',
}
const operators: readonly PrincipalKind[] = ['admin', 'service']
const slowMs = 1_000

/** A resource's routes. Each `route` adds one, and its types to what a client may know: `endpoints`. */
export type Resource<S = unknown> = {
  /** What serves them. */
  api: OpenAPIHono<Env>
  /** Of the types alone: nothing is there at run time. */
  endpoints?: S
  route<
    P extends Schema | undefined = undefined,
    Q extends Schema | undefined = undefined,
    B extends Schema | undefined = undefined,
    const A extends Answers = Answers,
    const N extends Needs = Needs,
    M extends Method = Method,
    Path extends string = string,
    O extends boolean = false,
    C extends ProblemCode = never,
  >(
    spec: RouteSpec<P, Q, B, A, N, M, Path, O, C>,
    handler: Handler<P, Q, B, A, N>,
  ): Resource<S & Endpoint<Path, M, Asked<P, Q, B, O>, A, ProblemsOf<M, P, Q, B, N, C>>>
}

/**
 * Begins a resource. Each route is one handler and no middleware: Hono then calls it straight from
 * the router, without the chain of promises that a single `use` would put around every request of
 * the house. Routes are a chain, because that is how their types add up.
 *
 *   export function couponRoutes(deps: Deps) {
 *     return resource(deps, 'Coupons').route(
 *       { method: 'post', path: '/coupons/lock/{code}', summary: '...', needs: 'anyone',
 *         params: strict({ code }), body: LockRequest, bodyOptional: true,
 *         answers: { 200: LockedCoupon }, problems: ['coupon-not-found', 'coupon-locked'] },
 *       async (c, { params, body }, who) => {
 *         const user = actingUser(who, body.user_id)
 *         if (typeof user !== 'string') return problemResponse(c, user)
 *         ...
 *         return answer(c, 200, view)
 *       },
 *     )
 *   }
 */
export function resource(deps: Deps, tag: string): Resource<BlankSchema> {
  const api = new OpenAPIHono<Env>()

  function register(spec: RouteAt, handler: AnyHandler): void {
    api.openAPIRegistry.registerPath(operation(spec, tag))
    const path = spec.path.replaceAll(/\{(.+?)\}/g, ':$1')
    const label = `${spec.method.toUpperCase()} ${spec.path}`
    const run = runner(deps, spec, label, handler)
    const meter = deps.meters.meter(spec.verb ?? tag.toLowerCase(), label)
    const handle = async (c: Context): Promise<Response> => {
      const started = performance.now()
      c.set('startedAt', started)
      let response: Response
      try {
        response = await run(c)
      } catch (error) {
        c.set('settle', (outcome) => meter.count(outcome, performance.now() - started))
        throw error
      }
      const ms = performance.now() - started
      meter.count(c.get('outcome') ?? 'done', ms)
      // A 503 says that we keep to our promise, and an outage makes thousands: a sample will do.
      const { status } = response
      if (ms > slowMs || (status >= 500 && (status !== 503 || sampled(started))))
        deps.log.warn({ request_id: requestId(c), route: label, status, ms })
      else if (deps.log.isLevelEnabled('info') && sampled(started))
        deps.log.info({ request_id: requestId(c), route: label, status: response.status, ms })
      return response
    }
    api.on(spec.method, path, (c) =>
      requests.hasSubscribers
        ? requests.runStores({ c, route: label, path: spec.path }, handle, undefined, c)
        : handle(c),
    )
  }

  const self: Resource<BlankSchema> = {
    api,
    route(spec, handler) {
      const paths = typeof spec.path === 'string' ? [spec.path] : spec.path
      for (const path of paths) register({ ...spec, path }, handler as unknown as AnyHandler)
      return self as never
    },
  }
  return self
}

/** Once the declaration is checked, the types have done their work. */
type AnyHandler = (
  c: Context,
  input: Input<unknown, unknown, unknown>,
  who: Principal | undefined,
) => Response | Promise<Response>

function runner(
  deps: Deps,
  spec: RouteAt,
  label: string,
  handler: AnyHandler,
): (c: Context) => Promise<Response> {
  const nearby = spec.needs === 'nearby'
  const allowed = nearby ? operators : typeof spec.needs === 'string' ? null : spec.needs
  const { params, query, body } = spec
  const scope = spec.scope ?? (spec.method === 'get' ? 'read' : undefined)
  const handle: AnyHandler =
    spec.guesses === true
      ? (c, input, who) => deps.guard.guess(c, who!, () => handler(c, input, who))
      : handler
  return async (c) => {
    let who: Principal | undefined
    if (spec.needs !== 'nobody' && !(nearby && isOfThisMachine(c))) {
      const found = deps.principals.of(c.req.raw.headers.get('authorization'))
      const known = found instanceof Promise ? await found : found
      if ('problem' in known) return problemResponse(c, known)
      if (allowed !== null && !allowed.includes(known.kind))
        return problemResponse(c, denied(allowed))
      const refused = known.grant?.refusal(scope, label)
      if (refused !== undefined) return problemResponse(c, refused)
      who = known
    }
    const input: Record<'params' | 'query' | 'body', unknown> = {
      params: undefined,
      query: undefined,
      body: undefined,
    }
    if (params !== undefined) {
      if (!decodable(c.req.raw.url)) return problemResponse(c, undecodable)
      const parsed = params.safeParse(c.req.param())
      if (!parsed.success) return problemResponse(c, invalidRequest(parsed.error))
      input.params = parsed.data
    }
    if (query !== undefined) {
      const parsed = query.safeParse(c.req.query())
      if (!parsed.success) return problemResponse(c, invalidRequest(parsed.error))
      input.query = parsed.data
    }
    if (body !== undefined) {
      const begun = performance.now()
      const read = await readBody(c, spec.bodyOptional === true, spec.bodyLimit)
      // What a slow client takes to send it is none of our time.
      c.set('startedAt', c.get('startedAt') + performance.now() - begun)
      if (!read.ok) return problemResponse(c, read)
      const parsed = body.safeParse(read.value)
      if (!parsed.success) return problemResponse(c, invalidRequest(parsed.error))
      input.body = parsed.data
    }
    return handle(c, input as Parameters<AnyHandler>[1], who)
  }
}

/** Hono hands on what it cannot decode; then two spellings would name the same thing. */
function decodable(url: string): boolean {
  if (!url.includes('%')) return true
  try {
    decodeURIComponent(url.split('?', 1)[0]!)
    return true
  } catch {
    return false
  }
}
const undecodable: Problem = {
  ok: false,
  problem: 'invalid-request',
  errors: [{ path: 'path', message: 'must be percent-encoded UTF-8' }],
}

/** What somebody hears who is none of these. */
export function denied(allowed: readonly PrincipalKind[]): Problem {
  // Where users may, viewers and operators may because they are users.
  const said = allowed.includes('user')
    ? allowed.filter((kind) => kind !== 'viewer' && kind !== 'operator')
    : allowed
  return problem('forbidden', { needs: said.map((kind) => names[kind]).join(' or ') })
}

/** At most this many requests a second are logged at info; under load that is a sample. */
const samplesMax = 20
let second = 0
let samples = 0

function sampled(now: number): boolean {
  if (now - second > 1_000) {
    second = now
    samples = 0
  }
  return ++samples <= samplesMax
}
