import { expect } from 'vitest'
import type { FactKind } from '../src/journal/entry.ts'
import { type Problem, type ProblemCode, problemStatus } from '../src/problems.ts'
import { keys } from '../src/store/keys.ts'
import type { BookPlace } from '../src/store/store.ts'
import type { FactId, Outcome } from '../src/store/verb.ts'
import type { Reply, World } from './world.ts'

/** One call of a run as its client remembers it; audit() holds the ledger against all of them. */
export type Act = {
  verb: FactKind
  book: string | undefined
  /** Whom it was for; undefined where the answer does not say. */
  user: string | undefined
  outcome: 'done' | 'again' | 'refused' | 'unknown'
  codes: string[]
  /** What the facts must say of where they come from. */
  requestId: string | null
  /** The first fact, as the Durability header names it; undefined: nothing was written. */
  fact: Omit<FactId, 'op'> | undefined
}

type Answer = { status: number; header(name: string): string | null; body: Reply['body'] }

/** Reads an answer into an act. A 503 other than `outcome-unknown` promises that nothing happened. */
export function actOf(verb: FactKind, user: string | undefined, answer: Answer): Act {
  const { status, header, body } = answer
  const act: Act = {
    verb,
    user,
    book: undefined,
    outcome: 'refused',
    codes: [],
    requestId: header('x-request-id'),
    fact: undefined,
  }
  if (status !== 200 && status !== 202) {
    if (body?.code === 'outcome-unknown' || status === 0) act.outcome = 'unknown'
    return act
  }
  act.outcome = header('idempotent-replayed') ? 'again' : 'done'
  const coupons = body.coupons ?? [body]
  act.book = coupons[0].book_id
  act.codes = coupons.map((coupon: { code: string }) => coupon.code)
  const said = coupons[0].assigned_user_id ?? body.user_id ?? undefined
  if (user !== undefined && said !== undefined) expect(said, `${verb} answers for whom`).toBe(user)
  act.user = user ?? said
  const name = /entry=(\d+)\/(\d+)-(\d+)\/(\d+)/.exec(header('durability') ?? '')
  if (name) {
    const [shard, epoch, n, i] = name.slice(1).map(Number) as [number, number, number, number]
    act.fact = { shard, epoch, n, i }
  }
  return act
}

type Options = {
  /** Who calls; left out: the world's API key (release, void: its administrator). */
  as?: string
  /** Idempotency-Key. */
  key?: string
  durability?: string
  headers?: Record<string, string>
  /** Sends no body at all. */
  bare?: boolean
  /** More members of the body: `lock_token`, `metadata`, ... */
  [member: string]: unknown
}

export type Together =
  | 'assign'
  | 'assignCode'
  | 'lock'
  | 'unlock'
  | 'redeem'
  | 'rollback'
  | 'release'
  | 'void'

/** What came of a request to the store, in one word. */
export const word = (outcome: Outcome<unknown> | Problem): string =>
  outcome.ok ? (outcome.replayed ? 'again' : 'done') : outcome.problem

export type Client = ReturnType<typeof openClient>

/** The coupon verbs over HTTP, each call remembered in `history`. `user` undefined: none is named. */
export function openClient(world: World) {
  const history: Act[] = []

  async function ask(
    verb: FactKind,
    path: string,
    user: string | undefined,
    { as = world.service, key, durability, headers, bare, ...body }: Options,
  ): Promise<Reply> {
    const reply = await world.call('POST', path, {
      as,
      body: bare ? undefined : user === undefined ? body : { ...body, user_id: user },
      headers: {
        ...headers,
        ...(key === undefined ? {} : { 'idempotency-key': key }),
        ...(durability === undefined ? {} : { durability }),
      },
    })
    const answer = { ...reply, header: (name: string) => reply.headers.get(name) }
    history.push(actOf(verb, user, answer))
    return reply
  }

  /**
   * Requests of one verb put to the store in one tick: they share one script call, or as many as
   * `calls` says, and it is asserted that they did.
   */
  async function together(
    verb: Together,
    book: string,
    requests: Record<string, string>[],
    calls = 1,
  ): Promise<(Outcome<unknown> | Problem)[]> {
    const place = await placeOf(world, book)
    const entries = async () => Number(await world.redis.hget(keys.meta(place.shard), 'n'))
    const before = await entries()
    const send = world.house.deps.store[verb] as (
      place: BookPlace,
      request: Record<string, string>,
      weight: number,
    ) => Promise<Outcome<unknown> | Problem>
    const ids = requests.map(() => crypto.randomUUID())
    const outcomes = await Promise.all(
      requests.map((request, i) => {
        const context = JSON.stringify({ actor: 'user:test', request_id: ids[i] })
        return send(place, { ...plain, context, ...request }, Number(request.count ?? 1))
      }),
    )
    expect((await entries()) - before, 'script calls that wrote').toBeLessThanOrEqual(calls)
    outcomes.forEach((outcome, i) => {
      const request = requests[i]!
      const value = outcome.ok ? outcome.value : undefined
      history.push({
        verb: verb === 'assignCode' ? 'assign' : verb,
        book,
        user: request.user,
        outcome: outcome.ok ? (outcome.replayed ? 'again' : 'done') : 'refused',
        requestId: ids[i]!,
        codes: Array.isArray(value) ? value.map(({ code }) => code) : [request.code!],
        fact: outcome.ok ? outcome.fact : undefined,
      })
    })
    return outcomes
  }

  return {
    history,
    together,
    assign: (book: string, user?: string, options: Options = {}) =>
      ask('assign', 'coupons/assign', user, { book_id: book, ...options }),
    assignCode: (code: string, user?: string, options: Options = {}) =>
      ask('assign', `coupons/assign/${code}`, user, options),
    lock: (code: string, user?: string, options: Options = {}) =>
      ask('lock', `coupons/lock/${code}`, user, options),
    unlock: (code: string, user?: string, options: Options = {}) =>
      ask('unlock', `coupons/unlock/${code}`, user, options),
    redeem: (code: string, user?: string, options: Options = {}) =>
      ask('redeem', `coupons/redeem/${code}`, user, options),
    rollback: (redemption: string, options: Options = {}) =>
      ask('rollback', `redemptions/${redemption}/rollback`, undefined, options),
    release: (code: string, options: Options = {}) =>
      ask('release', `coupons/release/${code}`, undefined, { as: world.admin, ...options }),
    void: (code: string, options: Options = {}) =>
      ask('void', `coupons/void/${code}`, undefined, { as: world.admin, ...options }),
    /** The coupon as an administrator sees it. */
    show: (code: string, as = world.admin) => world.call('GET', `coupons/${code}`, { as }),
    change: (book: string, policy: Record<string, unknown>) =>
      world.call('PATCH', `books/${book}`, { as: world.admin, body: policy }),
  }
}

/** Asserts that a call was refused, with the status of its code and these values. */
export function expectProblem(reply: Reply, code: ProblemCode, values: object = {}): void {
  expect(reply.body).toMatchObject({ code, status: problemStatus(code), ...values })
  expect(reply.status).toBe(problemStatus(code))
}

/** What every coupon in an answer begins with here: the shape of one that was just assigned. */
export const assigned = (code: string, book: string, user: string) => ({
  code,
  book_id: book,
  assigned_user_id: user,
  state: 'ASSIGNED',
  redemption_count: 0,
  max_redemptions: 1,
  is_locked: false,
  locked_until: null,
  created_at: expect.stringMatching(/^\d{4}-.*Z$/),
  updated_at: expect.stringMatching(/^\d{4}-.*Z$/),
  has_redemptions_remaining: true,
  remaining_redemptions: 1,
})

/** A request of the store without Idempotency-Key, for tests that put several into one script call. */
export const plain = {
  key: '',
  hash: '',
  context: JSON.stringify({ actor: 'user:test', request_id: 'test' }),
}

/** Where a book lives, for calls of the store. */
export async function placeOf(world: World, book: string) {
  const place = await world.house.deps.directory.book(book)
  if ('problem' in place) throw new Error(`no book ${book}`)
  return place
}

/** What the ledger says of a code, in order, once it is level. */
export async function ledgerOf(world: World, code: string) {
  await world.level()
  const { rows } = await world.database.query(
    'SELECT * FROM ledger WHERE code = $1 ORDER BY epoch, n, i',
    [code],
  )
  return rows
}
