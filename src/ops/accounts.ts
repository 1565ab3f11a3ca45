import { changePassword, createUser, type NewUser, type User } from '../ledger/accounts.ts'
import { audit } from '../ledger/audit.ts'
import { type Transaction, unlessRefused } from '../ledger/database.ts'
import { changeUser, deleteUser, keepAdmins, type UserChange } from '../ledger/users.ts'
import { type Problem, problem } from '../problems.ts'
import type { Ops } from './ops.ts'

/** Who does it, on which request, and why, if they say. */
type Who = { actor: string; request_id: string; reason?: string | undefined }
type Where = Pick<Ops, 'database'>

/** Makes an account for somebody else; that somebody did stands in the audit log, or there is none. */
export async function createAccount(
  where: Where,
  wanted: NewUser,
  by: Who,
): Promise<User | Problem> {
  return recorded(where, by, 'accounts.create', async (tx) => {
    const after = await createUser(tx, wanted)
    return 'problem' in after ? after : { id: after.user_id, after, made: after }
  })
}

/**
 * Changes an account. Nobody locks themselves out: another administrator has to do that, and two who do
 * it to each other at once leave one.
 */
export async function changeAccount(
  where: Where,
  id: string,
  change: UserChange,
  by: Who,
): Promise<User | Problem> {
  return recorded(where, by, 'accounts.change', async (tx) => {
    const mayEnd = change.role !== undefined || change.is_active !== undefined
    const admins = mayEnd ? await keepAdmins(tx) : []
    const changed = await changeUser(tx, id, change)
    if ('problem' in changed) return changed
    const { before, after } = changed
    const isOwn = by.actor === actorOf(id)
    if (isOwn && (before.role !== after.role || !after.is_active)) return problem('own-account')
    const isAdmin = after.role === 'admin' && after.is_active
    if (!isAdmin && isLast(admins, id)) return problem('last-admin')
    const password = change.password === undefined ? {} : { password: 'changed' }
    return { id, before, after: { ...after, ...password }, made: after }
  })
}

/** Removes an account, for good. */
export async function deleteAccount(where: Where, id: string, by: Who): Promise<User | Problem> {
  if (by.actor === actorOf(id)) return problem('own-account')
  return recorded(where, by, 'accounts.delete', async (tx) => {
    if (isLast(await keepAdmins(tx), id)) return problem('last-admin')
    const before = await deleteUser(tx, id)
    return 'problem' in before ? before : { id, before, made: before }
  })
}

/** Replaces somebody's own password, which they have to know; their tokens end with it. */
export function replacePassword(
  { database }: Where,
  id: string,
  passwords: { current: string; next: string },
  { actor, request_id }: Who,
) {
  const deed = { actor, request_id, action: 'accounts.password', target: `account:${id}` }
  return changePassword(database, id, passwords, (tx) => audit(tx, deed))
}

const actorOf = (id: string) => `user:${id}`
const isLast = (admins: string[], id: string) => admins.length === 1 && admins[0] === id

type Done = { id: string; before?: object; after?: object; made: User }

/** A deed and its record, or neither. */
function recorded(
  { database }: Where,
  { actor, request_id, reason }: Who,
  action: string,
  work: (tx: Transaction) => Promise<Done | Problem>,
): Promise<User | Problem> {
  return unlessRefused(database, async (tx) => {
    const done = await work(tx)
    if ('problem' in done) return done
    const { id, before = null, after = null, made } = done
    const detail = { request_id, before, after }
    await audit(tx, { actor, action, target: `account:${id}`, reason, detail })
    return made
  })
}
