import type { Result, Router } from 'hono/router'
import { RegExpRouter } from 'hono/router/reg-exp-router'
import { SmartRouter } from 'hono/router/smart-router'
import { TrieRouter } from 'hono/router/trie-router'

/**
 * Hono's fast router cannot tell /users/search/by-email from /users/:id/coupons, and Hono would
 * silently take the slow one for the whole app. Here a path without parameters is looked up, and
 * wins; only the others are matched, per method, by the fast router.
 */
export class HouseRouter<T> implements Router<T> {
  name = 'HouseRouter'
  #plain: Record<string, Record<string, Result<T>>> = {}
  #patterns: Record<string, SmartRouter<T>> = {}

  add(method: string, path: string, handler: T): void {
    if (method === 'ALL' || path.includes('*'))
      throw new Error(`${method} ${path}: there is no middleware here, see route.ts`)
    // A parameter begins a part of the path; elsewhere a colon is a colon, as in assign:batch.
    if (path.includes('/:')) {
      this.#patterns[method] ??= new SmartRouter({
        routers: [new RegExpRouter(), new TrieRouter()],
      })
      this.#patterns[method].add(method, path, handler)
      return
    }
    this.#plain[method] ??= Object.create(null) as Record<string, Result<T>>
    this.#plain[method][path] ??= [[[handler, {}]]]
  }

  match(method: string, path: string): Result<T> {
    return this.#plain[method]?.[path] ?? this.#patterns[method]?.match(method, path) ?? nothing()
  }

  /** Which routers do the matching: a test insists that all are the fast one. */
  get inUse(): string[] {
    return Object.values(this.#patterns).map(({ name }) => name)
  }
}

const nothing = <T>(): Result<T> => [[]]
