import { setTimeout as sleep } from 'node:timers/promises'
import type { Command } from 'commander'
import { type Difference, type Reconciliation, reconcile } from '../ops/reconcile.ts'
import { count, id } from './arguments.ts'
import { withOps } from './ops.ts'
import { say, tell } from './say.ts'

const shownMax = 50
const usualSeconds = 60

type Options = { book?: string; exact?: boolean; watch?: number | true }

export function reconcileVerb(program: Command): void {
  program
    .command('reconcile')
    .description('compare Redis and PostgreSQL, code by code, also while they are in use')
    .option('--book <id>', 'this book alone', id)
    .option('--exact', 'nothing is written meanwhile, as after a drain: read everything once')
    .option('--watch [seconds]', `again and again, with a pause of ${usualSeconds} s`, count)
    .addHelpText('before', 'Example:\n  $ npm run stampede -- reconcile\n')
    .addHelpText('after', '\nEnds with 3 if the stores differ. Changes nothing.')
    .action(run)
}

async function run({ book, exact, watch }: Options, command: Command): Promise<void> {
  for (;;) {
    const begun = performance.now()
    const found = await withOps((ops) =>
      reconcile(ops, {
        ...(book ? { book } : {}),
        exact: exact === true,
        onProgress: (done, total) => tell(`${number(done)} of ${number(total)} codes`),
      }),
    )
    tell('')
    process.exitCode = found.verdict === 'different' ? 3 : 0
    say(command, text(found, performance.now() - begun), found)
    if (watch === undefined) return
    await sleep((watch === true ? usualSeconds : watch) * 1000)
  }
}

const number = (value: number) => value.toLocaleString('en')

/** What was compared, and the differences by class, each with both sides. */
export function text(found: Reconciliation, ms: number): string {
  const { verdict, at, books, differences, more } = found
  const sum = (of: 'codes' | 'coupons') => number(books.reduce((all, book) => all + book[of], 0))
  const what = `${number(books.length)} books, ${sum('codes')} codes, ${sum('coupons')} coupons`
  const head = `${at} ${verdict}: ${what}, ${(ms / 1000).toFixed(1)} s`
  const shown = differences.slice(0, shownMax)
  const lines = [...Map.groupBy(shown, (difference) => difference.class)].flatMap(
    ([name, some]) => [
      `\n${name} (${number(differences.filter((difference) => difference.class === name).length)})`,
      ...some.map(line),
    ],
  )
  const left = differences.length - shown.length + more
  return [
    head,
    ...lines,
    ...(left > 0 ? [`\n${number(left)} more; --json lists a thousand`] : []),
  ].join('\n')
}

function line({ shard, book_id, code, what, redis, postgres }: Difference): string {
  const where = [`shard ${shard}`, book_id && `book ${book_id}`, code].filter(Boolean).join('  ')
  return `  ${where}  ${what}\n    redis ${JSON.stringify(redis)}  postgres ${JSON.stringify(postgres)}`
}
