import { type Command, InvalidArgumentError, Option } from 'commander'
import { email, line, password } from '../http/schemas.ts'
import { createUser } from '../ledger/accounts.ts'
import { audit } from '../ledger/audit.ts'
import { openDatabase, transaction } from '../ledger/database.ts'
import { problemDocument } from '../problems.ts'
import { reason } from './arguments.ts'
import { actor, postgresUrl } from './ops.ts'
import { readPassword } from './password.ts'
import { say } from './say.ts'

/** The same rules as for accounts that register themselves. */
const passwordRule = password(8, 100)
const nameRule = line(1, 255)

function checked(rule: typeof email | typeof nameRule) {
  return (text: string): string => {
    const parsed = rule.safeParse(text)
    if (!parsed.success) throw new InvalidArgumentError(parsed.error.issues[0]!.message)
    return text
  }
}

export function adminVerbs(program: Command): void {
  const admin = program
    .command('admin')
    .description('administrators of this installation')
    .addHelpText('before', 'Example:\n  $ npm run stampede -- admin create you@example.com\n')
  admin
    .command('create')
    .description('make an administrator; the password is asked for, or read from stdin')
    .argument('<email>', 'what they log in with', checked(email))
    .option('--name <name>', 'what they are called', checked(nameRule), 'Administrator')
    .addOption(
      new Option('--role <role>', 'viewers look, operators act, admins may do everything')
        .choices(['viewer', 'operator', 'admin'])
        .default('admin'),
    )
    .option('--reason <text>', 'why: it stands in the audit log', reason)
    .addHelpText(
      'before',
      'Example:\n  $ npm run stampede -- admin create you@example.com --name "Your Name"\n',
    )
    .action(create)
}

type Options = { name: string; role: 'viewer' | 'operator' | 'admin'; reason?: string }

async function create(address: string, options: Options, command: Command): Promise<void> {
  const { name, role: wanted, reason: why } = options
  const url = postgresUrl()
  const given = passwordRule.safeParse(await readPassword())
  if (!given.success) throw new Error('The password must have 8 to 100 characters.')
  const database = openDatabase(url, 1, 'cli')
  try {
    const account = { name, email: address, password: given.data, role: wanted }
    const { user_id, email, role } = await transaction(database, async (tx) => {
      const user = await createUser(tx, account)
      if ('problem' in user) throw new Error(problemDocument(user, '', '').title)
      await audit(tx, {
        ...{ actor, action: 'admin.create', target: `user:${user.user_id}` },
        ...{ reason: why, detail: { role: wanted } },
      })
      return user
    })
    const what = { admin: 'an administrator', operator: 'an operator', viewer: 'a viewer' }[wanted]
    say(command, `${email} is ${what} now (user_id ${user_id}).`, { user_id, email, role })
  } finally {
    await database.end()
  }
}
