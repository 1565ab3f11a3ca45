import type { Command } from 'commander'
import { type Switched, setBook, setFlush, setIntake } from '../ops/control.ts'
import { type Problem, problemDocument } from '../problems.ts'
import { id, reason } from './arguments.ts'
import { actor, withBoth, withOps } from './ops.ts'
import { say } from './say.ts'

type Options = { book?: string; intake?: boolean; flush?: boolean; reason: string }

/** `pause` and `resume`: one book, all intake, or the flush. */
export function controlVerbs(program: Command): void {
  const ofBook = {
    pause:
      'one book: it assigns nothing (409 book-inactive), its holders may still lock and redeem',
    resume: 'one book, also one that was drained',
  }
  const verb = (name: 'pause' | 'resume', what: string, example: string) =>
    program
      .command(name)
      .description(what)
      .option('--book <id>', ofBook[name], id)
      .option('--intake', 'all coupon verbs: they answer 503 intake-stopped, reads go on')
      .option('--flush', 'the way from the journal to the ledger: for work on PostgreSQL')
      .requiredOption('--reason <text>', 'why: it stands in the audit log', reason)
      .addHelpText('before', `Example:\n  $ npm run stampede -- ${example}\n`)
      .addHelpText('after', '\nExactly one of --book, --intake and --flush is needed.')
      .action((options: Options, command: Command) => run(name === 'resume', options, command))
  verb('pause', 'hold a book, intake, or the flush', 'pause --intake --reason "closing time"')
  verb('resume', 'let go on what was paused', 'resume --intake --reason "doors open"')
}

async function run(on: boolean, options: Options, command: Command): Promise<void> {
  const { book, intake, flush } = options
  if ([book, intake, flush].filter(Boolean).length !== 1)
    command.error('error: exactly one of --book, --intake and --flush is needed', { exitCode: 2 })
  const by = { actor, reason: options.reason }
  const switched = await (flush
    ? withOps<Switched | Problem>((ops) => setFlush(ops, on ? 'running' : 'paused', by))
    : withBoth<Switched | Problem>((ops) =>
        book
          ? setBook(ops, book, on ? 'active' : 'paused', by)
          : setIntake(ops, on ? 'open' : 'stopped', by),
      ))
  if ('problem' in switched) throw new Error(problemDocument(switched, '', '').title)
  const what = book ? `book ${book}` : intake ? 'intake' : 'the flush'
  const { before, now, in_force } = switched
  const late = in_force ? '' : '; no process has taken it up yet: see `stampede status`'
  say(command, `${what} is ${now} (it was ${before})${late}`, { what, ...switched })
  if (!in_force) process.exitCode = 4
}
