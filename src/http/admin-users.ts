import { z } from '@hono/zod-openapi'
import type { Deps } from '../app.ts'
import { problem } from '../problems.ts'
import { accountKinds, UserResponse, userView } from './auth.ts'
import { byRequest } from './context.ts'
import { reason } from './ops.ts'
import { answer, noContent, problemResponse } from './respond.ts'
import { resource } from './route.ts'
import {
  email,
  line,
  listOf,
  looseFlag,
  page,
  password,
  queryFlag,
  strict,
  uuid,
} from './schemas.ts'

const params = strict({ user_id: uuid })
const name = line(1, 255)
const role = z.enum(accountKinds)

const CreateAccountRequest = strict({
  name,
  email,
  password: password(8, 100),
  role: role.optional().openapi({ default: 'user' }),
  reason: reason.optional(),
}).openapi('CreateAccountRequest')

const ChangeAccountRequest = strict({
  name,
  email,
  role,
  is_active: looseFlag,
  password: password(8, 100),
  reason,
})
  .partial()
  .openapi('ChangeAccountRequest')

/** Accounts, as administrators make, change and remove them. */
export function adminUserRoutes(deps: Deps) {
  const { accounts, principals, ops } = deps

  return resource(deps, 'Accounts')
    .route(
      {
        method: 'post',
        path: '/auth/admin/users',
        summary: 'Make an account for somebody else, of any role',
        needs: ['admin'],
        body: CreateAccountRequest,
        answers: { 201: UserResponse },
        problems: ['email-taken'],
      },
      async (c, { body: { reason: why, ...wanted } }, who) => {
        const made = await ops.createAccount(wanted, byRequest(c, who, why))
        return 'problem' in made ? problemResponse(c, made) : answer(c, 201, userView(made))
      },
    )
    .route(
      {
        method: 'get',
        path: '/auth/admin/users',
        summary: 'List the accounts, oldest first',
        needs: ['admin'],
        query: strict({
          role: role.optional(),
          is_active: queryFlag.optional(),
          ...page,
          starting_after: uuid
            .optional()
            .openapi({ description: '`next_cursor` of the page before' }),
        }),
        answers: { 200: listOf(UserResponse) },
        problems: ['invalid-cursor'],
      },
      async (c, { query: { starting_after: after, ...filter } }) => {
        const rows = await ops.listAccounts({ ...filter, after })
        if ('problem' in rows) return problemResponse(c, rows)
        const data = rows.slice(0, filter.limit).map(userView)
        const has_more = rows.length > filter.limit
        return answer(c, 200, {
          data,
          has_more,
          next_cursor: has_more ? data.at(-1)!.user_id : null,
        })
      },
    )
    .route(
      {
        method: 'get',
        path: '/auth/admin/users/{user_id}',
        summary: 'One account',
        needs: ['admin'],
        params,
        answers: { 200: UserResponse },
        problems: ['user-not-found'],
      },
      async (c, { params }) => {
        const user = await accounts.userById(params.user_id)
        return user ? answer(c, 200, userView(user)) : problemResponse(c, problem('user-not-found'))
      },
    )
    .route(
      {
        method: 'patch',
        path: '/auth/admin/users/{user_id}',
        summary: 'Change an account: who is deactivated is refused at once',
        description: 'Within a second on every process. What is left out stays as it is.',
        needs: ['admin'],
        params,
        body: ChangeAccountRequest,
        answers: { 200: UserResponse },
        problems: ['user-not-found', 'email-taken', 'own-account', 'last-admin'],
      },
      async (c, { params, body: { reason: why, ...change } }, who) => {
        const user = await ops.changeAccount(params.user_id, change, byRequest(c, who, why))
        if ('problem' in user) return problemResponse(c, user)
        principals.forget(params.user_id)
        return answer(c, 200, userView(user))
      },
    )
    .route(
      {
        method: 'delete',
        path: '/auth/admin/users/{user_id}',
        summary: 'Remove an account for good; coupons it holds stay with its id',
        description: 'It leaves its pools, so that nothing is distributed to it any more.',
        needs: ['admin'],
        params,
        query: strict({ reason: reason.optional() }),
        answers: { 204: null },
        problems: ['user-not-found', 'own-account', 'last-admin'],
      },
      async (c, { params, query }, who) => {
        const gone = await ops.deleteAccount(params.user_id, byRequest(c, who, query.reason))
        if ('problem' in gone) return problemResponse(c, gone)
        principals.forget(params.user_id)
        return noContent(c)
      },
    )
}
