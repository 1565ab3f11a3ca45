/** sale.sh through the typed client: every path, body and answer is checked by the compiler. */
import { randomUUID } from 'node:crypto'
import { parseResponse } from 'hono/client'
import { createClient } from 'stampede/client'

const { API = 'http://127.0.0.1:8000' } = process.env
const { ADMIN_EMAIL = 'admin@example.com', ADMIN_PASSWORD = 'admin123' } = process.env

// parseResponse gives the body of an answer, and throws where it is a refusal.
const { access_token } = await parseResponse(
  createClient(API).auth.login.$post({ json: { email: ADMIN_EMAIL, password: ADMIN_PASSWORD } }),
)
const admin = createClient(API, { token: access_token })

// A book with a policy, and codes in stock: a hundred that are drawn at random, one of your own.
const { book_id } = await parseResponse(
  admin.books.$post({
    json: {
      name: 'Black Friday',
      owner_id: 'shop',
      max_assignments_per_user: 2,
      lock_seconds: 120,
    },
  }),
)
const book = admin.books[':book_id']
const param = { book_id }
await parseResponse(book.codes.generate.$post({ param, json: { count: 100, pattern: 'BF-{}' } }))
const mine = `BF-OWN-${Date.now()}`
await parseResponse(book.codes.upload.$post({ param, json: { codes: [mine] } }))

// The shop's server acts for its customers, with a key of its own.
const { key, key_id } = await parseResponse(admin['api-keys'].$post({ json: { name: 'shop' } }))
const { coupons, redemptions } = createClient(API, { token: key })
const user_id = 'customer-1'

// Whoever comes gets a code from stock, and under the same key the same one once more.
const order = { headers: { 'idempotency-key': `order-${randomUUID()}` } }
const assign = () => parseResponse(coupons.assign.$post({ json: { book_id, user_id } }, order))
const assigned = await assign()
const code = assigned.coupons[0]!.code
console.log('assigned', code, 'and again', (await assign()).coupons[0]!.code)
await parseResponse(coupons.assign[':code'].$post({ param: { code: mine }, json: { user_id } }))

// At the till: lock it while the customer pays.
const { lock_token } = await parseResponse(
  coupons.lock[':code'].$post({ param: { code }, json: { user_id } }),
)

// A refusal is an answer whose `code` says which; the compiler knows those of this route.
const hasty = await coupons.redeem[':code'].$post({ param: { code }, json: { user_id } })
if (!hasty.ok) {
  const problem = await hasty.json()
  switch (problem.code) {
    case 'coupon-locked':
      console.log('locked until', problem.locked_until)
      break
    default:
      throw new Error(problem.detail)
  }
}

// Then redeem it with the token of the lock.
const { redemption_id } = await parseResponse(
  coupons.redeem[':code'].$post({
    param: { code },
    json: { user_id, lock_token, metadata: { order: 4711 } },
  }),
)

// The order is cancelled: the redemption is rolled back, once.
await parseResponse(redemptions[':redemption_id'].rollback.$post({ param: { redemption_id } }))

// The numbers, and the end of key and book.
console.log(await parseResponse(book.stats.$get({ param })))
const history = await parseResponse(
  book['redemption-history'].$get({ param, query: { limit: '10' } }),
)
console.log('rolled back at', history.data[0]!.rolled_back_at)
await parseResponse(admin['api-keys'][':key_id'].$delete({ param: { key_id } }))
await parseResponse(book.$delete({ param, query: { reason: 'over' } }))
