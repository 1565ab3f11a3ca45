import { readFileSync, writeFileSync } from 'node:fs'
import type { Command } from 'commander'
import { type Certificate, isGenuine } from '../ops/certificate.ts'
import { drain } from '../ops/drain.ts'
import { problemDocument } from '../problems.ts'
import { duration, id, reason } from './arguments.ts'
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
    .option('--book <id>', 'pause and drain this book alone', id)
    .option('--certificate <file>', 'write the certificate there')
    .option('--reason <text>', 'why: it stands in the audit log', reason, 'drain')
    .addHelpText(
      'before',
      'Example:\n  $ npm run stampede -- drain --timeout 60s --certificate drained.json\n',
    )
    .addHelpText(
      'after',
      '\nEnds with 3 if the stores differ, 4 if the ledger did not follow in time. Intake stays stopped:' +
        '\n`stampede resume --intake --reason ...` opens it again.',
    )
    .action(run)
  program
    .command('verify-certificate')
    .description('whether this installation has signed a certificate exactly as it is')
    .argument('<file>', 'what `drain --certificate` wrote')
    .addHelpText('before', 'Example:\n  $ npm run stampede -- verify-certificate drained.json\n')
    .addHelpText('after', '\nEnds with 3 if it has not.')
    .action(verify)
}

async function run(options: Options, command: Command): Promise<void> {
  const drained = await withBoth((ops) =>
    drain(ops, {
      ...(options.book ? { book: options.book } : {}),
      timeoutMs: options.timeout,
      by: { actor, reason: options.reason },
      onWaiting: (waits) => tell(`waiting: ${waits[0]}${more(waits)}`),
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
  const { certificate, reconciliation } = drained
  if (options.certificate)
    writeFileSync(options.certificate, `${JSON.stringify(certificate, null, 2)}\n`)
  if (reconciliation.verdict === 'different') process.exitCode = 3
  const coupons = certificate.books.reduce((sum, book) => sum + book.coupons, 0)
  const ends = certificate.shards.map(({ shard, epoch, entry }) => `${shard}/${epoch}-${entry}`)
  say(
    command,
    [
      `drained at ${certificate.at}: ${certificate.books.length} books, ${coupons} coupons, ${certificate.verdict}`,
      `no fact${certificate.book ? ' of this book' : ''} has an entry beyond ${ends.join(' ')}`,
      ...reconciliation.differences.slice(0, 20).map((one) => `! ${one.class} ${one.what}`),
      options.certificate ? `certificate: ${options.certificate}` : JSON.stringify(certificate),
    ].join('\n'),
    { state: drained.state, certificate, differences: reconciliation.differences },
  )
}

const more = (waits: string[]) => (waits.length > 1 ? ` and ${waits.length - 1} more` : '')

async function verify(file: string, _: unknown, command: Command): Promise<void> {
  const certificate = JSON.parse(readFileSync(file, 'utf8')) as Certificate
  const genuine = await withOps(({ database }) => isGenuine(database, certificate))
  if (!genuine) process.exitCode = 3
  say(
    command,
    genuine
      ? `genuine: signed by this installation at ${certificate.at}, verdict ${certificate.verdict}`
      : 'NOT genuine: it was changed, or another installation signed it',
    { genuine },
  )
}
