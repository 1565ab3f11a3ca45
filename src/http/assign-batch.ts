import { z } from '@hono/zod-openapi'
import type { Deps } from '../app.ts'
import type { Durability, Context as FactContext } from '../journal/entry.ts'
import { type Problem, problem, problemDocument, problemStatus } from '../problems.ts'
import { factName } from '../recovery/durable.ts'
import type { Outcome } from '../store/verb.ts'
import type { Assigned } from '../store/verbs.ts'
import { AssignResponse, assignedBody, assignment, assignRequest } from './assign.ts'
import { actingUser, type Context, factContext, type Principal, requestId } from './context.ts'
import {
  type Ask,
  askOf,
  invalid,
  keyPattern,
  lostOf,
  needsPostgres,
  onceOf,
  operationOf,
  reach,
  readLevel,
  refusalOf,
  wantedOf,
} from './effect.ts'
import { ProblemDocument } from './problem-document.ts'
import { answer, problemResponse } from './respond.ts'
import { resource } from './route.ts'
import { strict } from './schemas.ts'

const itemsMax = 1_000
/** All items together: the answer names every one of them. */
const couponsMax = 10_000
/** 1,000 items whose ids and keys are as long as they may be. */
const bytesMax = 1024 * 1024
/** Coupons that are asked for at once. The rest waits its turn, so that others' requests come in between. */
const couponsAtOnce = 400

const BatchItem = strict({
  ...assignment,
  key: z
    .string()
    .regex(keyPattern, 'must be 1 to 255 visible ASCII characters')
    .optional()
    .openapi({ description: "The item's Idempotency-Key, the same as for a single assignment" }),
}).openapi('AssignBatchItem')
type Item = z.output<typeof BatchItem>

const BatchRequest = strict({ items: z.array(BatchItem).min(1).max(itemsMax) })
  .refine(({ items }) => items.reduce((sum, { count = 1 }) => sum + count, 0) <= couponsMax, {
    path: ['items'],
    message: `must ask for at most ${couponsMax} coupons in all`,
  })
  .openapi('AssignBatchRequest')

const Done = z
  .object({
    status: z.union([z.literal(200), z.literal(202)]),
    durability: z.enum(['redis', 'postgres']),
    entry: z.string().nullable().openapi({ example: '3/1-345/0' }),
    replayed: z.boolean().openapi({ description: 'The first answer of this key, once more' }),
    operation: z
      .string()
      .nullable()
      .openapi({ description: 'Of a 202: where to ask for the rest' }),
    assigned: AssignResponse,
  })
  .openapi('AssignBatchDone')
const Refused = z
  .object({
    status: z.int().min(400).max(599),
    retry_after: z.number().nullable().openapi({ description: 'Seconds' }),
    problem: ProblemDocument,
  })
  .openapi('AssignBatchRefused')
type Result = z.input<typeof Done> | z.input<typeof Refused>

const BatchResponse = z
  .object({
    assigned_count: z.number(),
    refused_count: z.number().openapi({ description: 'Items, not coupons' }),
    results: z
      .array(z.union([Done, Refused]))
      .openapi({ description: 'In the order of the items' }),
  })
  .openapi('AssignBatch')

/** An item on its way: what Redis decided, or why it did not do it. */
type Decided =
  | { ask: Ask; user: string; outcome: Outcome<Assigned[]> }
  | { ask: Pick<Ask, 'actor'> & { book?: string; request?: string }; refusal: Problem }

/** Each item stands in the ledger under an id of its own, so that an operation is one item's. */
const itemId = (c: Context, i: number) => `${requestId(c)}.${i}`

/** Items from the first on, as many as may be asked for at once. */
function* turns(items: readonly Item[]): Generator<Item[]> {
  let turn: Item[] = []
  let coupons = 0
  for (const item of items) {
    const { count = 1 } = item
    if (turn.length > 0 && coupons + count > couponsAtOnce) {
      yield turn
      turn = []
      coupons = 0
    }
    turn.push(item)
    coupons += count
  }
  yield turn
}

/** assign, many at once: each item is decided as if it had come alone, in the order of the list. */
export function assignBatchRoutes(deps: Deps) {
  const { store, directory, durable, log } = deps

  /** Asks Redis for one item. */
  async function decide(
    who: Principal,
    item: Item,
    book: Awaited<ReturnType<typeof directory.book>>,
    level: Durability | undefined,
    context: FactContext,
  ): Promise<Decided> {
    // What is left is what a single assignment would have as its body: the key's hash is of that.
    const { key, ...asked } = item
    const user = actingUser(who, item.user_id)
    if (typeof user !== 'string') return { ask: who, refusal: user }
    if ('problem' in book) return { ask: who, refusal: book }
    if (durable.away() && (await needsPostgres(durable, 'assign', book, level)))
      return { ask: who, refusal: problem('not-ready') }
    const once = key === undefined ? undefined : onceOf(who, 'assign', book.book, key, asked)
    // An item's time begins with its turn.
    const askedAt = performance.now()
    const ask = askOf(who, 'assign', book.book, context, level, once, askedAt)
    const wanted = item.count ?? 1
    const outcome = await store.assign(book, assignRequest(book, user, wanted, ask), wanted)
    if (!outcome.ok) return { ask, refusal: outcome }
    for (const { code } of outcome.value) directory.learn(code, book)
    return { ask, user, outcome }
  }

  async function decideAll(c: Context, who: Principal, items: Item[], level?: Durability) {
    const books = await directory.booksOf(new Set(items.map(({ book_id }) => book_id)))
    const context = factContext(c, who, deps.addressOf)
    const all: Decided[] = []
    for (const turn of turns(items)) {
      const first = all.length
      const some = await Promise.allSettled(
        turn.map((item, i) => {
          const its = { ...context, request_id: itemId(c, first + i) }
          return decide(who, item, books.get(item.book_id)!, level, its)
        }),
      )
      for (const one of some) {
        if (one.status === 'fulfilled') {
          all.push(one.value)
          continue
        }
        // A bug in one item, told as one: what was done for the others must be answered all the same.
        log.error({ request_id: requestId(c), err: one.reason }, 'an item of a batch failed')
        all.push({ ask: who, refusal: problem('internal-error') })
      }
    }
    return all
  }

  function refused(c: Context, i: number, refusal: Problem): Result {
    const document = problemDocument(refusal, c.req.path, itemId(c, i))
    const status = problemStatus(refusal.problem)
    const retry_after = refusal.retryAfter ?? (status === 503 ? 1 : null)
    return { status, retry_after, problem: document }
  }

  /** What a single assignment says in its status and headers stands beside each body here. */
  async function tell(c: Context, i: number, decided: Decided): Promise<Result> {
    if ('refusal' in decided) return refused(c, i, refusalOf(c, deps, decided.refusal, decided.ask))
    const { ask, user, outcome } = decided
    const wanted = wantedOf(deps, outcome, ask)
    const reached = wanted === 'postgres' ? await reach(deps, outcome, ask) : 'redis'
    if (reached === 'lost') return refused(c, i, lostOf(deps, outcome, ask))
    const { fact, replayed } = outcome
    const late = reached !== wanted
    return {
      status: late ? 202 : 200,
      durability: reached,
      entry: fact ? factName(fact) : null,
      replayed,
      operation: late && fact ? operationOf(deps, outcome, fact, ask) : null,
      assigned: assignedBody(outcome, ask.book, user),
    }
  }

  return resource(deps, 'Coupons').route(
    {
      method: 'post',
      path: '/coupons/assign:batch',
      scope: 'assign',
      summary: 'Up to 1,000 assignments in one request, each decided and answered by itself',
      description:
        'Answers 200 whatever becomes of the items: each has its own `status`, with the body of a single ' +
        'assignment or a problem document. Items of a book are decided in their order. An item may have a ' +
        '`key`, which is the Idempotency-Key of a single assignment: sent again, in a batch or alone, it ' +
        'is answered again. The header `Durability` counts for all items.',
      verb: 'assign_batch',
      needs: 'anyone',
      body: BatchRequest,
      bodyLimit: bytesMax,
      answers: { 200: BatchResponse },
    },
    async (c, { body }, who) => {
      const level = readLevel(c)
      if (typeof level === 'object') return problemResponse(c, level)
      if (c.req.raw.headers.has('idempotency-key'))
        return problemResponse(c, invalid('Idempotency-Key', 'give each item a `key` instead'))
      const decided = await decideAll(c, who, body.items, level)
      const results = await Promise.all(decided.map((one, i) => tell(c, i, one)))
      const done = results.flatMap((one) =>
        'assigned' in one ? [one.assigned.assigned_count] : [],
      )
      return answer(c, 200, {
        assigned_count: done.reduce((sum, count) => sum + count, 0),
        refused_count: results.length - done.length,
        results,
      })
    },
  )
}
