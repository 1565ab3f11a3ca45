import type { Command } from 'commander'
import { printable, readConfig } from '../config.ts'
import { migrate } from '../ledger/migrate.ts'
import { postgresUrl } from './ops.ts'
import { say } from './say.ts'

export function migrateVerb(program: Command): void {
  program
    .command('migrate')
    .description('bring the schema up to date; run it before a new version starts')
    .addHelpText('before', 'Example:\n  $ DATABASE_URL=postgres://... npm run migrate\n')
    .action(async (_, command: Command) => {
      const { SHARDS } = readConfig(['SHARDS'])
      await migrate(postgresUrl(), addsShards() ? SHARDS : 1)
      say(command, 'The schema is up to date.', { migrated: true })
    })
}

/** A running `npm start` has the shards it was told to have: our default may be more, and that is for ever. */
function addsShards(): boolean {
  const from = (name: string) => printable().find((one) => one.name === name)!.from
  return from('DATABASE_URL') !== 'nowhere' || from('SHARDS') !== 'default'
}
