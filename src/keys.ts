/** What an API key may be made for. A route that reads needs `read` unless it says otherwise. */
export const scopes = ['assign', 'lock', 'redeem', 'rollback', 'books', 'users', 'read'] as const
export type Scope = (typeof scopes)[number]
/** Requests a second; `all`: of all scopes together. */
export type KeyLimits = { readonly [scope in Scope | 'all']?: number | undefined }
