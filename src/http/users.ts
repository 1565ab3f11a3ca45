import { z } from '@hono/zod-openapi'
import type { Deps } from '../app.ts'
import type { User } from '../ledger/accounts.ts'
import { problem } from '../problems.ts'
import { accountKinds, ProfileRequest, UserResponse, userView } from './auth.ts'
import { byRequest, type Principal } from './context.ts'
import { answer, problemResponse } from './respond.ts'
import { denied, resource } from './route.ts'
import { email, line, password, strict, userIdOrMe, uuid } from './schemas.ts'

const UserName = z.object({ user_id: uuid, name: z.string() }).openapi('UserName')
const Shown = z.union([UserResponse, UserName])
const isUuid = (id: string) => uuid.safeParse(id).success

const RegisterUserRequest = strict({
  user_id: uuid.optional().openapi({ description: 'Left out: a fresh one' }),
  name: line(1, 255),
  email,
  password: password(8, 100).optional().openapi({
    description: 'Left out: nobody can sign in until an administrator sets one',
  }),
}).openapi('RegisterUserRequest')

/** The whole account is for administrators and whoever it is; others learn the name. */
const shownTo = (who: Principal, user: User) =>
  who.kind === 'admin' || who.id === user.user_id
    ? userView(user)
    : { user_id: user.user_id, name: user.name }

/** Accounts by id, as everybody else sees them. An id that is no account's may still hold coupons. */
export function userRoutes(deps: Deps) {
  const { accounts, ops } = deps

  return resource(deps, 'Users')
    .route(
      {
        method: 'post',
        path: '/users',
        summary: 'Make an account of role user, with an id of your own if you like',
        description:
          'An API key chooses `user_id` or `password`, not both: 403. An id may hold coupons already, ' +
          'and only an administrator gives somebody the means to use them.',
        needs: ['admin', 'service'],
        scope: 'users',
        body: RegisterUserRequest,
        answers: { 201: UserResponse },
        problems: ['email-taken', 'user-exists'],
      },
      async (c, { body }, who) => {
        // Whoever could sign in under an id that it chose could use the coupons of that id.
        const needs = 'an administrator to choose both user_id and password'
        if (who.kind !== 'admin' && body.user_id !== undefined && body.password !== undefined)
          return problemResponse(c, problem('forbidden', { needs }))
        const made = await ops.createAccount(body, byRequest(c, who))
        return 'problem' in made ? problemResponse(c, made) : answer(c, 201, userView(made))
      },
    )
    .route(
      {
        method: 'get',
        path: '/users/search/by-email',
        summary: 'Find an account by its whole e-mail address',
        description:
          'Upper and lower case are the same. Only administrators get the whole account.',
        needs: 'anyone',
        guesses: true,
        query: strict({ email }),
        answers: { 200: Shown },
        problems: ['user-not-found'],
      },
      async (c, { query }, who) => {
        const user = await accounts.userByEmail(query.email)
        if (user === undefined) return problemResponse(c, problem('user-not-found'))
        return answer(c, 200, shownTo(who, user))
      },
    )
    .route(
      {
        method: 'get',
        path: '/users/{user_id}',
        summary: 'One account; `me` is whoever asks. Of others users and keys learn the name',
        needs: 'anyone',
        params: strict({ user_id: userIdOrMe }),
        answers: { 200: Shown },
        problems: ['user-not-found'],
      },
      async (c, { params }, who) => {
        const id = params.user_id === 'me' ? who.id : params.user_id
        const user = isUuid(id) ? await accounts.userById(id) : undefined
        if (user === undefined) return problemResponse(c, problem('user-not-found'))
        return answer(c, 200, shownTo(who, user))
      },
    )
    .route(
      {
        method: 'patch',
        path: '/users/{user_id}',
        summary: "Change name or e-mail: one's own, or as an administrator anybody's",
        needs: accountKinds,
        params: strict({ user_id: userIdOrMe }),
        body: ProfileRequest,
        answers: { 200: UserResponse },
        problems: ['user-not-found', 'email-taken'],
      },
      async (c, { params, body }, who) => {
        const id = params.user_id === 'me' ? who.id : params.user_id
        if (who.kind !== 'admin' && id !== who.id) return problemResponse(c, denied(['admin']))
        if (!isUuid(id)) return problemResponse(c, problem('user-not-found'))
        const user = await ops.changeAccount(id, body, byRequest(c, who))
        return 'problem' in user ? problemResponse(c, user) : answer(c, 200, userView(user))
      },
    )
}
