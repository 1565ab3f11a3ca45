import { type Command, Option } from 'commander'
import { makeApiKey } from '../http/tokens.ts'
import { type Scope, scopes } from '../keys.ts'
import { openAccounts } from '../ledger/accounts.ts'
import { createKey, revokeKey } from '../ops/keys.ts'
import { problemDocument } from '../problems.ts'
import { count, reason } from './arguments.ts'
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
    .addOption(
      new Option('--scope <scopes...>', 'what it may; left out: all that a service may').choices([
        ...scopes,
      ]),
    )
    .option('--per-second <count>', 'requests a second, of each API process', count)
    .option('--reason <text>', 'why: it stands in the audit log', reason)
    .addHelpText(
      'before',
      'Example:\n  $ npm run stampede -- keys create checkout --scope assign redeem --per-second 200\n',
    )
    .action(create)
  keys
    .command('revoke')
    .description('end a key: within a second nobody accepts it any more')
    .argument('<key_id>', 'the 16 characters after sk_')
    .requiredOption('--reason <text>', 'why: it stands in the audit log', reason)
    .option('--yes', 'do it, for good; without it you are shown whose key it is')
    .addHelpText(
      'before',
      'Example:\n  $ npm run stampede -- keys revoke 0123456789abcdef --reason "service retired" --yes\n',
    )
    .action(revoke)
}

type Creating = { scope?: Scope[]; perSecond?: number; reason?: string }

async function create(name: string, { scope, perSecond, reason: why }: Creating, command: Command) {
  const { key, ...secret } = makeApiKey()
  const limits = perSecond === undefined ? null : { all: perSecond }
  const stored = { ...secret, name, scopes: scope ?? null, limits }
  await withOps((ops) => createKey(ops, stored, { actor, ...(why ? { reason: why } : {}) }))
  say(command, `${key}\nIt is shown this once.`, { key_id: secret.key_id, name, key })
}

type Revoking = { reason: string; yes?: boolean }

async function revoke(keyId: string, { reason: why, yes }: Revoking, command: Command) {
  if (!yes) return show(keyId, command)
  const refusal = await withOps((ops) => revokeKey(ops, keyId, { actor, reason: why }))
  if (refusal) throw new Error(problemDocument(refusal, '', '').title)
  say(command, `key ${keyId} is revoked`, { key_id: keyId, revoked: true })
}

/** Whose key would end: one of a service that sells stops the sale of it. */
async function show(keyId: string, command: Command): Promise<void> {
  const key = await withOps(({ database }) => openAccounts(database).findApiKey(keyId))
  if ('problem' in key) throw new Error(problemDocument(key, '', '').title)
  const { name, created_by, created_at, revoked_at } = key
  const over = revoked_at ? `, revoked since ${revoked_at.toISOString()}` : ''
  say(
    command,
    'Nothing was changed. With --yes this key would end for good:\n' +
      `${keyId}  ${name}, made by ${created_by} at ${created_at.toISOString()}${over}`,
    { revoked: false, key },
  )
}
