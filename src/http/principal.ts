import { LRUCache } from 'lru-cache'
import type { Accounts } from '../ledger/accounts.ts'
import { type Problem, problem } from '../problems.ts'
import { type Credential, createConfirmer, unauthenticated } from './confirm.ts'
import type { Context, Principal } from './context.ts'
import { readApiKey, type Tokens } from './tokens.ts'

/**
 * Tells who sent an Authorization header. The signature or secret of a credential is checked when
 * it is first seen; whether it still stands (account active, key not revoked) is asked of
 * PostgreSQL while it is in use. In between the answer comes from memory, at once, because this
 * stands before every request of the house.
 */
export type Principals = {
  of(authorization: string | null): Principal | Problem | Promise<Principal | Problem>
  /** Forgets what is remembered of this account or key: its next use is checked anew. */
  forget(id: string): void
}

const remembered = 10_000
/** In use, a credential is checked again after this, in the background, … */
const refreshMs = 500
/** … so that nobody waits; one that was not confirmed for this long does wait. */
const trustMs = 1_000
/** With PostgreSQL away, a credential that it confirmed this recently stays usable. */
const outageMs = 5 * 60_000
const tokenMax = 2_048

const notReady = problem('not-ready')

type Options = {
  accounts: Pick<Accounts, 'standing' | 'noteUse'>
  tokens: Tokens
  now?: () => number
}

export function createPrincipals({ accounts, tokens, now = Date.now }: Options): Principals {
  const known = new LRUCache<string, Credential>({ max: remembered })
  const confirmer = createConfirmer(accounts, now)

  /** A header that is not in memory: its own proof first, then what PostgreSQL says. */
  async function meet(header: string): Promise<Principal | Problem> {
    const credential = await prove(header, tokens)
    if (credential === null) return unauthenticated
    if (!(await confirmer.check(credential))) return notReady
    // An invented key is not remembered, or a flood of them would wash out all the others.
    if (credential.verdict !== unauthenticated) known.set(header, credential)
    return credential.verdict
  }

  async function confirm(credential: Credential): Promise<Principal | Problem> {
    const answered = await confirmer.check(credential)
    if (!answered && now() - credential.checkedAt > outageMs) return notReady
    return credential.verdict
  }

  return {
    of(authorization) {
      if (authorization === null) return unauthenticated
      const credential = known.get(authorization)
      if (credential === undefined) return meet(authorization)
      const at = now()
      if (at >= credential.expiresAt) {
        known.delete(authorization)
        return unauthenticated
      }
      const age = at - credential.checkedAt
      if (age < refreshMs) return credential.verdict
      if (age < trustMs || (age < outageMs && confirmer.away())) {
        void confirmer.check(credential)
        return credential.verdict
      }
      return confirm(credential)
    },
    forget(id) {
      for (const [header, credential] of known.entries())
        if (credential.id === id) known.delete(header)
    },
  }
}

const loopback = /^(127\.|::1$|::ffff:127\.)/
/** Whoever has one of these was sent on by a proxy, which may well be on this machine. */
const passedOn = ['forwarded', 'x-forwarded-for', 'x-real-ip', 'via']

/** Asked by a program on this machine itself, such as its Prometheus or the operator's curl. */
export function isOfThisMachine(c: Context): boolean {
  const address = c.env?.incoming?.socket.remoteAddress
  if (address === undefined || !loopback.test(address)) return false
  return !passedOn.some((name) => c.req.raw.headers.has(name))
}

const scheme = /^Bearer +([^\s]+)$/i

async function prove(header: string, tokens: Tokens): Promise<Credential | null> {
  const token = scheme.exec(header)?.[1]
  if (token === undefined || token.length > tokenMax) return null
  const unchecked = {
    checkedAt: Number.NEGATIVE_INFINITY,
    verdict: unauthenticated,
    check: null,
    notedAt: Number.NEGATIVE_INFINITY,
    generation: 0,
  }
  const key = readApiKey(token)
  if (key !== null) return { kind: 'service', ...key, expiresAt: Infinity, ...unchecked }
  const claims = await tokens.verify(token)
  if (claims === null) return null
  const { sub: id, expiresAt, generation } = claims
  return { ...unchecked, kind: 'user', id, secret: '', expiresAt, generation }
}
