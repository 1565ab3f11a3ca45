import type { Command } from 'commander'
import { makeApiKey } from '../http/tokens.ts'
import { openAccounts } from '../ledger/accounts.ts'
import { audit } from '../ledger/audit.ts'
import { transaction } from '../ledger/database.ts'
import { problemDocument } from '../problems.ts'
import { reason } from './arguments.ts'
import { actor, withOps } from './ops.ts'
import { say } from './say.ts'

/** `keys`: API keys of services. */
export function keyVerbs(program: Command): void {
  const keys = program
    .command('keys')
    .description('API keys of services')
    .addHelpText('before', 'Example:\n  $ npm run stampede -- keys create checkout\n')
  keys
    .command('create')
    .description('make a key; it is shown this once')
    .argument('<name>', 'which service it is for')
    .addHelpText('before', 'Example:\n  $ npm run stampede -- keys create checkout\n')
    .action(create)
  keys
    .command('revoke')
    .description('end a key: within a second nobody accepts it any more')
    .argument('<key_id>', 'the 16 characters after sk_')
    .requiredOption('--reason <text>', 'why: it stands in the audit log', reason)
    .addHelpText(
      'before',
      'Example:\n  $ npm run stampede -- keys revoke 0123456789abcdef --reason "service retired"\n',
    )
    .action(revoke)
}

async function create(name: string, _: unknown, command: Command): Promise<void> {
  const { key, ...stored } = makeApiKey()
  await withOps(({ database }) =>
    transaction(database, async (tx) => {
      await openAccounts(tx).createApiKey({ ...stored, name, created_by: actor })
      await audit(tx, { actor, action: 'keys.create', target: `key:${stored.key_id}` })
    }),
  )
  say(command, `${key}\nIt is shown this once.`, { key_id: stored.key_id, name, key })
}

async function revoke(keyId: string, options: { reason: string }, command: Command): Promise<void> {
  const refusal = await withOps(({ database }) =>
    transaction(database, async (tx) => {
      const refused = await openAccounts(tx).revokeApiKey(keyId)
      if (!refused)
        await audit(tx, {
          ...{ actor, action: 'keys.revoke', target: `key:${keyId}`, reason: options.reason },
        })
      return refused
    }),
  )
  if (refusal) throw new Error(problemDocument(refusal, '', '').title)
  say(command, `key ${keyId} is revoked`, { key_id: keyId, revoked: true })
}
