import type { Command } from 'commander'
import { readConfig } from '../config.ts'
import { migrate } from '../ledger/migrate.ts'
import { say } from './say.ts'

export function migrateVerb(program: Command): void {
  program
    .command('migrate')
    .description('bring the schema up to date; run it before a new version starts')
    .addHelpText('before', 'Example:\n  $ DATABASE_URL=postgres://... npm run migrate\n')
    .action(async (_, command: Command) => {
      const { DATABASE_URL, SHARDS } = readConfig(['DATABASE_URL', 'SHARDS'])
      await migrate(DATABASE_URL, SHARDS)
      say(command, 'The schema is up to date.', { migrated: true })
    })
}
