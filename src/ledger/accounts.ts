import { randomInt, randomUUID } from 'node:crypto'
import { type Problem, problem } from '../problems.ts'
import { type Database, isUniqueViolation, type Transaction, unlessRefused } from './database.ts'
import { and, asc, drizzle, eq, sql } from './drizzle.ts'
import { hashPassword, passwordFits } from './passwords.ts'
import { api_keys, users } from './schema.ts'

type UserRow = typeof users.$inferSelect
type KeyRow = typeof api_keys.$inferSelect

/** An account without its password's hash, which never leaves this file. */
export type User = Omit<UserRow, 'password_hash'>
/** Without a password nobody can sign in with it, until an administrator sets one. */
export type NewUser = {
  user_id?: string | undefined
  name: string
  email: string
  password?: string | undefined
  role?: UserRow['role'] | undefined
}
/** A key without the hash of its secret. */
export type ApiKey = Omit<KeyRow, 'secret_hash'>

export type NewApiKey = Pick<KeyRow, 'key_id' | 'name' | 'secret_hash'> &
  Partial<Pick<KeyRow, 'scopes' | 'limits'>>

/** What says whether a credential still counts. */
export type Standing = {
  users: Map<string, Pick<UserRow, 'role' | 'is_active' | 'token_generation'>>
  keys: Map<string, Pick<KeyRow, 'secret_hash' | 'revoked_at' | 'scopes' | 'limits'>>
}

/** Every question about accounts and API keys that the house asks of PostgreSQL. */
export type Accounts = ReturnType<typeof openAccounts>

export const userOf = ({ password_hash: _, ...rest }: UserRow): User => rest
const apiKey = ({ secret_hash: _, ...rest }: KeyRow): ApiKey => rest
/** Tokens count for one generation: those of an account that was removed must not for the next under its id. */
const firstGeneration = () => randomInt(1, 2 ** 30)
const sameEmail = (email: string) => eq(sql`lower(${users.email})`, email.toLowerCase())

/** Makes an account. `email-taken` in any spelling of upper and lower case; leaves a transaction unusable. */
export async function createUser(
  database: Database | Transaction,
  wanted: NewUser,
): Promise<User | Problem> {
  const { user_id = randomUUID(), name, email, role = 'user' } = wanted
  // Nobody knows a password that was never shown.
  const password_hash = await hashPassword(wanted.password ?? randomUUID())
  try {
    const rows = await drizzle(database)
      .insert(users)
      .values({
        ...{ user_id, name, email, password_hash, role },
        token_generation: firstGeneration(),
      })
      .returning()
    return userOf(rows[0]!)
  } catch (error) {
    // drizzle wraps what PostgreSQL said.
    const { cause } = error as Error
    if (isUniqueViolation(cause, 'users_email')) return problem('email-taken')
    if (isUniqueViolation(cause, 'users_pkey')) return problem('user-exists')
    throw error
  }
}

/**
 * Replaces a password by whoever knows it. One that was replaced while this one was being looked at stays:
 * an administrator who resets a stolen one must not lose to the thief. `record`: in the same transaction.
 */
export async function changePassword(
  database: Database,
  id: string,
  { current, next }: { current: string; next: string },
  record: (tx: Transaction) => Promise<void>,
): Promise<{ changed: true } | Problem> {
  const [row] = await drizzle(database).select().from(users).where(eq(users.user_id, id))
  if (!(await passwordFits(row?.password_hash, current))) return problem('wrong-password')
  const password_hash = await hashPassword(next)
  return unlessRefused(database, async (tx) => {
    const changed = await drizzle(tx)
      .update(users)
      .set({ password_hash, updated_at: sql`now()` })
      .where(and(eq(users.user_id, id), eq(users.password_hash, row!.password_hash)))
      .returning({ id: users.user_id })
    if (changed.length === 0) return problem('wrong-password')
    await record(tx)
    return { changed: true }
  })
}

/** `database`: or a transaction, so that a deed and its record are one. */
export function openAccounts(database: Database | Transaction) {
  const db = drizzle(database)

  async function one(email: string): Promise<UserRow | undefined> {
    return (await db.select().from(users).where(sameEmail(email)))[0]
  }

  return {
    createUser: (wanted: NewUser) => createUser(database, wanted),

    /** The account, if the password is right. A wrong one and an unknown address look the same. */
    async logIn(email: string, password: string): Promise<User | Problem> {
      const row = await one(email)
      if (!(await passwordFits(row?.password_hash, password))) return problem('invalid-credentials')
      return row!.is_active ? userOf(row!) : problem('account-inactive')
    },

    async userById(id: string): Promise<User | undefined> {
      const [row] = await db.select().from(users).where(eq(users.user_id, id))
      return row && userOf(row)
    },

    async userByEmail(email: string): Promise<User | undefined> {
      const row = await one(email)
      return row && userOf(row)
    },

    async createApiKey(key: NewApiKey & { created_by: string }): Promise<ApiKey> {
      return apiKey((await db.insert(api_keys).values(key).returning())[0]!)
    },

    /** The oldest `limit` keys, or the ones that follow `after`. */
    async apiKeys(limit: number, after?: string): Promise<ApiKey[] | Problem> {
      const position = sql`(${api_keys.created_at}, ${api_keys.key_id})`
      const last = db
        .select({ at: api_keys.created_at, id: api_keys.key_id })
        .from(api_keys)
        .where(eq(api_keys.key_id, after ?? ''))
      if (after !== undefined && (await last).length === 0) return problem('invalid-cursor')
      // Compared inside PostgreSQL, because its times are finer than a Date.
      const rows = await db
        .select()
        .from(api_keys)
        .where(after === undefined ? undefined : sql`${position} > (${last})`)
        .orderBy(asc(api_keys.created_at), asc(api_keys.key_id))
        .limit(limit)
      return rows.map(apiKey)
    },

    async findApiKey(id: string): Promise<ApiKey | Problem> {
      const [row] = await db.select().from(api_keys).where(eq(api_keys.key_id, id))
      return row ? apiKey(row) : problem('api-key-not-found')
    },

    /** Ends a key; a key that has ended keeps the time at which it did. */
    async revokeApiKey(id: string): Promise<ApiKey | Problem> {
      const [row] = await db
        .update(api_keys)
        .set({ revoked_at: sql`coalesce(${api_keys.revoked_at}, now())` })
        .where(eq(api_keys.key_id, id))
        .returning()
      return row ? apiKey(row) : problem('api-key-not-found')
    },

    /** Notes that these keys are in use, to the minute. */
    async noteUse(ids: string[]): Promise<void> {
      const named = sql`${api_keys.key_id} = any(${sql.param(ids)}::text[])`
      const earlier = sql`coalesce(${api_keys.last_used_at} < now() - interval '50 s', true)`
      await db
        .update(api_keys)
        .set({ last_used_at: sql`now()` })
        .where(sql`${named} AND ${earlier}`)
    },

    /** How many credentials stand, in one round trip per kind: asked once a second for each in use. */
    async standing(userIds: string[], keyIds: string[]): Promise<Standing> {
      const [accounts, keys] = await Promise.all([
        userIds.length === 0
          ? []
          : db
              .select({
                id: users.user_id,
                role: users.role,
                is_active: users.is_active,
                token_generation: users.token_generation,
              })
              .from(users)
              .where(sql`${users.user_id} = any(${sql.param(userIds)}::uuid[])`),
        keyIds.length === 0
          ? []
          : db
              .select({
                id: api_keys.key_id,
                secret_hash: api_keys.secret_hash,
                revoked_at: api_keys.revoked_at,
                scopes: api_keys.scopes,
                limits: api_keys.limits,
              })
              .from(api_keys)
              .where(sql`${api_keys.key_id} = any(${sql.param(keyIds)}::text[])`),
      ])
      return {
        users: new Map(accounts.map(({ id, ...rest }) => [id, rest])),
        keys: new Map(keys.map(({ id, ...rest }) => [id, rest])),
      }
    },
  }
}
