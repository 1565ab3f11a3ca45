import { hc } from 'hono/client'
import type { Api } from './app.ts'

export type { Api, Endpoints } from './app.ts'

/**
 * A client of the routes below /api/v1, whose types are those that the server declares. Of the
 * server it takes types alone, so that nothing else comes along into a bundle.
 *
 *   const shop = createClient('http://127.0.0.1:8000', { token: key })
 *   const response = await shop.coupons.lock[':code'].$post(
 *     { param: { code }, json: { user_id: 'customer-1' } },
 *     { headers: { 'idempotency-key': order, durability: 'postgres' } },
 *   )
 *   if (response.ok) {
 *     const { lock_token } = await response.json()
 *   } else {
 *     const { code, detail } = await response.json()
 *   }
 *
 * A path is walked by its segments, its parameters too (`[':code']`), and ends with the method. Then
 * come `param`, `query` (texts, as they stand in a URL) and `json`, and second what belongs to this
 * one request: headers, or with `init` a body that is no JSON. hc writes a `param` into the URL as it
 * is: encodeURIComponent whatever may have other characters than letters, digits, `-` and `_`.
 *
 * A refusal is an answer, too, and is not thrown: a problem document whose `code` is one that this
 * route may give. `parseResponse` of hono/client gives the body alone, and throws refusals.
 */
export function createClient(base: string, { token }: { token?: string } = {}) {
  return hc<Api>(`${base.replace(/\/+$/, '')}/api/v1`, {
    headers: token === undefined ? {} : { authorization: `Bearer ${token}` },
  })
}
