import fc from 'fast-check'
import { random } from '../chaos/mind.ts'
import type { Known } from './arbitrary.ts'
import {
  type Document,
  isJson,
  judgeOf,
  type Operation,
  operationsOf,
  resolver,
} from './document.ts'
import { type Request, requestsFor } from './request.ts'

export type Target = {
  base: string
  /** Tokens and keys of every kind of principal; undefined: nobody in particular. */
  callers: (string | undefined)[]
  /** Those of them who may touch none of the switches below. */
  bystanders: (string | undefined)[]
  /** Who may do everything. */
  admin: string
  /** Ids that no request may get hold of: whoever is deleted cannot ask any more. */
  spared: string[]
  /** Called between batches. */
  told?: (asked: number) => void
}
export type Found = { asked: number; byStatus: Record<string, number>; wrong: string[] }

/** Switches of the whole installation: allowed to nobody here, or the rest would hear 503. */
const switches = ['intake', 'flush', 'drain', 'rebuild', 'accept-loss'].map(
  (verb) => `POST /api/v1/ops/${verb}`,
)
/** Work that takes long for each (passwords are hashed, whole books compared), or leaves little to ask for. */
const costly =
  /^DELETE .*\/books|\/(archive|register|login|change-password|reconcile|replay|warm|admin\/users|metrics|status|users)$/
const costlyShare = 0.08
const concurrency = 16
/** A process takes in two files at once and sends three: whoever asks for more hears 503, and is to wait. */
const files = [
  { of: /\/imports$/, places: 1 },
  { of: /\/(export|report)(\/|$)/, places: 2 },
]
const batch = 400
/** At first there is little to know, and what was drawn then asks for things that do not exist. */
const drawnOf = (asked: number) => (asked < 5_000 ? 4 : 40)
const knownMax = 200

/** Sends `count` requests made from the service's own OpenAPI document, and holds each answer against it. */
export async function fuzz(target: Target, count: number, seed: number): Promise<Found> {
  const document = (await (await fetch(`${target.base}/openapi.json`)).json()) as Document
  const judge = judgeOf(document)
  const resolve = resolver(document)
  // Most books are archived before long, and then nobody looks at a file: those are asked for more often.
  const operations = operationsOf(document).flatMap((one) =>
    Array.from({ length: one.files.length > 0 ? 5 : 1 }, () => one),
  )
  const next = random(seed)
  const pools = new Map<string, unknown[]>()
  const known: Known = (name) => {
    const pool = pools.get(name === 'key' || name === 'code' ? 'code' : name)
    return pool && fc.nat().map((at) => pool[at % pool.length])
  }
  const found: Found = { asked: 0, byStatus: {}, wrong: [] }
  const stock = new Map<Operation, Record<'valid' | 'edge' | 'hostile', Request[]>>()

  /** Requests are drawn many at a time, for drawing one costs as much as forty. */
  function draw(operation: Operation): { request: Request; kind: 'valid' | 'edge' | 'hostile' } {
    const chance = next()
    const kind = chance < 0.5 ? 'valid' : chance < 0.7 ? 'edge' : 'hostile'
    let ready = stock.get(operation)
    if (!ready) {
      ready = { valid: [], edge: [], hostile: [] }
      stock.set(operation, ready)
    }
    if (ready[kind].length === 0) {
      const from = requestsFor(operation, resolve, known)[kind]
      ready[kind] = fc.sample(from, {
        numRuns: drawnOf(found.asked),
        seed: Math.floor(next() * 2 ** 31),
      })
    }
    return { request: ready[kind].pop()!, kind }
  }

  /** What an answer names may be asked for from then on. */
  function learn(value: unknown, depth = 4): void {
    if (typeof value !== 'object' || value === null || depth === 0) return
    for (const [name, its] of Object.entries(value)) {
      if (typeof its === 'object') learn(its, depth - 1)
      else if (
        /_id$|^code$|^lock_token$/.test(name) &&
        typeof its === 'string' &&
        !target.spared.includes(its)
      ) {
        const pool = pools.get(name) ?? []
        if (pool.length < knownMax) pool.push(its)
        else pool[Math.floor(next() * knownMax)] = its
        pools.set(name, pool)
      }
    }
  }

  const waiting = files.map(({ places }) => Array.from({ length: places }, () => Promise.resolve()))

  /** One after the other where it is a file; at once otherwise. */
  async function ask(operation: Operation): Promise<void> {
    const places = waiting[files.findIndex(({ of }) => of.test(operation.path))]
    if (!places) return askNow(operation)
    const mine = places.shift()!.then(() => askNow(operation))
    places.push(mine)
    return mine
  }

  async function askNow(operation: Operation): Promise<void> {
    const { method, path } = operation
    const { request, kind } = draw(operation)
    const few = switches.includes(`${method} ${path}`) ? target.bystanders : target.callers
    const anybody = few[Math.floor(next() * few.length)]
    const caller = few === target.callers && next() < 0.7 ? target.admin : anybody
    const { headers, body } = request
    const token = caller && !headers.authorization ? { authorization: `Bearer ${caller}` } : {}
    const what = `${method} ${request.path.slice(0, 200)} ${typeof body === 'string' ? body.slice(0, 300) : ''} (${kind})`
    try {
      const signal = AbortSignal.timeout(20_000)
      const reply = await fetch(target.base + request.path, {
        method,
        body,
        headers: { ...headers, ...token },
        signal,
        redirect: 'manual',
      })
      const text = await reply.text()
      found.asked++
      found.byStatus[reply.status] = (found.byStatus[reply.status] ?? 0) + 1
      const type = reply.headers.get('content-type')
      // `.` and `..` are gone before it is sent: it was another route that answered.
      const isOther = new URL(target.base + request.path).pathname !== request.path.split('?')[0]
      const why =
        reply.status >= 500
          ? `${reply.status} ${text.slice(0, 300)}`
          : isOther
            ? undefined
            : judgeAnswer(operation, reply.status, type, text)
      if (why) found.wrong.push(`${what}: ${why}`)
      else if (reply.status < 300 && isJson(type)) learn(JSON.parse(text))
    } catch (error) {
      found.wrong.push(`${what}: no answer, ${(error as Error).cause ?? error}`)
    }
  }
  /** A spoilt path may lead to no route: then that answer is as good. */
  const judgeAnswer = (operation: Operation, status: number, type: string | null, text: string) => {
    const why = judge(operation, status, type, text)
    const lost =
      type === 'application/problem+json' && /"(route-not-found|method-not-allowed)"/.test(text)
    return why && lost ? undefined : why
  }

  while (found.asked + found.wrong.length < count) {
    const size = Math.min(batch, count - found.asked)
    const these: Operation[] = []
    while (these.length < size) {
      const one = operations[Math.floor(next() * operations.length)]!
      if (!costly.test(`${one.method} ${one.path}`) || next() < costlyShare) these.push(one)
    }
    let at = 0
    const lane = async () => {
      while (at < these.length) await ask(these[at++]!)
    }
    await Promise.all(Array.from({ length: concurrency }, lane))
    target.told?.(found.asked)
    if (found.wrong.length > 50) break
  }
  return found
}
