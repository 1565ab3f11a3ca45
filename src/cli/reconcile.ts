import { setTimeout as sleep } from 'node:timers/promises'
import type { Command } from 'commander'
import { reconcileAsked } from '../ops/reconcile/exact.ts'
import {
  type Difference,
  type Reconciliation,
  shared,
  Unsettled,
} from '../ops/reconcile/reconcile.ts'
import { standLast } from '../priority.ts'
import { count, id } from './arguments.ts'
import { complain, exits, explain } from './explain.ts'
import { withOps } from './ops.ts'
import { say, tell, told } from './say.ts'

const shownMax = 50
const usualSeconds = 60

type Options = { book?: string; exact?: boolean; watch?: number | true }

export function reconcileVerb(program: Command): void {
  program
    .command('reconcile')
    .description('compare Redis and PostgreSQL, code by code, also while they are in use')
    .option('--book <id>', 'this book alone', id)
    .option('--exact', 'after a drain, when nothing is written: read everything once')
    .option('--watch [seconds]', `again and again, with a pause of ${usualSeconds} s`, count)
    .addHelpText('before', 'Example:\n  $ npm run stampede -- reconcile\n')
    .addHelpText(
      'after',
      '\nEnds with 3 if the stores differ, 4 if the ledger did not follow in time, and so nobody can tell.' +
        '\nChanges nothing. What the last comparison of all books came to stands in /metrics.',
    )
    .action(run)
}

async function run({ book, exact, watch }: Options, command: Command): Promise<void> {
  for (;;) {
    const begun = performance.now()
    try {
      const found = await look(book, exact === true)
      process.exitCode = found.verdict === 'different' ? exits.different : 0
      say(command, text(found, performance.now() - begun), found)
    } catch (error) {
      const { message, exit } = failure(error as Error)
      // An outage, a recovery, or a flush that somebody holds: it passes, and the next look can tell.
      const passes = exit === exits.unavailable || exit === exits.late
      if (!passes || (watch === undefined && exit !== exits.late)) throw error
      complain(message, command.optsWithGlobals().json)
      process.exitCode = exit
    }
    if (watch === undefined) return
    await sleep((watch === true ? usualSeconds : watch) * 1000)
  }
}

function failure(error: Error): { message: string; exit: number } {
  const { message, exit } = explain(error)
  if (error instanceof Unsettled) return { message, exit: exits.late }
  // What Redis says while it starts.
  return { message, exit: message.startsWith('LOADING') ? exits.unavailable : exit }
}

async function look(book: string | undefined, exact: boolean): Promise<Reconciliation> {
  // Whoever compares during a sale waits for whatever else is done here, not the others for him.
  if (!exact) standLast()
  const onProgress = (done: number, total: number) =>
    tell(`${number(done)} of ${number(total)} codes`, { done, total })
  try {
    return await withOps((ops) =>
      reconcileAsked(ops, { ...(book ? { book } : {}), exact, onProgress }),
    )
  } finally {
    told()
  }
}

const number = (value: number) => value.toLocaleString('en')
const several = (count: number, noun: string) => `${number(count)} ${noun}${count === 1 ? '' : 's'}`

/** What was compared, and the differences by class, each with both sides. */
function text({ verdict, at, books, differences, ...all }: Reconciliation, ms: number): string {
  const sum = (of: 'codes' | 'coupons') => books.reduce((all, book) => all + book[of], 0)
  const what = [
    several(books.length, 'book'),
    several(sum('codes'), 'code'),
    several(sum('coupons'), 'coupon'),
  ].join(', ')
  const shown = shared(differences, shownMax)
  const lines = [`${at} ${verdict}: ${what}, ${(ms / 1000).toFixed(1)} s`]
  for (const [name, some] of Map.groupBy(shown, (difference) => difference.class)) {
    lines.push('', `${name} (${number(all.totals[name]!)})`, ...some.map(line))
  }
  const left = differences.length - shown.length + all.more
  if (left > 0) lines.push('', `${number(left)} more: --json lists a thousand`)
  return lines.join('\n')
}

function line({ shard, book_id, code, what, redis, postgres }: Difference): string {
  const where = [`shard ${shard}`, book_id && `book ${book_id}`, code].filter(Boolean).join('  ')
  return `  ${where}  ${what}\n    redis ${JSON.stringify(redis)}  postgres ${JSON.stringify(postgres)}`
}
