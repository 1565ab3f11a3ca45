import { z } from '@hono/zod-openapi'
import type { Member, Pool } from '../ledger/pools.ts'
import { instant, line, looseFlag, prose, strict, userId, uuid } from './schemas.ts'

export const poolId = uuid
const name = line(1, 200)
const description = prose(1_000).nullable()
const usersMax = 10_000
const userIds = z.array(userId).max(usersMax)
/** Ten thousand ids of the greatest length. */
export const poolBytes = 2 * 1024 * 1024

export const CreatePoolRequest = strict({
  name,
  description: description.optional(),
  user_ids: userIds.optional().openapi({ default: [] }),
}).openapi('CreatePoolRequest')

export const ChangePoolRequest = strict({
  name: name.optional(),
  description: description.optional(),
  is_active: looseFlag.optional().openapi({ description: 'false: nothing is distributed to it' }),
}).openapi('ChangePoolRequest')

const one = 'exactly one of user_ids and user_id must be there'
export const UsersRequest = strict({
  user_ids: userIds.min(1).optional(),
  user_id: userId.optional(),
})
  .refine(({ user_ids, user_id }) => (user_ids === undefined) !== (user_id === undefined), {
    path: ['user_ids'],
    message: one,
  })
  .openapi('PoolUsersRequest')
export const usersOf = ({ user_ids, user_id }: z.output<typeof UsersRequest>): string[] =>
  user_ids ?? [user_id!]

export const PoolResponse = z
  .object({
    pool_id: poolId,
    name: z.string(),
    description: z.string().nullable(),
    created_by: z.string(),
    is_active: z.boolean(),
    created_at: instant,
    updated_at: instant.nullable(),
    user_count: z.number(),
  })
  .openapi('Pool')

const MemberResponse = z
  .object({
    user_id: z.string(),
    name: z.string().nullable().openapi({ description: 'null: no account has this id' }),
    email: z.string().nullable().openapi({ description: 'null to keys, too' }),
    added_at: instant,
  })
  .openapi('PoolMember')

export const PoolDetailResponse = PoolResponse.extend({
  users: z.array(MemberResponse).openapi({ description: 'a page of them, in order of their ids' }),
  has_more: z.boolean(),
  next_cursor: z.string().nullable(),
}).openapi('PoolDetail')

export const poolView = (pool: Pool): z.infer<typeof PoolResponse> => ({
  pool_id: pool.pool_id,
  name: pool.name,
  description: pool.description,
  created_by: pool.created_by,
  is_active: pool.is_active,
  created_at: pool.created_at.toISOString(),
  updated_at: pool.updated_at?.toISOString() ?? null,
  user_count: pool.user_count,
})

/** Ids may have spaces and any letters; a cursor is of letters and digits. */
export const cursorOf = (id: string) => Buffer.from(id).toString('base64url')
/** The user that a cursor names; null: it is none of ours. */
export function idOf(cursor: string): string | null {
  const id = Buffer.from(cursor, 'base64url').toString()
  return cursorOf(id) === cursor && userId.safeParse(id).success ? id : null
}

/**
 * `members`: one more than `limit` where there are more. `withEmails`: for administrators, who may see
 * any account; a key could put any id into a pool to learn its address.
 */
export function poolDetail(
  pool: Pool,
  members: Member[],
  limit: number,
  withEmails: boolean,
): z.infer<typeof PoolDetailResponse> {
  const users = members.slice(0, limit).map(({ user_id, name, email, added_at }) => ({
    ...{ user_id, name, email: withEmails ? email : null },
    added_at: added_at.toISOString(),
  }))
  const has_more = members.length > limit
  const next_cursor = has_more ? cursorOf(users.at(-1)!.user_id) : null
  return { ...poolView(pool), users, has_more, next_cursor }
}
