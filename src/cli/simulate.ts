import { constants } from 'node:os'
import type { Command } from 'commander'
import { makeApiKey } from '../http/tokens.ts'
import { getBook } from '../ledger/books.ts'
import { createKey, revokeKey } from '../ops/keys.ts'
import type { Ops } from '../ops/ops.ts'
import { inUse, type Rehearsal, simulate, type Tally } from '../ops/simulate.ts'
import { problem, problemDocument } from '../problems.ts'
import { count, duration, id } from './arguments.ts'
import { exits } from './explain.ts'
import { actor, stores, withOps } from './ops.ts'
import { ServerDown } from './redis.ts'
import { note, say } from './say.ts'

const answerMs = 2_000

type Options = {
  users: number
  rate: number
  book: string
  time: number
  url?: string
  yes?: boolean
}

export function simulateVerb(program: Command): void {
  program
    .command('simulate')
    .description(
      'a rehearsal: a crowd of buyers on one book, checked at the end; uses up its coupons',
    )
    .requiredOption('--book <id>', 'which book', id)
    .option('--users <n>', 'different buyers', count, 10_000)
    .option('--rate <n>', 'buyers that arrive a second', count, 100)
    .option('--time <time>', 'for how long they come', duration, 10_000)
    .option('--url <url>', 'of the API; left out: the `npm start` that runs here')
    .option('--yes', 'also on a book that has given out coupons, of which more are used up')
    .addHelpText(
      'before',
      'Example:\n  $ npm run stampede -- simulate --users 5000 --rate 200 --book 83ff2693-cf4c-4ea8-a2c7-f3bb22244a1d\n',
    )
    .addHelpText(
      'after',
      '\nEnds with 1 if nobody was given a coupon, 2 if the book has given some out and --yes is missing,' +
        '\nand 3 if what the buyers were told is not what PostgreSQL holds.',
    )
    .action(run)
}

const columns = ['came', 'requests', 'assigned', 'locked', 'redeemed', 'p50 ms', 'p99 ms'] as const
const cells = (values: readonly string[]) =>
  values.map((value, i) => value.padStart(columns[i]!.length + 2)).join('')
const row = ({ arrived, requests, assigned, locked, redeemed, refused, p50, p99 }: Tally) => {
  const counts = [arrived, requests, assigned, locked, redeemed].map(String)
  const why = Object.entries(refused).map(([code, count]) => `${code} ${count}`)
  return `${cells([...counts, p50.toFixed(1), p99.toFixed(1)])}  ${why.join(', ')}`
}
const header = `${cells(columns)}  refused`

async function run(options: Options, command: Command): Promise<void> {
  const base = (options.url ?? stores().http)?.replace(/\/$/, '')
  if (!base)
    command.error('error: --url is needed: the stores are not those of an `npm start`', {
      exitCode: exits.usage,
    })
  const found = await withOps(async (ops) => {
    const book = await getBook(ops.database, options.book)
    if (!book) throw new Error(problemDocument(problem('book-not-found'), '', '').title)
    await answers(base)
    const refusal = options.yes ? undefined : await inUse(ops, book)
    if (refusal) command.error(`error: ${refusal}`, { exitCode: exits.usage })
    note(header)
    return withKey(ops, (key) =>
      simulate(ops, {
        ...{ base, key, book: options.book, users: options.users, rate: options.rate },
        seconds: options.time / 1000,
        onTick: (now) => note(row(now)),
      }),
    )
  })
  if (found.verdict === 'different') process.exitCode = exits.different
  if (found.verdict === 'nothing') process.exitCode = exits.failed
  const shown = found.differences.slice(0, 20).map((one) => `! ${one}`)
  const lines = [header, row(found), `checked: ${found.verdict}${why(found)}`, ...shown]
  say(command, lines.join('\n'), found)
}

/** What to do about it where nobody was given a coupon. */
const doors: Record<string, string> = {
  unauthenticated: 'the API at --url is of another installation than these stores',
  'book-not-found': 'the API at --url is of another installation than these stores',
  'book-inactive': '`stampede books open` lets it give out coupons',
  'intake-stopped': '`stampede resume --intake`, or `books open` after `drain --book`, opens it',
  'sold-out': 'give it codes, or rehearse on another book',
  'not-ready': '`stampede status` says why it does not serve',
}

function why({ verdict, refused }: Rehearsal): string {
  if (verdict !== 'nothing') return ''
  const [most] = Object.entries(refused).toSorted(([, a], [, b]) => b - a)
  if (!most) return ': nobody came; try a longer --time or a higher --rate'
  const next = doors[most[0]]
  return `: nobody was given a coupon, mostly ${most[0]}${next ? `: ${next}` : ''}`
}

/** A crowd in front of a door that nobody opens would be told nothing, and nothing contradicts that. */
async function answers(base: string): Promise<void> {
  const timeout = AbortSignal.timeout(answerMs)
  await fetch(`${base}/healthz`, { signal: timeout }).catch((error: Error) => {
    const why = error.cause instanceof Error ? error.cause.message : error.message
    throw new ServerDown(`the API at ${base} does not answer: ${why}`)
  })
}

/**
 * Works with a key that nobody else knows, and that is revoked afterwards, also when somebody ends the
 * rehearsal. Of one that was killed the key stays in the list, and its secret died with the process.
 */
async function withKey<T>(ops: Ops, work: (key: string) => Promise<T>): Promise<T> {
  const { key, ...stored } = makeApiKey()
  const reason = 'rehearsal'
  const by = { actor, reason }
  const created = createKey(ops, { ...stored, name: reason }, { ...by, action: 'simulate' })
  const revoke = () => revokeKey(ops, stored.key_id, by)
  const end = (signal: 'SIGINT' | 'SIGTERM') => {
    // A second one ends it at once, as without us.
    void created.then(revoke).finally(() => process.exit(128 + constants.signals[signal]))
  }
  // Before the key is there: whoever ends it just then must not leave one behind.
  process.once('SIGINT', end).once('SIGTERM', end)
  try {
    await created
    return await work(key).finally(revoke)
  } finally {
    process.off('SIGINT', end).off('SIGTERM', end)
  }
}
