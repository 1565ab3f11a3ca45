import { closeSync, existsSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import type { Command } from 'commander'
import { type Certificate, isGenuine } from '../ops/certificate.ts'
import { drain } from '../ops/drain.ts'
import type { Difference } from '../ops/reconcile/reconcile.ts'
import { problemDocument } from '../problems.ts'
import { duration, id, reason } from './arguments.ts'
import { exits } from './explain.ts'
import { actor, withBoth, withOps } from './ops.ts'
import { say, tell, told } from './say.ts'

type Options = { timeout: number; book?: string; certificate?: string; reason: string }

export function drainVerbs(program: Command): void {
  program
    .command('drain')
    .description(
      'stop intake, wait until the ledger has everything, compare both stores, attest it',
    )
    .option('--timeout <time>', 'how long to wait for the ledger', duration, 60_000)
    .option('--book <id>', 'this book alone: all its verbs answer 503 intake-stopped', id)
    .option('--certificate <file>', 'write the certificate there; left out: it is shown')
    .option('--reason <text>', 'why: it stands in the audit log', reason, 'drain')
    .addHelpText(
      'before',
      'Example:\n  $ npm run stampede -- drain --timeout 60s --certificate drained.json\n',
    )
    .addHelpText(
      'after',
      '\nEnds with 1 and no certificate if somebody resumed meanwhile, 2 with nothing stopped if FILE cannot' +
        '\nbe written, 3 if the stores differ, 4 if the ledger did not follow in time. If FILE fails after' +
        '\nall, the certificate is shown, and it ends with 1. Intake stays stopped: `stampede resume --intake --reason ...`' +
        '\nopens it again. After --book it is that of the book alone: `stampede resume --book ID` opens' +
        '\nall of it, `stampede pause --book ID` what its holders do.',
    )
    .action(run)
  program
    .command('verify-certificate')
    .description(
      'whether this installation has signed a certificate exactly as it is, and its verdict',
    )
    .argument('<file>', 'what `drain --certificate` wrote, or said with --json; -: standard input')
    .addHelpText('before', 'Example:\n  $ npm run stampede -- verify-certificate drained.json\n')
    .addHelpText(
      'after',
      '\nEnds with 3 if it has not, or if the verdict is that the stores differ.',
    )
    .action(verify)
}

/** Before anything is stopped: a certificate that could not be kept would cost a sale its intake for nothing. */
function tryFile(file: string, command: Command): void {
  try {
    const isNew = !existsSync(file)
    closeSync(openSync(file, 'a'))
    if (isNew) rmSync(file)
  } catch (error) {
    const why = (error as Error).message
    command.error(`error: nothing was stopped: ${file} cannot be written: ${why}`, {
      exitCode: exits.usage,
    })
  }
}

/** Why it is not in the file, which was writable before the drain; undefined: it is. */
function unwritten(file: string, certificate: Certificate): string | undefined {
  try {
    writeFileSync(file, `${JSON.stringify(certificate, null, 2)}\n`)
    return undefined
  } catch (error) {
    return (error as Error).message
  }
}

async function run(options: Options, command: Command): Promise<void> {
  if (options.certificate) tryFile(options.certificate, command)
  const drained = await withBoth((ops) =>
    drain(ops, {
      ...(options.book ? { book: options.book } : {}),
      timeoutMs: options.timeout,
      by: { actor, reason: options.reason },
      onWaiting: (waits) => tell(`waiting: ${waits[0]}${others(waits)}`),
      onProgress: (done, total) => tell(`compared ${done} of ${total} codes`),
    }),
  )
  told()
  if ('problem' in drained) throw new Error(problemDocument(drained, '', '').title)
  if (drained.state === 'timed-out') {
    process.exitCode = 4
    say(command, `Not drained in time:\n${drained.waits.join('\n')}`, drained)
    return
  }
  if (drained.state === 'undone') {
    process.exitCode = 1
    say(command, `No certificate:\n${drained.why.join('\n')}`, drained)
    return
  }
  const { certificate, reconciliation } = drained
  const { differences, more } = reconciliation
  const lost = options.certificate && unwritten(options.certificate, certificate)
  if (reconciliation.verdict === 'different') process.exitCode = exits.different
  if (lost) process.exitCode = exits.failed
  const coupons = certificate.books.reduce((sum, book) => sum + book.coupons, 0)
  const ends = certificate.shards.map(({ shard, epoch, entry }) => `${shard}/${epoch}-${entry}`)
  say(
    command,
    [
      `drained at ${certificate.at}: ${certificate.books.length} books, ${coupons} coupons, ${certificate.verdict}`,
      `no fact${certificate.book ? ' of this book' : ''} has an entry beyond ${ends.join(' ')}`,
      certificate.compared === 'exact'
        ? 'compared exactly: nothing moved meanwhile'
        : 'compared while other books went on: what seemed to differ was looked at until it was so',
      ...certificate.waiting_jobs!.map((job) => `job ${job} (distribute) waits for \`resume\``),
      ...differences.slice(0, 20).map(line),
      ...(differences.length > 20 ? [`! and ${differences.length - 20 + more} more`] : []),
      ...(lost ? [`! ${options.certificate} could not be written: ${lost}. Keep this line:`] : []),
      options.certificate && !lost
        ? `certificate: ${options.certificate}`
        : JSON.stringify(certificate),
    ].join('\n'),
    { state: drained.state, certificate, differences, more, ...(lost ? { unwritten: lost } : {}) },
  )
}

const line = ({ class: kind, code, what }: Difference) =>
  `! ${kind} ${code ? `${code} ` : ''}${what}`

const others = (waits: string[]) => (waits.length > 1 ? ` and ${waits.length - 1} more` : '')

async function verify(file: string, _: unknown, command: Command): Promise<void> {
  const read = JSON.parse(readFileSync(file === '-' ? 0 : file, 'utf8'))
  const certificate: Certificate = read.certificate ?? read
  const genuine = await withOps(({ database }) => isGenuine(database, certificate))
  if (!genuine || certificate.verdict !== 'equal') process.exitCode = 3
  say(
    command,
    genuine
      ? `genuine: signed by this installation at ${certificate.at}, verdict ${certificate.verdict}`
      : 'NOT genuine: it was changed, or another installation signed it',
    { genuine, verdict: genuine ? certificate.verdict : null },
  )
}
