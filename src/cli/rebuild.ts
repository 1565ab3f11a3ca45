import type { Command } from 'commander'
import { type Plan, planRebuild, rebuildShards } from '../ops/rebuild.ts'
import { duration, id, reason, shard } from './arguments.ts'
import { actor, withOps } from './ops.ts'
import { say, tell, told } from './say.ts'

type Options = {
  book?: string
  shard?: number
  all?: boolean
  flushFirst?: boolean
  yes?: boolean
  reason: string
  timeout: number
}

export function rebuildVerb(program: Command): void {
  program
    .command('rebuild')
    .description('make shards in Redis anew from PostgreSQL; without --yes you are shown the plan')
    .option('--book <id>', 'the shard that this book lives on', id)
    .option('--shard <n>', 'this shard', shard)
    .option('--all', 'every shard')
    .option(
      '--flush-first',
      'go on although Redis holds facts that the ledger lacks: they are flushed first',
    )
    .option('--yes', 'do it: these shards answer 503 until it is done')
    .option('--reason <text>', 'why: it stands in the audit log', reason, 'rebuild')
    .option('--timeout <time>', 'how long to wait for the workers', duration, 120_000)
    .addHelpText('before', 'Example:\n  $ npm run stampede -- rebuild --shard 3 --yes\n')
    .action(run)
}

async function run(options: Options, command: Command): Promise<void> {
  const { book, shard: number, all, yes } = options
  if ([book !== undefined, number !== undefined, all].filter(Boolean).length !== 1)
    command.error('error: exactly one of --book, --shard and --all is needed', { exitCode: 2 })
  await withOps(async (ops) => {
    const plan = await planRebuild(ops, {
      ...(book === undefined ? {} : { book }),
      ...(number === undefined ? {} : { shard: number }),
    })
    if (plan.length === 0) throw new Error('There is no such shard or book.')
    const lag = plan.reduce((sum, one) => sum + one.lag, 0)
    if (yes && lag > 0 && !options.flushFirst)
      throw new Error(
        `Redis holds ${lag} facts that the ledger lacks. Drain first, or say --flush-first: then they ` +
          'are flushed before anything is made anew.',
      )
    if (!yes) {
      const next = 'Nothing was changed: --yes does it, and these shards answer 503 meanwhile.'
      say(command, [...plan.map(planned), next].join('\n'), { plan, rebuilt: null })
      return
    }
    tell('a worker rebuilds ...')
    const by = { actor, reason: options.reason }
    const shards = plan.map((one) => one.shard)
    const rebuilt = await rebuildShards(ops, shards, by, options.timeout)
    told()
    const lines = rebuilt.map(
      ({ shard, epoch, codes, coupons, seconds }) =>
        `shard ${shard}: ${codes} codes and ${coupons} coupons in ${seconds.toFixed(1)} s, epoch ${epoch}`,
    )
    say(command, lines.join('\n'), { plan, rebuilt })
  })
}

const planned = ({ shard, phase, books, codes, coupons, lag }: Plan): string =>
  `shard ${shard} (${phase}): ${books} books with ${codes} codes and ${coupons} coupons; ` +
  `${lag} facts are not in the ledger yet`
