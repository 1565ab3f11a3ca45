import { type ApiKey, type NewApiKey, openAccounts } from '../ledger/accounts.ts'
import { audit } from '../ledger/audit.ts'
import { transaction } from '../ledger/database.ts'
import type { Problem } from '../problems.ts'
import type { Ops } from './ops.ts'

/** Who does it, and why, if they say. */
type Who = { actor: string; request_id?: string; reason?: string | undefined }

/** Makes a key; that somebody did stands in the audit log, or there is no key. */
export async function createKey(
  { database }: Pick<Ops, 'database'>,
  key: NewApiKey,
  { action = 'keys.create', ...by }: Who & { action?: string },
): Promise<ApiKey> {
  return transaction(database, async (tx) => {
    const made = await openAccounts(tx).createApiKey({ ...key, created_by: by.actor })
    const detail = { name: key.name }
    const deed = { action, target: `key:${key.key_id}`, detail, before: null, after: made }
    await audit(tx, { ...by, ...deed })
    return made
  })
}

/** Ends a key, for good. */
export async function revokeKey(
  { database }: Pick<Ops, 'database'>,
  keyId: string,
  by: Who,
): Promise<Problem | undefined> {
  return transaction(database, async (tx) => {
    const accounts = openAccounts(tx)
    const before = await accounts.findApiKey(keyId)
    if ('problem' in before) return before
    const after = await accounts.revokeApiKey(keyId)
    if ('problem' in after) return after
    await audit(tx, { ...by, action: 'keys.revoke', target: `key:${keyId}`, before, after })
    return undefined
  })
}
