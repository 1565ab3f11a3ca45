import type { ChildProcess } from 'node:child_process'
import { acknowledgedOf, type Sample, sampleOf } from './answers.ts'
import type { Bench } from './bench.ts'
import type { Book } from './client.ts'
import type { EchoReady } from './echo.ts'
import type { LoadOrder } from './load.ts'
import { reconcile, undecided } from './reconcile.ts'
import { forkFile, heard, type Round, runRound } from './round.ts'
import { median, type Target, target } from './targets.ts'

/** Users look like UUIDs and count up in their last digits: no user ever asks twice. */
const user = (number: number) => `00000000-0000-4000-8000-${String(number).padStart(12, '0')}`
const usersPerRound = 10_000_000
let rounds = 0

/** Books are filled for this many requests a second until a round has shown a rate. */
const rateGuess = 40_000
/** A book has this many times the codes that the fastest round so far would have taken. */
const spare = 1.6
const booksMax = 1_000_000

/** The answer of a real assignment: its layout, and how many bytes it has. */
export async function takeSample({ client }: Bench): Promise<Sample> {
  const book = await client.makeBook('Sample', 1)
  const text = await client.assign(book.id, user(0))
  return sampleOf(text, JSON.parse(text).coupons[0].code, user(0))
}

/** One round of assignments from `book`, checked against both stores. */
export async function assignRound(
  bench: Bench,
  book: Book,
  sample: Sample,
  length: Pick<LoadOrder, 'seconds' | 'amount'>,
  keyed = false,
): Promise<Round> {
  const { stores, client, options, pids } = bench
  await stores.untilQuiet()
  const shard = await stores.shardOf(book.id)
  const order = orderOf(bench, book.id, sample, { ...length, connections: options.connections })
  if (keyed) order.headers = { ...order.headers, 'idempotency-key': user(0) }
  const { acknowledged, ...round } = await runRound(
    keyed ? 'assign with keys' : 'assign',
    { url: client.assignUrl, ...order },
    pids,
    { stores, shard },
  )
  round.differences = await reconcile(stores, book, {
    acknowledged: acknowledgedOf(sample, acknowledged),
    undecided: undecided(round.sent - round.answers, round.refused),
  })
  const { calls, flushes } = await stores.shapeOf(book.id)
  round.factsPerCall = round.accepted / calls
  round.factsPerFlush = round.accepted / flushes
  return round
}

export function orderOf(
  { client }: Bench,
  book_id: string,
  sample: Sample,
  rest: Pick<LoadOrder, 'connections' | 'seconds' | 'amount'>,
): Omit<LoadOrder, 'url'> {
  const firstUser = ++rounds * usersPerRound
  const body = JSON.stringify({ book_id, user_id: user(0) })
  return { headers: client.headers, body, user: user(0), firstUser, sample, ...rest }
}

/** The echo's side of a pair: same requests, same flags, answers of the same number of bytes. */
async function echoRound(bench: Bench, echo: Echo, sample: Sample, seconds: number) {
  const { connections } = bench.options
  const order = orderOf(bench, '00000000-0000-4000-8000-000000000000', sample, {
    connections,
    seconds,
  })
  const its: Sample = { length: sample.length, head: '{"book_id"' }
  const { acknowledged: _, ...round } = await runRound(
    'echo',
    { ...order, url: echo.url, sample: its },
    { echo: echo.child.pid! },
  )
  return round
}

type Echo = { child: ChildProcess; url: string }

async function startEcho({ client }: Bench, bytes: number): Promise<Echo> {
  const url = new URL(client.assignUrl)
  const child = forkFile('./echo.ts')
  child.send({ path: url.pathname, bytes })
  url.port = String((await heard<EchoReady>(child, () => true)).port)
  return { child, url: url.href }
}

export type AssignReport = { rounds: Round[]; ratios: number[]; targets: Target[] }

/** Assign as fast as it goes, beside a bare echo: interleaved, so that both get the same weather. */
export async function assign(bench: Bench): Promise<AssignReport> {
  const { options, client, say } = bench
  const sample = await takeSample(bench)
  const echo = await startEcho(bench, sample.length)
  let rate = rateGuess
  async function pair(name: string, seconds: number): Promise<[Round, Round]> {
    const count = Math.min(booksMax, Math.ceil(rate * seconds * spare))
    const book = await client.makeBook(name, count)
    const beside = await echoRound(bench, echo, sample, seconds)
    const round = await assignRound(bench, book, sample, { seconds })
    rate = Math.max(rate, round.perSecond)
    return [beside, round]
  }
  try {
    say(`answers of ${sample.length} bytes; warming up`)
    await pair('Warm-up', options.warmUpSeconds)
    const pairs: [Round, Round][] = []
    for (let r = 1; r <= options.rounds; r++) {
      pairs.push(await pair(`Round ${r}`, options.seconds))
      say(`round ${r} of ${options.rounds}`)
    }
    const ratios = pairs.map(([beside, round]) => round.perSecond / beside.perSecond)
    const age = Math.max(...pairs.map(([, round]) => round.lag!.ageMs.max))
    const targets = [
      target('assign / echo, median of pairs', median(ratios), 'at least', 0.25),
      target('oldest fact waiting, ms', age, 'at most', 1_000),
    ]
    return { rounds: pairs.flat(), ratios, targets }
  } finally {
    echo.child.disconnect()
  }
}

/** What an Idempotency-Key on every request costs: rounds with and without, in turn. */
export async function keys(bench: Bench): Promise<AssignReport> {
  const { options, client, say } = bench
  const sample = await takeSample(bench)
  let rate = rateGuess
  async function pair(name: string, seconds: number): Promise<[Round, Round]> {
    const count = Math.min(booksMax, Math.ceil(rate * seconds * spare))
    const rounds: Round[] = []
    for (const keyed of [false, true]) {
      const book = await client.makeBook(name, count)
      rounds.push(await assignRound(bench, book, sample, { seconds }, keyed))
    }
    rate = Math.max(rate, ...rounds.map(({ perSecond }) => perSecond))
    return rounds as [Round, Round]
  }
  await pair('Warm-up', options.warmUpSeconds)
  const pairs: [Round, Round][] = []
  for (let r = 1; r <= options.rounds; r++) {
    pairs.push(await pair(`Round ${r}`, options.seconds))
    say(`round ${r} of ${options.rounds}`)
  }
  const ratios = pairs.map(([plain, keyed]) => keyed.perSecond / plain.perSecond)
  const targets = [target('with keys / without, median of pairs', median(ratios), 'at least', 0.75)]
  return { rounds: pairs.flat(), ratios, targets }
}
