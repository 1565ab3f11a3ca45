import type { Command } from 'commander'
import { readConfig } from '../config.ts'
import { openDatabase } from '../ledger/database.ts'
import { postgresSettings } from '../ledger/settings.ts'
import {
  type Item,
  judgeClocks,
  judgePostgres,
  judgeRedis,
  judgeShards,
} from '../recovery/checklist.ts'
import { redisSettings } from '../store/settings.ts'
import { stores } from './ops.ts'
import { withRedis } from './redis.ts'
import { say } from './say.ts'

export function doctorVerb(program: Command): void {
  program
    .command('doctor')
    .description('look at Redis and PostgreSQL as the service does before it serves')
    .addHelpText('before', 'Example:\n  $ npm run stampede -- doctor\n')
    .addHelpText('after', '\nEnds with 3 if there is a warning or a refusal.')
    .action(doctor)
}

async function doctor(_: unknown, command: Command): Promise<void> {
  const { REDIS_MANAGED } = readConfig(['REDIS_MANAGED'])
  const { redis, postgres } = stores()
  const items = await look(redis, postgres, REDIS_MANAGED === '1')
  say(command, items.map(line).join('\n'), { items })
  if (items.some(({ verdict }) => verdict === 'warning' || verdict === 'refusal'))
    process.exitCode = 3
}

/** The whole checklist, now. Throws if one of the two does not answer. */
async function look(redisUrl: string, databaseUrl: string, managed: boolean): Promise<Item[]> {
  const database = openDatabase(databaseUrl, 2, 'doctor')
  try {
    const postgres = await postgresSettings(database)
    const found = await withRedis(redisUrl, (redis) => redisSettings(redis, postgres.shards))
    return [
      ...judgeRedis(found, managed),
      ...judgePostgres(postgres, false),
      ...judgeShards(postgres.shards, found, postgres),
      ...judgeClocks(found, postgres),
    ]
  } finally {
    await database.end()
  }
}

const width = { verdict: 8, setting: 38 }

const line = ({ of, setting, value, verdict, remedy }: Item): string =>
  `${verdict.padEnd(width.verdict)} ${`${of} ${setting}`.padEnd(width.setting)} ${value}` +
  (remedy && `\n${' '.repeat(width.verdict + 1)}-> ${remedy}`)
