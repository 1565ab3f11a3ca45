import type { z } from '@hono/zod-openapi'
import type { Deps } from '../app.ts'
import type { Pool } from '../ledger/pools.ts'
import { problem } from '../problems.ts'
import { byRequest, type Context, type Principal } from './context.ts'
import { readOnce, replayedHeader } from './effect.ts'
import {
  ChangePoolRequest,
  CreatePoolRequest,
  idOf,
  PoolDetailResponse,
  PoolResponse,
  poolBytes,
  poolDetail,
  poolId,
  poolView,
  UsersRequest,
  usersOf,
} from './pool-view.ts'
import { answer, noContent, problemResponse } from './respond.ts'
import { resource } from './route.ts'
import { listOf, page, strict, userId, uuid } from './schemas.ts'

const params = strict({ pool_id: poolId })
const managers = ['admin', 'service'] as const
const firstPage = 100

/** Pools of users: made, read, changed, filled and deleted. */
export function poolRoutes(deps: Deps) {
  const { pools } = deps

  async function detail(c: Context, who: Principal, pool: Pool, limit = firstPage, after?: string) {
    const members = await pools.members(pool.pool_id, { limit, after })
    return answer(c, 200, poolDetail(pool, members, limit, who.kind === 'admin'))
  }

  async function change(
    c: Context,
    who: Principal,
    how: 'add' | 'remove',
    pool_id: string,
    users: string[],
  ) {
    const pool = await pools.changeUsers(pool_id, how, users, byRequest(c, who))
    return 'problem' in pool ? problemResponse(c, pool) : detail(c, who, pool)
  }
  const members = {
    needs: managers,
    scope: 'users',
    answers: { 200: PoolDetailResponse },
    problems: ['pool-not-found', 'pool-full'],
  } as const
  const ofBody = { ...members, params, body: UsersRequest, bodyLimit: poolBytes } as const
  const path = '/pools/{pool_id}/users'
  type Body = z.output<typeof UsersRequest>

  return resource(deps, 'Pools')
    .route(
      {
        method: 'post',
        path: '/pools',
        scope: 'users',
        summary: 'Make a pool: a named group of users, accounts or ids of your own',
        needs: managers,
        body: CreatePoolRequest,
        bodyLimit: poolBytes,
        answers: { 201: PoolResponse },
        problems: ['pool-name-taken', 'idempotency-key-reused'],
      },
      async (c, { body }, who) => {
        const keyed = readOnce(c, who, 'create_pool', '', body)
        if ('problem' in keyed) return problemResponse(c, keyed)
        const { name, description = null, user_ids: users = [] } = body
        const made = { ...keyed, name, description, users, created_by: who.id }
        const pool = await pools.create(made, byRequest(c, who))
        if ('problem' in pool) return problemResponse(c, pool)
        const headers = { Location: `/api/v1/pools/${pool.pool_id}`, ...replayedHeader(pool) }
        return answer(c, 201, poolView(pool), headers)
      },
    )
    .route(
      {
        method: 'get',
        path: '/pools',
        summary: 'List the pools, newest first',
        needs: managers,
        query: strict({ ...page, starting_after: uuid.optional() }),
        answers: { 200: listOf(PoolResponse) },
        problems: ['invalid-cursor'],
      },
      async (c, { query: { starting_after: after, limit, skip } }) => {
        const rows = await pools.list({ limit, after, skip })
        if ('problem' in rows) return problemResponse(c, rows)
        const data = rows.slice(0, limit).map(poolView)
        const has_more = rows.length > limit
        return answer(c, 200, {
          data,
          has_more,
          next_cursor: has_more ? data.at(-1)!.pool_id : null,
        })
      },
    )
    .route(
      {
        method: 'get',
        path: '/pools/{pool_id}',
        summary: 'One pool and its users, a page at a time',
        needs: managers,
        params,
        query: strict({ limit: page.limit, starting_after: page.starting_after }),
        answers: { 200: PoolDetailResponse },
        problems: ['pool-not-found', 'invalid-cursor'],
      },
      async (c, { params, query: { limit, starting_after } }, who) => {
        const pool = await pools.get(params.pool_id)
        if ('problem' in pool) return problemResponse(c, pool)
        const after = starting_after === undefined ? undefined : idOf(starting_after)
        if (after === null) return problemResponse(c, problem('invalid-cursor'))
        return detail(c, who, pool, limit, after)
      },
    )
    .route(
      {
        method: 'patch',
        path: '/pools/{pool_id}',
        scope: 'users',
        summary: 'Change what is named, leave the rest',
        needs: managers,
        params,
        body: ChangePoolRequest,
        answers: { 200: PoolResponse },
        problems: ['pool-not-found', 'pool-name-taken'],
      },
      async (c, { params: { pool_id }, body }, who) => {
        const pool = await pools.update(pool_id, body, byRequest(c, who))
        return 'problem' in pool ? problemResponse(c, pool) : answer(c, 200, poolView(pool))
      },
    )
    .route(
      {
        method: 'delete',
        path: '/pools/{pool_id}',
        scope: 'users',
        summary: 'Delete a pool; what was distributed to it stays',
        needs: managers,
        params,
        answers: { 204: null },
        problems: ['pool-not-found'],
      },
      async (c, { params: { pool_id } }, who) => {
        const refused = await pools.remove(pool_id, byRequest(c, who))
        return refused ? problemResponse(c, refused) : noContent(c)
      },
    )
    .route(
      { ...ofBody, method: 'post', path, summary: 'Add up to 10,000 users to a pool' },
      (c, { params, body }, who) => change(c, who, 'add', params.pool_id, usersOf(body as Body)),
    )
    .route(
      { ...ofBody, method: 'delete', path, summary: 'Remove up to 10,000 users from a pool' },
      (c, { params, body }, who) => change(c, who, 'remove', params.pool_id, usersOf(body as Body)),
    )
    .route(
      {
        ...members,
        method: 'delete',
        path: `${path}/{user_id}`,
        summary: 'Remove one user from a pool',
        params: strict({ pool_id: poolId, user_id: userId }),
      },
      (c, { params }, who) => change(c, who, 'remove', params.pool_id, [params.user_id]),
    )
}
