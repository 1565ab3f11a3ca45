import { randomUUID } from 'node:crypto'
import { type Problem, problem } from '../problems.ts'
import { audit, type Deed } from './audit.ts'
import { type Database, isUniqueViolation, type Transaction, transaction } from './database.ts'
import { type Once, remember } from './once.ts'
import type { pools } from './schema.ts'

/** A named group of users. */
export type Pool = typeof pools.$inferSelect
export type NewPool = Pick<Pool, 'name' | 'description' | 'created_by'> & {
  users: string[]
  once?: Once | undefined
}
export type PoolChange = Partial<Pick<Pool, 'name' | 'description' | 'is_active'>>
/** name and e-mail are those of the account; null: the id is a service's own word for its user. */
export type Member = { user_id: string; name: string | null; email: string | null; added_at: Date }

/** Who changes a pool, and on which request: for the audit log. */
type By = Pick<Deed, 'actor' | 'request_id'>

/** So many users a pool may have. */
export const poolUsersMax = 1_000_000

/** So many users of one deed stand in the audit log by their ids; how many there were stands there too. */
const toldMax = 100
const told = (users: string[]) => ({ count: users.length, user_ids: users.slice(0, toldMax) })

class Full extends Error {}

/** What keeps a pool from being written, as the problem that it is. */
async function refusing<T>(work: Promise<T>): Promise<T | Problem> {
  try {
    return await work
  } catch (error) {
    if (error instanceof Full) return problem('pool-full', { limit: poolUsersMax })
    if (isUniqueViolation(error, 'pools_name_key')) return problem('pool-name-taken')
    throw error
  }
}

export async function createPool(
  database: Database,
  wanted: NewPool,
  by: By,
): Promise<Pool | Problem> {
  const id = randomUUID()
  const write = async (tx: Transaction) => {
    // First: a repeat that comes at the same time must not be told that the name is taken.
    await remember(tx, wanted.once, { pool_id: id })
    await tx.query(
      `INSERT INTO pools (pool_id, name, description, created_by) VALUES ($1, $2, $3, $4)`,
      [id, wanted.name, wanted.description, wanted.created_by],
    )
    const { pool, users } = await addTo(tx, id, wanted.users)
    await audit(tx, {
      ...{ ...by, action: 'pools.create', target: `pool:${id}`, detail: { added: told(users) } },
      ...{ before: null, after: pool },
    })
    return pool
  }
  return refusing(transaction(database, write))
}

export async function getPool(
  on: Database | Transaction,
  id: string,
  lock: '' | 'FOR UPDATE' = '',
): Promise<Pool | undefined> {
  const { rows } = await on.query<Pool>(`SELECT * FROM pools WHERE pool_id = $1 ${lock}`, [id])
  return rows[0]
}

/** The newest first, one more than `limit` where there are more. */
export async function listPools(
  database: Database,
  { limit, after, skip }: { limit: number; after?: string | undefined; skip: number },
): Promise<Pool[] | Problem> {
  if (after !== undefined && !(await getPool(database, after))) return problem('invalid-cursor')
  // Compared inside PostgreSQL, because its times are finer than a Date.
  const { rows } = await database.query<Pool>(
    `SELECT * FROM pools
     WHERE $1::uuid IS NULL
       OR (created_at, pool_id) < (SELECT created_at, pool_id FROM pools WHERE pool_id = $1)
     ORDER BY created_at DESC, pool_id DESC LIMIT $2 OFFSET $3`,
    [after ?? null, limit + 1, skip],
  )
  return rows
}

export async function updatePool(
  database: Database,
  id: string,
  change: PoolChange,
  by: By,
): Promise<Pool | Problem> {
  const write = async (tx: Transaction) => {
    const before = await getPool(tx, id, 'FOR UPDATE')
    if (!before) return problem('pool-not-found')
    const { name, description, is_active } = { ...before, ...change }
    const { rows } = await tx.query<Pool>(
      `UPDATE pools SET name = $2, description = $3, is_active = $4, updated_at = now()
       WHERE pool_id = $1 RETURNING *`,
      [id, name, description, is_active],
    )
    const after = rows[0]!
    await audit(tx, { ...by, action: 'pools.update', target: `pool:${id}`, before, after })
    return after
  }
  return refusing(transaction(database, write))
}

/** What was distributed to it stays, and is told further. */
export async function deletePool(
  database: Database,
  id: string,
  by: By,
): Promise<Problem | undefined> {
  return transaction(database, async (tx) => {
    const { rows } = await tx.query<Pool>('DELETE FROM pools WHERE pool_id = $1 RETURNING *', [id])
    const before = rows[0]
    if (!before) return problem('pool-not-found')
    const deed = { action: 'pools.delete', target: `pool:${id}`, before, after: null }
    await audit(tx, { ...by, ...deed })
    return undefined
  })
}

/** A pool as it is now, and whom of those that were named it took. */
type Changed = { pool: Pool; users: string[] }
type OfUser = { user_id: string }

/** Adds those that are not in it yet. */
async function addTo(tx: Transaction, id: string, named: string[]): Promise<Changed> {
  const { rows } = await tx.query<OfUser>(
    `INSERT INTO pool_users (pool_id, user_id) SELECT $1, unnest($2::text[])
     ON CONFLICT DO NOTHING RETURNING user_id`,
    [id, named],
  )
  const pool = await countIn(tx, id, rows.length)
  if (pool.user_count > poolUsersMax) throw new Full()
  return { pool, users: rows.map(({ user_id }) => user_id) }
}

async function removeFrom(tx: Transaction, id: string, named: string[]): Promise<Changed> {
  const { rows } = await tx.query<OfUser>(
    'DELETE FROM pool_users WHERE pool_id = $1 AND user_id = ANY($2::text[]) RETURNING user_id',
    [id, named],
  )
  const pool = await countIn(tx, id, -rows.length)
  return { pool, users: rows.map(({ user_id }) => user_id) }
}

/** Takes a user out of all pools; which they were. */
export async function leavePools(tx: Transaction, user: string): Promise<string[]> {
  // The pools' rows first and in one order, as whoever else changes their users locks them.
  const { rows } = await tx.query<{ pool_id: string }>(
    `SELECT pool_id FROM pools p WHERE EXISTS
       (SELECT FROM pool_users u WHERE u.pool_id = p.pool_id AND u.user_id = $1)
     ORDER BY pool_id FOR UPDATE`,
    [user],
  )
  const left = rows.map(({ pool_id }) => pool_id)
  for (const id of left) await removeFrom(tx, id, [user])
  return left
}

/** The pool's row is locked by whoever changes its users: two at once would wait in a circle. */
async function countIn(tx: Transaction, id: string, added: number): Promise<Pool> {
  const { rows } = await tx.query<Pool>(
    `UPDATE pools SET user_count = user_count + $2::int,
       updated_at = CASE WHEN $2::int = 0 OR created_at = now() THEN updated_at ELSE now() END
     WHERE pool_id = $1 RETURNING *`,
    [id, added],
  )
  return rows[0]!
}

/** Adds or removes users; whoever is there already, or is not, is no error. */
export async function changeUsers(
  database: Database,
  id: string,
  how: 'add' | 'remove',
  named: string[],
  by: By,
): Promise<Pool | Problem> {
  const write = async (tx: Transaction) => {
    const before = await getPool(tx, id, 'FOR UPDATE')
    if (!before) return problem('pool-not-found')
    const { pool, users } = await (how === 'add' ? addTo : removeFrom)(tx, id, named)
    await audit(tx, {
      ...{ ...by, action: `pools.${how}-users`, target: `pool:${id}`, before, after: pool },
      detail: { [how === 'add' ? 'added' : 'removed']: told(users) },
    })
    return pool
  }
  return refusing(transaction(database, write))
}

const isUuid = `p.user_id ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'`

/** Members in byte order of their ids, one more than `limit` where there are more. */
export async function poolMembers(
  database: Database,
  id: string,
  { limit, after = '' }: { limit: number; after?: string | undefined },
): Promise<Member[]> {
  const { rows } = await database.query<Member>(
    `SELECT p.user_id, u.name, u.email, p.added_at
     FROM (SELECT * FROM pool_users WHERE pool_id = $1 AND user_id > $2
           ORDER BY user_id LIMIT $3) p
     LEFT JOIN users u ON u.user_id = CASE WHEN ${isUuid} THEN p.user_id::uuid END
     ORDER BY p.user_id`,
    [id, after, limit + 1],
  )
  return rows
}

/** All of them: what is added or removed meanwhile may be among them or not. */
export async function memberIds(database: Database, id: string): Promise<string[]> {
  const all: string[] = []
  for (const size = 50_000; ; ) {
    const { rows } = await database.query<[string]>({
      text: `SELECT user_id FROM pool_users WHERE pool_id = $1 AND user_id > $2
             ORDER BY user_id LIMIT ${size}`,
      values: [id, all.at(-1) ?? ''],
      rowMode: 'array',
    })
    for (const [user] of rows) all.push(user)
    if (rows.length < size) return all
  }
}
