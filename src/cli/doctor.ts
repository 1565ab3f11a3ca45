import type { Command } from 'commander'
import { readConfig } from '../config.ts'
import { connection, doctor } from '../ops/doctor.ts'
import type { Item } from '../recovery/checklist.ts'
import { withOps } from './ops.ts'
import { say } from './say.ts'

export function doctorVerb(program: Command): void {
  program
    .command('doctor')
    .description('look at Redis and PostgreSQL as the service does before it serves')
    .addHelpText('before', 'Example:\n  $ npm run stampede -- doctor\n')
    .addHelpText(
      'after',
      '\nEnds with 3 if there is a warning or a refusal, and with 69 if one of the two does not answer.',
    )
    .action(run)
}

async function run(_: unknown, command: Command): Promise<void> {
  const { REDIS_MANAGED } = readConfig(['REDIS_MANAGED'])
  const items = await withOps((ops) => doctor(ops, REDIS_MANAGED === '1'))
  say(command, items.map(line).join('\n'), { items })
  if (items.some(({ verdict }) => verdict === 'warning' || verdict === 'refusal'))
    process.exitCode = 3
  if (items.some(({ setting }) => setting === connection)) process.exitCode = 69
}

const width = { verdict: 8, setting: 38 }

const line = ({ of, setting, value, verdict, remedy }: Item): string =>
  `${verdict.padEnd(width.verdict)} ${`${of} ${setting}`.padEnd(width.setting)} ${value}` +
  (remedy && `\n${' '.repeat(width.verdict + 1)}-> ${remedy}`)
