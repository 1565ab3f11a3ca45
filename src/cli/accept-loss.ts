import type { Command } from 'commander'
import { acceptLosses, losses } from '../ops/loss.ts'
import type { Loss } from '../recovery/loss.ts'
import { reason, reasonFor, shard } from './arguments.ts'
import { actor, withOps } from './ops.ts'
import { say } from './say.ts'

export function acceptLossVerb(program: Command): void {
  program
    .command('accept-loss')
    .description('go on with a PostgreSQL that was restored and lacks what it once had')
    .option('--shard <n>', 'this shard alone', shard)
    .option('--yes', 'do it; without it you are shown what is lost')
    .option('--reason <text>', 'why: it stands in the audit log; --yes needs it', reason)
    .addHelpText(
      'before',
      'Example:\n  $ npm run stampede -- accept-loss --yes --reason "no newer backup"\n',
    )
    .addHelpText('after', '\nEnds with 3 if something is lacking and --yes was not given.')
    .action(run)
}

type Options = { shard?: number; yes?: boolean; reason?: string }

async function run({ shard, yes, reason: why }: Options, command: Command): Promise<void> {
  const by = yes ? { actor, reason: reasonFor(why, command) } : undefined
  const found = await withOps(async (ops) => {
    const lacking = await losses(ops, shard)
    if (lacking && by) await acceptLosses(ops, lacking, by)
    return lacking
  })
  if (!found) throw new Error(`There is no shard ${shard}.`)
  if (found.length === 0) {
    say(command, 'PostgreSQL lacks nothing that Redis knows of.', {
      losses: found,
      accepted: false,
    })
    return
  }
  if (!yes) process.exitCode = 3
  const next = yes
    ? 'The loss is accepted: a worker makes the shards anew from what PostgreSQL has.'
    : 'Nothing was changed. Restore a newer backup, or accept the loss with --yes and a --reason.'
  const said = { losses: found, accepted: yes === true }
  say(command, [...found.map(text), next].join('\n'), said)
}

function text({ shard, postgres, redis, retained }: Loss): string {
  const lacking = redis.facts - postgres.facts
  return (
    `shard ${shard}: PostgreSQL has ${postgres.facts} facts (epoch ${postgres.epoch}, entry ${postgres.entry}), ` +
    `once it had ${redis.facts} (epoch ${redis.epoch}, entry ${redis.entry}): ${lacking} facts are lacking.\n` +
    (retained > 0
      ? `  The journal still has ${retained} entries that follow; they will be committed again.`
      : '  The journal has none of them any more: what they did is lost, and codes may be given away again.')
  )
}
