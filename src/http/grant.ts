import { LRUCache } from 'lru-cache'
import type { KeyLimits, Scope } from '../keys.ts'
import { type Problem, problem } from '../problems.ts'
import { tooMany } from './limit.ts'

/** What PostgreSQL says of a key: null where it may all that a service may, as often as it likes. */
export type Granted = { scopes: Scope[] | null; limits: KeyLimits | null }

/** A second's worth of requests, which fills up as time goes by. Counted in this process alone. */
class Pace {
  readonly #name: string
  readonly #perSecond: number
  readonly #now: () => number
  #left: number
  #at: number

  constructor(name: string, perSecond: number, now: () => number) {
    this.#name = name
    this.#perSecond = perSecond
    this.#now = now
    this.#left = perSecond
    this.#at = now()
  }

  refusal(): Problem | undefined {
    const at = this.#now()
    this.#left = Math.min(
      this.#perSecond,
      this.#left + (Math.max(0, at - this.#at) * this.#perSecond) / 1000,
    )
    this.#at = at
    if (this.#left < 1) return tooMany({ name: this.#name, points: this.#perSecond, seconds: 1 }, 1)
    this.#left--
    return undefined
  }
}

/** What one key may do, and how fast. Keys without scopes and limits have none. */
export class Grant {
  readonly #scopes: ReadonlySet<Scope> | null
  readonly #all: Pace | undefined
  readonly #each: ReadonlyMap<string, Pace>
  readonly #routes: ReadonlyMap<string, Pace>

  constructor({ scopes: named, limits }: Granted, now: () => number) {
    this.#scopes = named && new Set(named)
    const { all, routes = {}, ...each } = limits ?? {}
    type PerSecond = { readonly [its: string]: number | undefined }
    const paces = (of: PerSecond, name: (its: string) => string) =>
      new Map(Object.entries(of).map(([its, most]) => [its, new Pace(name(its), most!, now)]))
    this.#all = all === undefined ? undefined : new Pace('key', all, now)
    this.#each = paces(each, (scope) => `key-${scope}`)
    this.#routes = paces(routes, (route) => `key ${route}`)
  }

  /** What its bearer hears who may not do what this scope is for. Without a scope it is for whole keys. */
  outOfScope(scope: Scope | undefined): Problem | undefined {
    if (this.#scopes === null || (scope !== undefined && this.#scopes.has(scope))) return undefined
    const needs = scope === undefined ? 'an API key without scopes' : `an API key for \`${scope}\``
    return problem('forbidden', { needs })
  }

  /**
   * What its bearer hears instead of a route's answer. A route without a scope is for whole keys.
   * `route`: what /metrics calls it.
   */
  refusal(scope: Scope | undefined, route: string): Problem | undefined {
    return (
      this.outOfScope(scope) ??
      this.#all?.refusal() ??
      (scope && this.#each.get(scope)?.refusal()) ??
      this.#routes.get(route)?.refusal()
    )
  }
}

const remembered = 10_000

/** The grants of keys in use: the same one as long as nothing has changed, or its pace would begin anew. */
export function openGrants(now: () => number) {
  const known = new LRUCache<string, { text: string; grant: Grant }>({ max: remembered })
  return (id: string, granted: Granted): Grant | undefined => {
    if (granted.scopes === null && granted.limits === null) return undefined
    const text = JSON.stringify([granted.scopes, granted.limits])
    const its = known.get(id)
    if (its?.text === text) return its.grant
    const grant = new Grant(granted, now)
    known.set(id, { text, grant })
    return grant
  }
}
