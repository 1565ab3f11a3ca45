import { randomUUID } from 'node:crypto'
import { createHistogram } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Book } from '../ledger/books.ts'
import { keys } from '../store/keys.ts'
import type { Ops } from './ops.ts'

/** How many of those who hold a coupon go on to lock it, and how many of those redeem it. */
const lockShare = 0.7
const redeemShare = 0.85
/** Whoever is unsure presses the button twice, under one Idempotency-Key. */
const twiceShare = 0.05
const thinkMs = 400
const answerMs = 10_000
const looksMax = 10

export type Crowd = {
  /** Of the API, without a slash at its end. */
  base: string
  /** An API key: it acts for any user. */
  key: string
  book: string
  /** Different buyers. */
  users: number
  /** Buyers that arrive a second. */
  rate: number
  seconds: number
  onTick?: (now: Tally) => void
}

/** What the crowd was told so far. Latencies in milliseconds. */
export type Tally = {
  arrived: number
  requests: number
  assigned: number
  locked: number
  redeemed: number
  /** Problem code -> how often; `no-answer`: the connection broke, or nothing came in 10 s. */
  refused: Record<string, number>
  p50: number
  p95: number
  p99: number
}

export type Rehearsal = Tally & {
  /** `nothing`: nobody was given a coupon, so that there was nothing to be checked. */
  verdict: 'equal' | 'different' | 'nothing'
  /** What contradicts what the crowd was told. */
  differences: string[]
}

type Answer = { status: number; body: Record<string, unknown> & { code?: string }; reached: string }

/**
 * Sends a crowd of buyers to one book, as a rehearsal: each asks for a coupon, most lock it, think, and
 * redeem it. At the end what they were told is held against PostgreSQL. Uses up real coupons.
 */
export async function simulate({ database }: Ops, crowd: Crowd): Promise<Rehearsal> {
  const latency = createHistogram()
  const counts = { arrived: 0, requests: 0, assigned: 0, locked: 0, redeemed: 0 }
  const refused: Record<string, number> = {}
  /** Code -> the user it was given to. */
  const given = new Map<string, string>()
  /** Redemptions that PostgreSQL was said to hold. */
  const used: string[] = []
  const differences: string[] = []
  const underWay = new Set<Promise<void>>()

  async function post(path: string, body: object, key: string = randomUUID()): Promise<Answer> {
    const begun = performance.now()
    counts.requests++
    try {
      const response = await fetch(`${crowd.base}/api/v1/${path}`, {
        method: 'POST',
        headers: {
          ...{ authorization: `Bearer ${crowd.key}`, 'content-type': 'application/json' },
          'idempotency-key': key,
        },
        body: JSON.stringify(body),
        signal: AbortSignal.timeout(answerMs),
      })
      const answer = (await response.json()) as Answer['body']
      latency.record(Math.max(1, Math.round((performance.now() - begun) * 1000)))
      if (!response.ok) count(`${answer.code}`)
      const reached = response.headers.get('durability')?.split(';')[0] ?? ''
      return { status: response.status, body: answer, reached }
    } catch {
      count('no-answer')
      return { status: 0, body: {}, reached: '' }
    }
  }
  const count = (why: string) => {
    refused[why] = (refused[why] ?? 0) + 1
  }
  const ok = ({ status }: Answer) => status === 200 || status === 202

  async function buy(user_id: string): Promise<void> {
    const answer = await post('coupons/assign', { book_id: crowd.book, user_id })
    if (!ok(answer)) return
    const [{ code }] = answer.body.coupons as [{ code: string }]
    counts.assigned++
    const other = given.get(code)
    if (other) differences.push(`${code} was given to ${other} and to ${user_id}`)
    given.set(code, user_id)
    if (Math.random() > lockShare) return
    const lock = await post(`coupons/lock/${code}`, { user_id })
    if (!ok(lock)) return
    counts.locked++
    await sleep(thinkMs * (0.5 + Math.random()))
    if (Math.random() > redeemShare) return void (await post(`coupons/unlock/${code}`, { user_id }))
    const body = { user_id, lock_token: lock.body.lock_token }
    const key = randomUUID()
    const presses = Math.random() < twiceShare ? 2 : 1
    const pressed = await Promise.all(
      Array.from({ length: presses }, () => post(`coupons/redeem/${code}`, body, key)),
    )
    const done = pressed.filter(ok)
    if (done.length > 0) counts.redeemed++
    const ids = new Set(done.map((one) => `${one.body.redemption_id}`))
    if (ids.size > 1) differences.push(`${code} was redeemed twice under one key`)
    for (const one of done) if (one.reached === 'postgres') used.push(`${one.body.redemption_id}`)
  }

  const tally = (): Tally => ({
    ...counts,
    refused: { ...refused },
    p50: latency.percentile(50) / 1000,
    p95: latency.percentile(95) / 1000,
    p99: latency.percentile(99) / 1000,
  })

  const begun = performance.now()
  let ticked = begun
  for (let now = begun; now - begun < crowd.seconds * 1000; now = performance.now()) {
    const due = Math.min(((now - begun) / 1000) * crowd.rate, crowd.seconds * crowd.rate)
    while (counts.arrived < due) {
      const user = `rehearsal-${1 + Math.floor(Math.random() * crowd.users)}`
      counts.arrived++
      const one = buy(user).finally(() => underWay.delete(one))
      underWay.add(one)
    }
    if (now - ticked > 1_000) {
      ticked = now
      crowd.onTick?.(tally())
    }
    await sleep(5)
  }
  await Promise.all(underWay)

  differences.push(...(await astray(database, given)))
  const known = await database.query<{ redemption_id: string }>(
    'SELECT redemption_id FROM redemptions WHERE redemption_id = ANY ($1::uuid[])',
    [used],
  )
  const there = new Set(known.rows.map(({ redemption_id }) => redemption_id))
  for (const id of used)
    if (!there.has(id)) differences.push(`redemption ${id} was acknowledged and is not there`)
  const found = counts.assigned === 0 ? 'nothing' : 'equal'
  return { ...tally(), verdict: differences.length > 0 ? 'different' : found, differences }
}

/** Coupons that PostgreSQL gives to somebody else, or to nobody; it gets some seconds to follow. */
async function astray(
  database: Ops['database'],
  given: ReadonlyMap<string, string>,
): Promise<string[]> {
  for (let look = 0; ; look++) {
    const { rows } = await database.query<{ code: string; user_id: string }>(
      `SELECT code, user_id FROM coupons WHERE code = ANY ($1)`,
      [[...given.keys()]],
    )
    const held = new Map(rows.map(({ code, user_id }) => [code, user_id]))
    const wrong = [...given].filter(([code, user]) => held.get(code) !== user)
    if (wrong.length === 0 || look === looksMax)
      return wrong.map(
        ([code, user]) =>
          `${code} was given to ${user}; PostgreSQL says ${held.get(code) ?? 'nobody'}`,
      )
    await sleep(500)
  }
}

/** Whoever is not shown that it is a sale's own book rehearses on it by a slip of the hand. */
export async function inUse(
  { redis }: Ops,
  { book_id, name, shard }: Book,
): Promise<string | undefined> {
  const found = await redis.hmget(keys.book(shard, book_id), 'left', 'held', 'redeemed', 'void')
  const [left, held, redeemed, gone] = found.map(Number) as [number, number, number, number]
  if (held + redeemed + gone === 0) return undefined
  return (
    `book "${name}" is in use: ${left} left, ${held} given out, ${redeemed} redeemed, ${gone} void. ` +
    'Make one of its own for the rehearsal, or use this one up with --yes.'
  )
}
