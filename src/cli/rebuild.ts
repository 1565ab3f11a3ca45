import type { Command } from 'commander'
import { type Plan, planRebuild, type Rebuilt, rebuild } from '../ops/rebuild.ts'
import { duration, id, reason, shard } from './arguments.ts'
import { actor, withOps } from './ops.ts'
import { say, tell } from './say.ts'

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
    .addHelpText('after', '\nEnds with 4 if it was asked for and is not done in time.')
    .action(run)
}

async function run(options: Options, command: Command): Promise<void> {
  const { book, shard: number, all, yes } = options
  if ([book !== undefined, number !== undefined, all].filter(Boolean).length !== 1)
    command.error('error: exactly one of --book, --shard and --all is needed', { exitCode: 2 })
  const which = {
    ...(book === undefined ? {} : { book }),
    ...(number === undefined ? {} : { shard: number }),
  }
  if (!yes) return show(which, command)
  const { reason: why, timeout: timeoutMs, flushFirst = false } = options
  tell('a worker rebuilds ...')
  const by = { actor, reason: why }
  const found = await withOps((ops) => rebuild(ops, { ...which, flushFirst, timeoutMs, by }))
  if (typeof found === 'string') throw new Error(found)
  if (found.late.length > 0) process.exitCode = 4
  const late = `Not rebuilt yet: shards ${found.late.join(', ')}. Is a worker alive? See \`stampede status\`.`
  const lines = [...found.rebuilt.map(line), ...(found.late.length > 0 ? [late] : [])]
  say(command, lines.join('\n'), found)
}

async function show(which: { book?: string; shard?: number }, command: Command): Promise<void> {
  const plan = await withOps((ops) => planRebuild(ops, which))
  if (plan.length === 0) throw new Error('There is no such shard or book.')
  const next = 'Nothing was changed: --yes does it, and these shards answer 503 meanwhile.'
  say(command, [...plan.map(planned), next].join('\n'), { plan, rebuilt: null })
}

const line = ({ shard, epoch, codes, coupons, seconds }: Rebuilt): string =>
  `shard ${shard}: ${codes} codes and ${coupons} coupons in ${seconds.toFixed(1)} s, epoch ${epoch}`

const planned = ({ shard, phase, books, codes, coupons, lag }: Plan): string =>
  `shard ${shard} (${phase}): ${books} books with ${codes} codes and ${coupons} coupons; ` +
  `${lag} facts are not in the ledger yet`
