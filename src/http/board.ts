import { deleteCookie, getCookie, setCookie } from 'hono/cookie'
import type { Deps } from '../app.ts'
import { problem, problemDocument } from '../problems.ts'
import { isWrong, LoginRequest } from './auth.ts'
import { byRequest, type Context, type Principal, requestId } from './context.ts'
import { ofPages } from './headers.ts'
import { problemResponse } from './respond.ts'

/**
 * Bull Board in a browser, below /queues. A browser sends no Authorization header by itself, so
 * signing in here leaves a user's token in a cookie that is sent nowhere else and that no other
 * route looks at. Viewers and operators look; what an administrator does stands in the audit log.
 */
const path = '/queues'
const cookie = 'stampede_queues'
const minutes = 30
const formMax = 4_096
/** Its buttons ask for none: the log says at least where somebody pressed one. */
const reason = 'Bull Board'

/** Its own scripts and styles, and no font from elsewhere. */
const policy =
  "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; " +
  "font-src 'self'; connect-src 'self'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"

export const isOfBoard = (c: Context) => c.req.path === path || c.req.path.startsWith(`${path}/`)

/** Answers whatever is asked below /queues. */
export function boardPages({ accounts, tokens, principals, guard, board, ops }: Deps) {
  async function signIn(c: Context): Promise<Response> {
    // A form says how long it is; what does not is none.
    if (!(Number(c.req.header('content-length')) <= formMax))
      return form(c, 413, 'That is not what this form sends.')
    const sent = LoginRequest.safeParse(await c.req.parseBody().catch(() => undefined))
    if (!sent.success) return form(c, 422, 'E-mail and password are needed.')
    const { email, password } = sent.data
    const user = await guard.logIn(c, email, () => accounts.logIn(email, password), isWrong)
    if ('problem' in user) {
      const { status, title, detail } = problemDocument(user, c.req.path, requestId(c))
      return form(c, status, `${title}: ${detail}`)
    }
    if (user.role === 'user') return form(c, 403, 'This is for viewers, operators and admins.')
    setCookie(c, cookie, await tokens.issue(user), {
      ...{ path, httpOnly: true, sameSite: 'Strict', maxAge: minutes * 60 },
      secure: c.req.header('x-forwarded-proto') === 'https',
    })
    return c.redirect(path, 303)
  }

  /** Who asks: by their cookie, or as anywhere else by a token. */
  async function whoIs(c: Context): Promise<Principal | undefined> {
    const token = getCookie(c, cookie)
    const sent = c.req.header('authorization') ?? (token ? `Bearer ${token}` : null)
    const who = await principals.of(sent)
    return 'problem' in who ? undefined : who
  }

  return async (c: Context): Promise<Response> => {
    const isWrite = c.req.method !== 'GET' && c.req.method !== 'HEAD'
    // A page of somebody else's that a signed-in browser shows must not press our buttons.
    if (isWrite && isForeign(c)) return problemResponse(c, problem('forbidden'))
    if (c.req.path === `${path}/sign-in` && isWrite) return signIn(c)
    if (c.req.path === `${path}/sign-out`) {
      deleteCookie(c, cookie, { path })
      return c.redirect(path, 303)
    }
    const who = await whoIs(c)
    if (!who)
      return c.req.path.startsWith(`${path}/api/`)
        ? problemResponse(c, problem('unauthenticated'))
        : form(c, 401, '')
    const isAdmin = who.kind === 'admin'
    const mayLook = isAdmin || who.kind === 'operator' || who.kind === 'viewer'
    if (!mayLook || (isWrite && !isAdmin)) return problemResponse(c, problem('forbidden'))
    if (isWrite) await ops.note({ ...byRequest(c, who, reason), action: 'queues', target: deed(c) })
    return guarded(await (await board())(c.req.raw, isAdmin))
  }
}

/** As it stands in the audit log: `PUT /queues/api/queues/jobs/1/retry`. */
const deed = (c: Context) => `${c.req.method} ${c.req.path}`.slice(0, 500)

function isForeign(c: Context): boolean {
  const from = c.req.header('origin')
  if (from === undefined) return c.req.header('sec-fetch-site') === 'cross-site'
  return URL.parse(from)?.host !== c.req.header('host')
}

function guarded(response: Response): Response {
  const headers = new Headers(response.headers)
  headers.set('Content-Security-Policy', policy)
  for (const [name, value] of Object.entries(ofPages)) headers.set(name, value)
  if (!headers.has('Cache-Control')) headers.set('Cache-Control', 'no-cache')
  return new Response(response.body, { status: response.status, headers })
}

function form(c: Context, status: number, said: string): Response {
  const page = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Stampede queues</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; margin: 4rem auto; max-width: 22rem; padding: 0 1rem; }
label, input, button { display: block; width: 100%; box-sizing: border-box; font: inherit; }
input, button { padding: .5rem; margin: .2rem 0 1rem; }
</style>
</head>
<body>
<h1>Queues</h1>
<p role="alert">${said}</p>
<form method="post" action="${path}/sign-in">
<label for="email">E-mail</label>
<input id="email" name="email" type="email" autocomplete="username" required autofocus>
<label for="password">Password</label>
<input id="password" name="password" type="password" autocomplete="current-password" required>
<button>Sign in</button>
</form>
</body>
</html>
`
  const headers = { 'Content-Type': 'text/html; charset=utf-8', 'X-Request-Id': requestId(c) }
  return guarded(new Response(page, { status, headers }))
}
