import { type Problem, problem } from '../problems.ts'
import { type User, userOf } from './accounts.ts'
import { type Database, isUniqueViolation, type Transaction } from './database.ts'
import { and, asc, drizzle, eq, sql } from './drizzle.ts'
import { hashPassword } from './passwords.ts'
import { leavePools } from './pools.ts'
import { users } from './schema.ts'

/** What may be changed of an account; what is left out stays. */
export type UserChange = Partial<Pick<User, 'name' | 'email' | 'role' | 'is_active'>> & {
  password?: string | undefined
}
export type UserFilter = {
  limit: number
  /** The last account of the page before. */
  after?: string | undefined
  skip: number
  role?: User['role'] | undefined
  is_active?: boolean | undefined
}

/** Oldest first; up to limit + 1, for one more than asked for says that there are more. */
export async function listUsers(
  database: Database,
  { limit, after, skip, role, is_active }: UserFilter,
): Promise<User[] | Problem> {
  const db = drizzle(database)
  const position = sql`(${users.created_at}, ${users.user_id})`
  const last = db
    .select({ at: users.created_at, id: users.user_id })
    .from(users)
    .where(eq(users.user_id, after ?? ''))
  if (after !== undefined && (await last).length === 0) return problem('invalid-cursor')
  const rows = await db
    .select()
    .from(users)
    .where(
      and(
        role === undefined ? undefined : eq(users.role, role),
        is_active === undefined ? undefined : eq(users.is_active, is_active),
        // Compared inside PostgreSQL, because its times are finer than a Date.
        after === undefined ? undefined : sql`${position} > (${last})`,
      ),
    )
    .orderBy(asc(users.created_at), asc(users.user_id))
    .limit(limit + 1)
    .offset(skip)
  return rows.map(userOf)
}

/** Changes an account; gives it as it was and as it is. `email-taken` leaves the transaction unusable. */
export async function changeUser(
  tx: Transaction,
  id: string,
  { password, ...change }: UserChange,
): Promise<{ before: User; after: User } | Problem> {
  const db = drizzle(tx)
  const [before] = await db.select().from(users).where(eq(users.user_id, id)).for('update')
  if (!before) return problem('user-not-found')
  const hashed = password === undefined ? {} : { password_hash: await hashPassword(password) }
  try {
    const [after] = await db
      .update(users)
      .set({ ...change, ...hashed, updated_at: sql`now()` })
      .where(eq(users.user_id, id))
      .returning()
    return { before: userOf(before), after: userOf(after!) }
  } catch (error) {
    // drizzle wraps what PostgreSQL said.
    if (isUniqueViolation((error as Error).cause, 'users_email')) return problem('email-taken')
    throw error
  }
}

/**
 * Removes an account, from its pools too; gives it as it was. Coupons that it holds stay with its id:
 * the ledger knows users by that alone.
 */
export async function deleteUser(
  tx: Transaction,
  id: string,
): Promise<(User & { pools: string[] }) | Problem> {
  const [gone] = await drizzle(tx).delete(users).where(eq(users.user_id, id)).returning()
  return gone ? { ...userOf(gone), pools: await leavePools(tx, id) } : problem('user-not-found')
}

/**
 * The administrators who are active, and stay so until the transaction is over. To be called first, for
 * all that may make one fewer lock them in this order: two who lock each other would wait for ever.
 */
export async function keepAdmins(tx: Transaction): Promise<string[]> {
  const { rows } = await tx.query<{ user_id: string }>(
    `SELECT user_id FROM users WHERE role = 'admin' AND is_active ORDER BY user_id FOR UPDATE`,
  )
  return rows.map(({ user_id }) => user_id)
}
