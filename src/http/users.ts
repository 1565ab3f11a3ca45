import { z } from '@hono/zod-openapi'
import type { Deps } from '../app.ts'
import { problem } from '../problems.ts'
import { UserResponse, userView } from './auth.ts'
import { answer, problemResponse } from './respond.ts'
import { resource } from './route.ts'
import { email, strict, uuid } from './schemas.ts'

const UserName = z.object({ user_id: uuid, name: z.string() }).openapi('UserName')

export function userRoutes(deps: Deps) {
  const { api, route } = resource(deps, 'Users')

  route(
    {
      method: 'get',
      path: '/users/search/by-email',
      summary: 'Find an account by its whole e-mail address',
      description: 'Upper and lower case are the same. Only administrators get the whole account.',
      needs: 'anyone',
      query: strict({ email }),
      answers: { 200: z.union([UserResponse, UserName]) },
      problems: ['user-not-found'],
    },
    async (c, { query }, who) => {
      const user = await deps.accounts.userByEmail(query.email)
      if (user === undefined) return problemResponse(c, problem('user-not-found'))
      const { user_id, name } = user
      return answer(c, 200, who.kind === 'admin' ? userView(user) : { user_id, name })
    },
  )
  return api
}
