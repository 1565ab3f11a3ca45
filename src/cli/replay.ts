import type { Command } from 'commander'
import type { EntryId } from '../journal/entry.ts'
import { replay } from '../ops/replay.ts'
import { entry, reason, shard } from './arguments.ts'
import { actor, withOps } from './ops.ts'
import { say, tell } from './say.ts'

type Options = { shard?: number; from?: EntryId; reason: string }

export function replayVerb(program: Command): void {
  program
    .command('replay')
    .description(
      'bring what the journals still hold into the ledger again; may be repeated at will',
    )
    .option('--shard <n>', 'this shard alone', shard)
    .option('--from <entry>', 'leave entries before this one alone, such as 1-345', entry)
    .option('--reason <text>', 'why: it stands in the audit log', reason, 'replay')
    .addHelpText('before', 'Example:\n  $ npm run stampede -- replay --shard 3\n')
    .addHelpText('after', '\nEnds with 3 if something does not fit into the ledger.')
    .action(run)
}

async function run(options: Options, command: Command): Promise<void> {
  const shards = await withOps((ops) =>
    replay(ops, {
      ...(options.shard === undefined ? {} : { shard: options.shard }),
      ...(options.from ? { from: options.from } : {}),
      by: { actor, reason: options.reason },
      onProgress: (entries) => tell(`${entries} entries`),
    }),
  )
  if (shards.some(({ refused }) => refused > 0)) process.exitCode = 3
  const lines = shards.map(
    (one) =>
      `shard ${one.shard}: ${one.applied} facts applied, ${one.already_there} already there, ` +
      `${one.parked} parked, ${one.discarded} discarded, ${one.refused} refused, ${one.waiting} wait for their flush`,
  )
  say(command, lines.join('\n'), { shards })
}
