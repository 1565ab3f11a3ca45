import type { Command } from 'commander'
import {
  discardParked,
  parkedFact,
  parkedFacts,
  retryAllParked,
  retryParked,
} from '../ops/parked.ts'
import { count, reason } from './arguments.ts'
import { actor, withOps } from './ops.ts'
import { say } from './say.ts'

/** `parked`: facts that did not fit into the ledger, and wait for a person. */
export function parkedVerbs(program: Command): void {
  const parked = program
    .command('parked')
    .description('facts that did not fit into the ledger')
    .addHelpText('before', 'Example:\n  $ npm run stampede -- parked list\n')
  parked
    .command('list')
    .description('the oldest first')
    .option('--limit <n>', 'at most so many', count, 50)
    .addHelpText('before', 'Example:\n  $ npm run stampede -- parked list\n')
    .addHelpText('after', '\nEnds with 3 if there are any.')
    .action(list)
  parked
    .command('show')
    .description('all that is known of one')
    .argument('<fact>', 'its name, such as 3/1-345/0')
    .addHelpText('before', 'Example:\n  $ npm run stampede -- parked show 3/1-345/0\n')
    .action(show)
  parked
    .command('retry')
    .description(
      'try all of them once more, or those that are named: what fits now is parked no longer',
    )
    .argument('[fact...]')
    .requiredOption('--reason <text>', 'why: it stands in the audit log', reason)
    .addHelpText(
      'before',
      'Example:\n  $ npm run stampede -- parked retry --reason "constraint fixed"\n',
    )
    .addHelpText('after', '\nEnds with 3 if one still does not fit.')
    .action(retry)
  parked
    .command('discard')
    .description('give one up for good; what it was stays in the audit log')
    .argument('<fact>')
    .requiredOption('--reason <text>', 'why: it stands in the audit log', reason)
    .option('--yes', 'do it; without it you are shown what would go')
    .addHelpText(
      'before',
      'Example:\n  $ npm run stampede -- parked discard 3/1-345/0 --reason "made by a test" --yes\n',
    )
    .action(discard)
}

async function list({ limit }: { limit: number }, command: Command): Promise<void> {
  const facts = await withOps((ops) => parkedFacts(ops, limit))
  if (facts.length > 0) process.exitCode = 3
  const lines = facts.map(
    ({ name, kind, code, user_id, parked_at, reason }) =>
      `${name}  ${kind} ${code} of ${user_id}, ${parked_at.toISOString()}: ${reason}`,
  )
  say(command, lines.join('\n') || 'Nothing is parked.', { facts })
}

const none = (name: string) => new Error(`No fact ${name} is parked: see \`stampede parked list\`.`)

async function show(name: string, _: unknown, command: Command): Promise<void> {
  const fact = await withOps((ops) => parkedFact(ops, name))
  if (!fact) throw none(name)
  say(command, JSON.stringify(fact, null, 2), fact)
}

async function retry(names: string[], options: { reason: string }, command: Command) {
  const by = { actor, reason: options.reason }
  const retried = await withOps((ops) =>
    names.length > 0 ? retryParked(ops, names, by) : retryAllParked(ops, by),
  )
  const left = retried.filter(({ applied }) => !applied)
  if (left.length > 0) process.exitCode = 3
  const anew = new Set(
    retried.filter(({ rebuilds }) => rebuilds).map(({ name }) => name.split('/')[0]!),
  )
  const lines = [
    `${retried.length - left.length} fit now, ${left.length} do not`,
    ...left.map(({ name, reason }) => `! ${name}: ${reason}`),
    ...[...anew].map(
      (shard) =>
        `shard ${shard}: Redis was made anew without what fits now, so a worker makes it anew once more`,
    ),
    ...(left.length < retried.length
      ? ['compare both stores once workers are done: `stampede reconcile`']
      : []),
  ]
  say(command, lines.join('\n'), { retried })
}

async function discard(
  name: string,
  options: { reason: string; yes?: boolean },
  command: Command,
): Promise<void> {
  const by = { actor, reason: options.reason }
  const fact = await withOps(async (ops) => {
    const found = await parkedFact(ops, name)
    if (found && options.yes) await discardParked(ops, name, by)
    return found
  })
  if (!fact) throw none(name)
  const what = `${fact.kind} of ${fact.fact.code} by ${fact.fact.user}`
  say(
    command,
    options.yes ? `Discarded: ${what}.` : `Nothing was changed. With --yes this would go: ${what}.`,
    { discarded: options.yes === true, fact },
  )
}
