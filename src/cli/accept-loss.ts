import { type Command, InvalidArgumentError } from 'commander'
import { openDatabase } from '../ledger/database.ts'
import { acceptLoss, shardRows } from '../ledger/shards.ts'
import { type Loss, lossOf } from '../recovery/loss.ts'
import { actor, stores } from './ops.ts'
import { withRedis } from './redis.ts'
import { say } from './say.ts'

export function acceptLossVerb(program: Command): void {
  program
    .command('accept-loss')
    .description('go on with a PostgreSQL that was restored and lacks what it once had')
    .option('--shard <n>', 'this shard alone', shardNumber)
    .option('--yes', 'do it; without it you are shown what is lost')
    .addHelpText('before', 'Example:\n  $ npm run stampede -- accept-loss --yes\n')
    .addHelpText('after', '\nEnds with 3 if something is lacking and --yes was not given.')
    .action(run)
}

function shardNumber(text: string): number {
  if (!/^\d{1,2}$/.test(text)) throw new InvalidArgumentError('must be the number of a shard')
  return Number(text)
}

type Options = { shard?: number; yes?: boolean }

async function run({ shard, yes }: Options, command: Command): Promise<void> {
  const { redis: redisUrl, postgres } = stores()
  const database = openDatabase(postgres, 1, 'cli')
  try {
    const rows = (await shardRows(database)).filter(
      (row) => shard === undefined || row.shard === shard,
    )
    if (rows.length === 0) throw new Error(`There is no shard ${shard}.`)
    const found = await withRedis(redisUrl, (redis) =>
      Promise.all(rows.map((row) => lossOf(redis, row))),
    )
    const losses = found.filter((loss) => loss !== undefined)
    if (losses.length === 0) {
      say(command, 'PostgreSQL lacks nothing that Redis knows of.', { losses, accepted: false })
      return
    }
    if (yes)
      for (const loss of losses)
        await acceptLoss(database, loss.shard, {
          ...{ actor, action: 'accept-loss', target: `shard:${loss.shard}`, detail: { ...loss } },
        })
    else process.exitCode = 3
    const next = yes
      ? 'The loss is accepted: a worker makes the shards anew from what PostgreSQL has.'
      : 'Nothing was changed. Restore a newer backup, or accept the loss with --yes.'
    say(command, [...losses.map(text), next].join('\n'), { losses, accepted: yes === true })
  } finally {
    await database.end()
  }
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
