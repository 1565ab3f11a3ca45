import { setTimeout as sleep } from 'node:timers/promises'
import { Pool } from 'undici'
import { type Answered, type Asked, openDiary } from './history.ts'
import { makeMind, type Wish } from './mind.ts'
import { readAnswer, readOperation, send } from './wire.ts'

export type LoadOptions = {
  bases: string[]
  service: string
  admin: string
  books: string[]
  /** Assignments asked for; what is done with the coupons comes on top. */
  perSecond: number
  connections: number
  seed: number
  diary: string
}

/** Requests under way at most: beyond this a stalled service is not asked for more. */
const underWayMax = 3_000
/** Verbs that only an administrator may ask for. */
const admins = new Set<string>(['release', 'void'])
/** An unknown one is asked again under its key after this long, or as it was told, as long as it takes. */
const againMs = 400
/** Of what was acknowledged with an operation's URL so many are asked about, of all else every one. */
const sample = 1_000
const askersMax = 20

export type Load = ReturnType<typeof startLoad>

/**
 * A crowd outside the system: sends at its own pace whatever the service does, writes down what it
 * asks before it asks it and what it is told before it acts on it, and asks again under the same
 * Idempotency-Key for what nobody could tell it.
 */
export function startLoad(options: LoadOptions) {
  const { bases, perSecond, connections, seed } = options
  const diary = openDiary(options.diary)
  const pools = bases.map(
    (base) => new Pool(base, { connections, headersTimeout: 0, bodyTimeout: 0 }),
  )
  const mind = makeMind(seed, options.books)
  const counts = {
    ...{ asked: 0, done: 0, again: 0, refused: 0, unsent: 0, unknown: 0, skipped: 0 },
    /** Of those done. */
    assigned: 0,
  }
  const refusals: Record<string, number> = {}
  /** Book -> its acknowledged requests: when each was sent and when it was answered. */
  const served = new Map(options.books.map((book) => [book, [] as { sent: number; at: number }[]]))
  const underWay = new Set<Promise<void>>()
  const open = new Map<number, Wish>()
  /** Attempts whose answers said where to ask what became of them. */
  const operations: { id: string; url: string; token: string; isDone: boolean }[] = []
  let attempts = 0
  let stopped = false

  async function attempt(wish: Wish): Promise<Answered> {
    const pool = pools[attempts % pools.length]!
    const id = `${seed}-${wish.op}-${attempts++}`
    const { path, body, verb, ...rest } = wish
    const token = admins.has(verb) ? options.admin : options.service
    const asked: Asked = { is: 'asked', id, verb, ...rest, at: Date.now() }
    diary.note(asked)
    counts.asked++
    // One write for all that are due at once: the first of them to go on makes it.
    await undefined
    diary.write()
    const reply = await send(pool, `/api/v1/${path}`, body, {
      authorization: `Bearer ${token}`,
      'x-request-id': id,
      durability: wish.level,
      ...(wish.key ? { 'idempotency-key': wish.key } : {}),
    })
    const answer = readAnswer(asked, reply)
    diary.note(answer)
    counts[answer.outcome]++
    if (answer.outcome === 'done' && verb === 'assign') counts.assigned++
    if (answer.why) refusals[answer.why] = (refusals[answer.why] ?? 0) + 1
    const ok = answer.outcome === 'done' || answer.outcome === 'again'
    if (answer.operation) operations.push({ id, url: answer.operation, token, isDone: ok })
    if (ok) served.get(wish.book)?.push({ sent: asked.at, at: answer.at })
    return answer
  }

  /** One wish until it is decided, or not to be decided: then it stays open for `settle`. */
  async function pursue(wish: Wish): Promise<void> {
    let answer = await attempt(wish)
    if (answer.outcome === 'unknown' && wish.key) {
      open.set(wish.op, wish)
      while (!stopped && undecided(answer)) {
        // As told, and not all at once: else those who were refused would be a load of their own.
        await sleep((answer.retryAfterMs ?? againMs) * (1 + 0.3 * Math.random()))
        answer = await attempt(wish)
      }
      if (!undecided(answer)) open.delete(wish.op)
    }
    mind.learn(wish, answer)
    // Whoever is in doubt presses the button again, now and then.
    if (wish.key && answer.outcome === 'done' && mind.chance(0.03)) await attempt(wish)
  }

  async function run(): Promise<void> {
    let due = 0
    for (let last = performance.now(); !stopped; await sleep(2)) {
      const now = performance.now()
      // What a stall of this very process swallowed is not made up for in one burst.
      due += (Math.min(now - last, 100) / 1000) * perSecond
      last = now
      while (due >= 1) {
        if (underWay.size >= underWayMax) {
          counts.skipped++
          due--
          continue
        }
        const wish = mind.wish()
        if (wish.verb === 'assign') due--
        const one = pursue(wish).finally(() => underWay.delete(one))
        underWay.add(one)
      }
      diary.write()
    }
  }
  const running = run()

  return {
    counts,
    refusals,
    books: options.books,
    perSecond,
    path: options.diary,
    /** When the last of the books was served that was asked since then; undefined: not all are. */
    servedSince(since: number): number | undefined {
      const firsts = [...served.values()].map((acks) => acks.find(({ sent }) => sent >= since)?.at)
      return firsts.includes(undefined) ? undefined : Math.max(...(firsts as number[]))
    },
    unserved: (since: number) =>
      options.books.filter((book) => !served.get(book)!.some(({ sent }) => sent >= since)),
    unresolved: () => open.size,
    /** Ends the load: no new requests, and what is under way comes to its end. */
    async stop(): Promise<void> {
      stopped = true
      await running
      await Promise.all(underWay)
    },
    /** Asks again for everything that is still unknown, until it is decided. */
    async settle(ms: number): Promise<void> {
      for (const until = performance.now() + ms; open.size > 0 && performance.now() < until; ) {
        await Promise.all(
          [...open.values()].slice(0, 100).map(async (wish) => {
            if (!undecided(await attempt(wish))) open.delete(wish.op)
          }),
        )
        if (open.size > 0) await sleep(againMs)
      }
    },
    operations: () => operations.length,
    /** Asks what became of every operation that was in doubt, and of some that were not, until it says. */
    async inquire(ms: number): Promise<number> {
      const until = performance.now() + ms
      const sure = operations.filter(({ isDone }) => isDone)
      const every = Math.ceil(sure.length / sample)
      const chosen = [
        ...operations.filter(({ isDone }) => !isDone),
        ...sure.filter((_, at) => at % every === 0),
      ]
      const next = chosen.entries()
      const inquireOne = async ([at, { id, url, token }]: [number, (typeof chosen)[number]]) => {
        const ask = () => readOperation(new URL(url, bases[at % bases.length]).href, token)
        let said = await ask()
        while (!/^(durable|absent)$/.test(said.state) && performance.now() < until) {
          await sleep(againMs)
          said = await ask()
        }
        diary.note({ is: 'told', id, ...said })
      }
      await Promise.all(
        Array.from({ length: askersMax }, async () => {
          for (const one of next) await inquireOne(one)
        }),
      )
      return chosen.length
    },
    close(): void {
      diary.close()
      for (const pool of pools) void pool.destroy()
    },
  }
}

/** Not known yet, or not decided: a 503 says nothing of an earlier attempt. */
const undecided = ({ outcome, status, why }: Answered) =>
  outcome === 'unknown' || outcome === 'unsent' || (status === 503 && why !== 'not-durable')
