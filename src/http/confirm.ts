import { setTimeout as sleep } from 'node:timers/promises'
import { deadline } from '../deadline.ts'
import type { Accounts, Standing } from '../ledger/accounts.ts'
import { type Problem, problem } from '../problems.ts'
import type { Principal } from './context.ts'
import { openGrants } from './grant.ts'
import { secretFits } from './tokens.ts'

/** A credential whose own proof held: what it is, and what PostgreSQL last said of it. */
export type Credential = {
  kind: 'user' | 'service'
  id: string
  secret: string
  /** Of a user's token: see tokens.ts. */
  generation: number
  expiresAt: number
  /** When the question was asked that `verdict` answers. */
  checkedAt: number
  verdict: Principal | Problem
  /** The check under way: true once PostgreSQL has answered, false if it did not in time. */
  check: Promise<boolean> | null
  /** Of a key: when its use was last noted. */
  notedAt: number
}

export const unauthenticated = problem('unauthenticated')
const inactive = problem('account-inactive')

/** Whoever waits for PostgreSQL waits this long, … */
const patienceMs = 1_000
/** … a question without an answer is given up after this (its statement timeout is shorter), … */
const giveUpMs = 20_000
/** … and a refused connection is not tried again at once. */
const pauseMs = 250

/** The use of a key is noted this often. */
const noteMs = 60_000

export type Confirmer = { check(credential: Credential): Promise<boolean>; away(): boolean }

/**
 * Asks PostgreSQL whether credentials stand. One question is under way at a time and all that come
 * up meanwhile go into the next, so that ten thousand users cost a few queries a second.
 */
export function createConfirmer(
  accounts: Pick<Accounts, 'standing' | 'noteUse'>,
  now: () => number,
): Confirmer {
  const grantOf = openGrants(now)
  let waiting: Credential[] | null = null
  let done: Promise<boolean> = Promise.resolve(true)
  let underWay: Promise<unknown> = Promise.resolve()
  let isAway = false

  async function ask(credentials: Credential[]): Promise<boolean> {
    const askedAt = now()
    const ids = (kind: Credential['kind']) =>
      credentials.filter((one) => one.kind === kind).map((one) => one.id)
    const standing = await accounts.standing(ids('user'), ids('service')).catch(() => null)
    isAway = standing === null
    if (standing === null) return false
    for (const credential of credentials) {
      credential.verdict = judge(credential, standing, grantOf)
      credential.checkedAt = askedAt
    }
    noteUse(credentials, askedAt)
    return true
  }

  /** Nobody waits for it. */
  function noteUse(credentials: Credential[], at: number): void {
    const used = credentials.filter(
      ({ kind, verdict, notedAt }) =>
        kind === 'service' && !('problem' in verdict) && at - notedAt >= noteMs,
    )
    if (used.length === 0) return
    for (const credential of used) credential.notedAt = at
    // A note that is lost costs a minute of accuracy.
    accounts.noteUse(used.map(({ id }) => id)).catch(() => {})
  }

  function open(credentials: Credential[]): Promise<boolean> {
    const answered = underWay.then(() => {
      waiting = null
      const asked = ask(credentials)
      const pause = asked.then((ok) => (ok ? undefined : sleep(pauseMs, undefined, { ref: false })))
      underWay = Promise.race([pause, sleep(giveUpMs, undefined, { ref: false })])
      return asked
    })
    const { promise, resolve } = Promise.withResolvers<boolean>()
    const settled = deadline(patienceMs, () => {
      isAway = true
      resolve(false)
    })
    const clear = () => {
      for (const credential of credentials) credential.check = null
    }
    void answered.then((ok) => {
      settled()
      resolve(ok)
      clear() // also those who came after the patience of the others was over
    })
    return promise.finally(clear)
  }

  return {
    check(credential) {
      if (credential.check !== null) return credential.check
      if (waiting === null) {
        waiting = []
        done = open(waiting)
      }
      waiting.push(credential)
      credential.check = done
      return done
    },
    away: () => isAway,
  }
}

function judge(
  credential: Credential,
  standing: Standing,
  grantOf: ReturnType<typeof openGrants>,
): Principal | Problem {
  const { kind, id } = credential
  if (kind === 'service') {
    const key = standing.keys.get(id)
    if (key === undefined || key.revoked_at !== null) return unauthenticated
    if (!secretFits(credential.secret, key.secret_hash)) return unauthenticated
    return { kind, id, actor: `key:${id}`, grant: grantOf(id, key) }
  }
  const account = standing.users.get(id)
  if (account === undefined) return unauthenticated
  if (!account.is_active) return inactive
  if (account.token_generation !== credential.generation) return unauthenticated
  return { kind: account.role, id, actor: `user:${id}`, grant: undefined }
}
