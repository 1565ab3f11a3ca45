import { z } from '@hono/zod-openapi'
import type { Deps } from '../app.ts'
import type { User } from '../ledger/accounts.ts'
import { type Problem, problem } from '../problems.ts'
import { byRequest } from './context.ts'
import { answer, problemResponse } from './respond.ts'
import { resource } from './route.ts'
import { email, instant, line, password, strict, uuid } from './schemas.ts'

/** Everybody with an account; an API key has none. */
export const accountKinds = ['user', 'viewer', 'operator', 'admin'] as const

export const UserResponse = z
  .object({
    user_id: uuid,
    name: z.string(),
    email: z.string(),
    role: z.enum(accountKinds),
    is_active: z.boolean(),
    created_at: instant,
    updated_at: instant,
  })
  .openapi('UserResponse')

const TokenResponse = z
  .object({ access_token: z.string(), token_type: z.literal('bearer'), user: UserResponse })
  .openapi('TokenResponse')

const RegisterRequest = strict({
  name: line(1, 255),
  email,
  password: password(8, 100),
}).openapi('RegisterRequest')
// Any length: what counts as too short today must not keep yesterday's accounts out.
export const LoginRequest = strict({ email, password: password(0, 1_000) }).openapi('LoginRequest')
const newPassword = { new_password: password(8, 100) }
/** `old_password`: what it is called elsewhere. */
const ChangePasswordRequest = z
  .union([
    strict({ current_password: password(0, 1_000), ...newPassword }),
    strict({ old_password: password(0, 1_000), ...newPassword }),
  ])
  .openapi('ChangePasswordRequest')
export const ProfileRequest = strict({ name: line(1, 255), email })
  .partial()
  .openapi('ProfileRequest')

export const userView = (user: User) => ({
  user_id: user.user_id,
  name: user.name,
  email: user.email,
  role: user.role,
  is_active: user.is_active,
  created_at: user.created_at.toISOString(),
  updated_at: user.updated_at.toISOString(),
})

export const isWrong = ({ problem: code }: Problem) =>
  code === 'invalid-credentials' || code === 'wrong-password'
const isTaken = ({ problem: code }: Problem) => code === 'email-taken'

export function authRoutes(deps: Deps) {
  const { accounts, tokens, principals, ops, guard } = deps
  const signedIn = async (user: User) => ({
    access_token: await tokens.issue(user),
    token_type: 'bearer' as const,
    user: userView(user),
  })

  return resource(deps, 'Auth')
    .route(
      {
        method: 'post',
        path: '/auth/register',
        summary: 'Make an account and sign in with it',
        needs: 'nobody',
        body: RegisterRequest,
        answers: { 201: TokenResponse },
        problems: ['email-taken', 'too-many-requests', 'not-ready'],
      },
      async (c, { body }) => {
        // Whoever tries many addresses wants to know which are registered.
        const user = await guard.register(c, body.email, () => accounts.createUser(body), isTaken)
        if ('problem' in user) return problemResponse(c, user)
        return answer(c, 201, await signedIn(user))
      },
    )
    .route(
      {
        method: 'post',
        path: '/auth/login',
        summary: 'Sign in: a token for 30 minutes',
        needs: 'nobody',
        body: LoginRequest,
        answers: { 200: TokenResponse },
        problems: ['invalid-credentials', 'account-inactive', 'too-many-requests', 'not-ready'],
      },
      async (c, { body }) => {
        const attempt = () => accounts.logIn(body.email, body.password)
        const user = await guard.logIn(c, body.email, attempt, isWrong)
        if ('problem' in user) return problemResponse(c, user)
        return answer(c, 200, await signedIn(user))
      },
    )
    .route(
      {
        method: 'get',
        path: '/auth/me',
        summary: 'The account that is signed in',
        needs: accountKinds,
        answers: { 200: UserResponse },
      },
      async (c, _, who) => {
        const user = await accounts.userById(who.id)
        if (user === undefined) return problemResponse(c, problem('unauthenticated'))
        return answer(c, 200, userView(user))
      },
    )
    .route(
      {
        method: 'put',
        path: '/auth/me',
        summary: 'Change the name or the e-mail address of the account that is signed in',
        needs: accountKinds,
        body: ProfileRequest,
        answers: { 200: UserResponse },
        problems: ['email-taken', 'user-not-found'],
      },
      async (c, { body }, who) => {
        const user = await ops.changeAccount(who.id, body, byRequest(c, who))
        return 'problem' in user ? problemResponse(c, user) : answer(c, 200, userView(user))
      },
    )
    .route(
      {
        method: 'post',
        path: '/auth/change-password',
        summary: 'Replace the password of the account that is signed in; its tokens end',
        needs: accountKinds,
        body: ChangePasswordRequest,
        answers: { 200: z.object({ message: z.string() }) },
        problems: ['wrong-password'],
      },
      async (c, { body }, who) => {
        const current = 'old_password' in body ? body.old_password : body.current_password
        const passwords = { current, next: body.new_password }
        const change = () => ops.replacePassword(who.id, passwords, byRequest(c, who))
        const changed = await guard.logIn(c, who.id, change, isWrong)
        if ('problem' in changed) return problemResponse(c, changed)
        // The token that asked is over, too.
        principals.forget(who.id)
        return answer(c, 200, { message: 'Password updated successfully' })
      },
    )
}
