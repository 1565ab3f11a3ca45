import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createUser, type NewUser, openAccounts } from '../ledger/accounts.ts'
import { type Database, openDatabase } from '../ledger/database.ts'

/** Accounts, books, pools and three coupons to play with; only ever in the private PostgreSQL. */
export const adminLogin = { name: 'Admin', email: 'admin@example.com', password: 'admin123' }
export const demoPassword = 'demo123'
export const demoLogins = ['Alice', 'Bob', 'Charlie', 'Diana', 'Eve'].map((name) => ({
  name,
  email: `${name.toLowerCase()}@example.com`,
}))

/** `forAlice`: how many of its coupons Alice holds. */
const books = [
  { name: 'Summer Sale', codes: 50, pattern: 'SUMMER-{}-2026', forAlice: 2 },
  { name: 'VIP Access', codes: 20, pattern: 'VIP-{}', forAlice: 1 },
  { name: 'Free Shipping', codes: 100, pattern: 'SHIP-{}', forAlice: 0 },
  { name: 'Beta Testers', codes: 30, pattern: 'BETA-{}-THANKS', forAlice: 0 },
]
/** Names of the accounts in each. */
const pools = [
  { name: 'VIP Customers', users: ['Alice', 'Bob'] },
  { name: 'Beta Testers', users: ['Charlie', 'Diana', 'Eve'] },
  { name: 'Newsletter', users: demoLogins.map(({ name }) => name) },
]
const expiryDays = 90
const dayMs = 86_400_000

type Fields = Record<string, unknown>

async function call(method: string, url: string, token?: string, body?: Fields): Promise<Fields> {
  const response = await fetch(url, {
    method,
    headers: {
      ...(token ? { authorization: `Bearer ${token}` } : {}),
      ...(body ? { 'content-type': 'application/json' } : {}),
    },
    body: body ? JSON.stringify(body) : undefined,
    signal: AbortSignal.timeout(15_000),
  })
  const text = await response.text()
  if (response.ok) return JSON.parse(text) as Fields
  throw new Error(`demo data: ${method} ${url} answered ${response.status}: ${text}`)
}

/** The id of the account; an earlier start may have made it. */
async function account(database: Database, wanted: NewUser): Promise<string> {
  const made = await createUser(database, wanted)
  if ('user_id' in made) return made.user_id
  const present = await openAccounts(database).userByEmail(wanted.email)
  if (!present) throw new Error(`demo data: ${wanted.email}: ${JSON.stringify(made)}`)
  return present.user_id
}

/** Every part asks first what is there: a start that was killed is completed by the next. */
export async function seedDemo(dir: string, http: string, databaseUrl: string): Promise<string> {
  const marker = join(dir, 'demo.done')
  if (existsSync(marker)) return 'made at an earlier start'
  const v1 = `${http}/api/v1`
  const database = openDatabase(databaseUrl, 2, 'demo')
  try {
    const owner = await account(database, { ...adminLogin, role: 'admin' })
    const users = []
    for (const login of demoLogins) {
      users.push(await account(database, { ...login, password: demoPassword }))
    }
    const { email, password } = adminLogin
    const login = await call('POST', `${v1}/auth/login`, undefined, { email, password })
    await fillBooks(v1, `${login.access_token}`, owner, users[0]!)
    await makePools(v1, `${login.access_token}`, users)
  } finally {
    await database.end()
  }
  writeFileSync(marker, `${new Date().toISOString()}\n`)
  return `${books.length} books, ${pools.length} pools, ${demoLogins.length + 1} accounts`
}

async function fillBooks(v1: string, token: string, owner: string, alice: string) {
  const get = (path: string) => call('GET', `${v1}${path}`, token)
  const post = (path: string, body: Fields) => call('POST', `${v1}${path}`, token, body)
  const present = (await get('/books?limit=100')).data as Fields[]
  for (const { name, codes, pattern, forAlice } of books) {
    const book =
      present.find((one) => one.name === name) ??
      (await post('/books', {
        name,
        owner_id: owner,
        code_pattern: pattern,
        max_assignments_per_user: 2,
        expiration_date: new Date(Date.now() + expiryDays * dayMs).toISOString(),
      }))
    const missing = codes - Number(book.total_code_count)
    if (missing > 0)
      await post(`/books/${book.book_id}/codes/generate`, { count: missing, pattern })

    if (forAlice === 0) continue
    const held = await get(`/users/${alice}/coupons?book_id=${book.book_id}`)
    const count = forAlice - Number(held.total_count)
    if (count > 0) {
      await post('/coupons/assign', { book_id: book.book_id, user_id: alice, count })
    }
  }
}

/** `users`: the ids of the accounts, in the order of `demoLogins`. */
async function makePools(v1: string, token: string, users: string[]) {
  const present = (await call('GET', `${v1}/pools?limit=100`, token)).data as Fields[]
  for (const { name, users: members } of pools) {
    if (present.some((one) => one.name === name)) continue
    const user_ids = users.filter((_, u) => members.includes(demoLogins[u]!.name))
    await call('POST', `${v1}/pools`, token, { name, user_ids })
  }
}
