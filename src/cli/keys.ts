import type { Command } from 'commander'
import { makeApiKey } from '../http/tokens.ts'
import { createKey, revokeKey } from '../ops/keys.ts'
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
    .option('--reason <text>', 'why: it stands in the audit log', reason)
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

async function create(name: string, options: { reason?: string }, command: Command) {
  const { key, ...stored } = makeApiKey()
  await withOps((ops) => createKey(ops, { ...stored, name }, { actor, ...options }))
  say(command, `${key}\nIt is shown this once.`, { key_id: stored.key_id, name, key })
}

async function revoke(keyId: string, options: { reason: string }, command: Command): Promise<void> {
  const refusal = await withOps((ops) => revokeKey(ops, keyId, { actor, ...options }))
  if (refusal) throw new Error(problemDocument(refusal, '', '').title)
  say(command, `key ${keyId} is revoked`, { key_id: keyId, revoked: true })
}
