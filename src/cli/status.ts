import { setTimeout as sleep } from 'node:timers/promises'
import type { Command } from 'commander'
import { readConfig } from '../config.ts'
import { openDatabase } from '../ledger/database.ts'
import { type Status, status } from '../ops/status.ts'
import { stores } from './ops.ts'
import { openRedis } from './redis.ts'
import { say } from './say.ts'

const watchMs = 2_000

export function statusVerb(program: Command): void {
  program
    .command('status')
    .description('how the installation is: problems first')
    .option('--watch', 'again every two seconds, until Ctrl-C')
    .addHelpText('before', 'Example:\n  $ npm run stampede -- status\n')
    .addHelpText(
      'after',
      '\nEnds with 3 if there is a problem, and with 69 if Redis or PostgreSQL does not answer.',
    )
    .action(run)
}

async function run({ watch }: { watch?: boolean }, command: Command): Promise<void> {
  const config = readConfig(['BACKLOG_FACTS', 'REDIS_MANAGED'])
  const limits = { backlog: config.BACKLOG_FACTS, managed: config.REDIS_MANAGED === '1' }
  const urls = stores()
  const database = openDatabase(urls.postgres, 4, 'cli')
  const redis = openRedis(urls.redis)
  try {
    do {
      // What cannot be reached is what status is there to say; questions wait for the connection.
      redis.connect().catch(() => {})
      const found = await status({ redis, database }, limits)
      const clear = watch && process.stdout.isTTY ? '\u001b[2J\u001b[H' : ''
      say(command, clear + text(found), found)
      process.exitCode = exitCode(found)
      if (watch) await sleep(watchMs)
    } while (watch)
  } finally {
    redis.disconnect()
    await database.end()
  }
}

function exitCode({ redis, postgres, problems }: Status): number {
  if (!redis.up || !postgres.up) return 69
  return problems.length > 0 ? 3 : 0
}

/** What nobody could find out is not nothing. */
const known = <T>(value: T | null, shown: (value: T) => string = String) =>
  value === null ? 'unknown' : shown(value)
const megabytes = (bytes: number) => `${Math.round(bytes / 1_048_576)} MB`
const seconds = (count: number | null) => (count === null ? '-' : `${count} s`)

function text({ problems, redis, postgres, processes, shards, ...counts }: Status): string {
  const head = problems.length > 0 ? problems.map((line) => `! ${line}`) : ['all is well']
  const alive = (kind: string) =>
    postgres.up ? processes.filter((one) => one.kind === kind && one.alive).length : 'unknown'
  const up = (is: boolean) => (is ? 'up' : 'DOWN')
  return [
    ...head,
    '',
    `redis ${up(redis.up)}, ${known(redis.memory, megabytes)} of ${known(redis.memory_limit, megabytes)}, ` +
      `full in ${seconds(redis.seconds_until_full)}; postgres ${up(postgres.up)}`,
    `alive: ${alive('api')} API, ${alive('worker')} worker processes`,
    `parked facts ${known(counts.parked_facts)}, failed jobs ${known(counts.failed_jobs)}`,
    '',
    'shard  epoch  phase       intake   flush    lag      oldest   cap reached in',
    ...shards.map((one) =>
      [
        ...[`${one.shard}`.padStart(5), `${one.epoch}`.padStart(5), one.phase.padEnd(10)],
        ...[one.intake.padEnd(7), one.flush.padEnd(7), known(one.lag).padEnd(7)],
        known(one.oldest_seconds, (age) => `${age.toFixed(1)} s`).padEnd(7),
        seconds(one.seconds_until_backlog),
      ].join('  '),
    ),
  ].join('\n')
}
