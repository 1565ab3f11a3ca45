import { createHash } from 'node:crypto'
import type { Counter, Rule } from '../limits.ts'
import type { Problem } from '../problems.ts'
import { type AddressOf, addressGroup } from './address.ts'
import type { Context, Principal } from './context.ts'
import { Limit, Turns } from './limit.ts'
import { problemResponse } from './respond.ts'

/** docs/security.md says what each of them counts. */
export type GuardRules = Record<
  'loginAccount' | 'loginAddress' | 'registerAddress' | 'codeUser' | 'codeAddress' | 'codeKey',
  Rule
>
export type Guard = ReturnType<typeof openGuard>

/** Guesses of one user or address that may be under way at once: so many may slip past a limit. */
const guessesAtOnce = 4

/** Slows guessing of passwords and of codes down to what docs/security.md says. */
export function openGuard(
  counter: (rule: Rule) => Counter,
  rules: GuardRules,
  addressOf: AddressOf,
  now: () => number = Date.now,
  warn: (proxy: string) => void = () => {},
) {
  const limit = (rule: Rule) => new Limit(counter(rule), now)
  const account = limit(rules.loginAccount)
  /** An account at an address: whether it failed there at all. */
  const pair = limit({ ...rules.loginAccount, name: 'login-pair', points: 1 })
  const login = limit(rules.loginAddress)
  const registrations = limit(rules.registerAddress)
  const [user, address, key] = [rules.codeUser, rules.codeAddress, rules.codeKey].map(limit) as [
    Limit,
    Limit,
    Limit,
  ]
  const logins = new Turns(guessesAtOnce)
  const guesses = new Turns(guessesAtOnce)

  const groupOf = (c: Context) => {
    const known = addressOf(c)
    return known === undefined ? 'unknown' : addressGroup(known)
  }

  let warned = false
  /** A proxy that nobody has told us of makes one client of all of its own. */
  function lookForProxy(c: Context): void {
    const peer = c.env?.incoming?.socket.remoteAddress
    if (warned || peer === undefined || peer !== addressOf(c)) return
    if (!c.req.raw.headers.has('x-forwarded-for')) return
    warned = true
    warn(peer)
  }

  /**
   * Lets somebody prove who `name` is by a password. An account that had too many failures, from
   * wherever they came, has one more for each address: nobody can lock its owner out from elsewhere.
   */
  async function logIn<T extends object>(
    c: Context,
    name: string,
    attempt: () => Promise<T | Problem>,
    isFailure: (refused: Problem) => boolean,
  ): Promise<T | Problem> {
    const from = groupOf(c)
    const who = digest(name)
    const both = `${who} ${from}`
    const refusal = () =>
      login.refusal(from) ?? (pair.refusal(both) ? account.refusal(who) : undefined)
    const refused = refusal()
    if (refused) return refused
    await logins.enter(from)
    try {
      const meanwhile = refusal()
      if (meanwhile) return meanwhile
      const result = await attempt()
      if ('problem' in result && isFailure(result as Problem)) {
        lookForProxy(c)
        await Promise.all([login.spend(from), account.spend(who), pair.spend(both)])
      }
      return result
    } finally {
      logins.leave(from)
    }
  }

  return {
    logIn,

    /**
     * The same for whoever makes an account of their own. One that succeeds counts as well: it costs a
     * hash, for which logins wait.
     */
    register<T extends object>(
      c: Context,
      name: string,
      attempt: () => Promise<T | Problem>,
      isFailure: (refused: Problem) => boolean,
    ): Promise<T | Problem> {
      const from = groupOf(c)
      const counted = async () => {
        const refused = registrations.refusal(from)
        if (refused) return refused
        lookForProxy(c)
        await registrations.spend(from)
        return attempt()
      }
      return logIn(c, name, counted, isFailure)
    },

    /**
     * Answers a request that names a code, which may be a guess: an unknown code counts as one. So does an
     * e-mail address that is nobody's, but not of a key: a service asks that before it makes an account.
     */
    async guess(
      c: Context,
      who: Principal,
      handle: () => Response | Promise<Response>,
    ): Promise<Response> {
      // Administrators may list all the codes.
      if (who.kind === 'admin') return handle()
      if (who.kind === 'service') {
        const refused = key.refusal(who.id)
        if (refused) return problemResponse(c, refused)
        const response = await handle()
        if (isMiss(c)) await key.spend(who.id)
        return response
      }
      const from = groupOf(c)
      const refused = user.refusal(who.id) ?? address.refusal(from)
      if (refused) return problemResponse(c, refused)
      const turn = guesses.enter(who.id)
      if (turn !== undefined) await turn
      try {
        const meanwhile = user.refusal(who.id) ?? address.refusal(from)
        if (meanwhile) return problemResponse(c, meanwhile)
        const response = await handle()
        if (isMiss(c) || c.get('outcome') === 'user-not-found') {
          lookForProxy(c)
          await Promise.all([user.spend(who.id), address.spend(from)])
        }
        return response
      } finally {
        guesses.leave(who.id)
      }
    },
  }
}

const isMiss = (c: Context) => c.get('outcome') === 'coupon-not-found'

/** E-mail addresses are nobody's business in Redis. */
const digest = (name: string) =>
  createHash('sha256').update(name.toLowerCase()).digest('base64url').slice(0, 22)
