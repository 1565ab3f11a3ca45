/** What an API key may be made for. A route that reads needs `read` unless it says otherwise. */
export const scopes = ['assign', 'lock', 'redeem', 'rollback', 'books', 'users', 'read'] as const
export type Scope = (typeof scopes)[number]
/** Requests a second, by scope; `all`: of all together; `routes`: of single ones, as `POST /coupons/assign`. */
export type KeyLimits = { readonly [scope in Scope | 'all']?: number | undefined } & {
  readonly routes?: { readonly [route: string]: number } | undefined
}
