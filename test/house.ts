import { randomBytes } from 'node:crypto'
import pg from 'pg'
import { inject } from 'vitest'
import { createApp, type Deps } from '../src/app.ts'
import { createAddressOf } from '../src/http/address.ts'
import { openGuard } from '../src/http/guard.ts'
import { openMeters } from '../src/http/meter.ts'
import { createPrincipals } from '../src/http/principal.ts'
import { createTokens } from '../src/http/tokens.ts'
import { openAccounts } from '../src/ledger/accounts.ts'
import { openDatabase } from '../src/ledger/database.ts'
import { listUsers } from '../src/ledger/users.ts'
import { openLimits, readRule } from '../src/limits.ts'
import { openLog } from '../src/log.ts'
import {
  changeAccount,
  createAccount,
  deleteAccount,
  replacePassword,
} from '../src/ops/accounts.ts'
import { createKey, revokeKey } from '../src/ops/keys.ts'
import type { OperatorVerbs } from '../src/ops/open.ts'
import { checkContract, declaredRoutes } from './contract.ts'
import { makeWire } from './wire.ts'

/** Runs statements over a connection of their own. */
async function run(connectionString: string, ...statements: string[]): Promise<void> {
  const client = new pg.Client({ connectionString })
  await client.connect()
  for (const sql of statements) await client.query(sql)
  await client.end()
}

/** A fresh, migrated database of this test file's own: a copy of what test/servers.ts has migrated. */
export async function makeDatabase(shards = 4): Promise<{ url: string; drop(): Promise<void> }> {
  const admin = inject('postgres')
  const name = `t_${randomBytes(6).toString('hex')}`
  await run(admin, `CREATE DATABASE ${name} TEMPLATE migrated`)
  const url = new URL(admin)
  url.pathname = name
  // Another installation than the one it is a copy of.
  await run(
    url.href,
    `UPDATE settings SET value = to_jsonb(gen_random_uuid()::text) WHERE name = 'installation'`,
    `INSERT INTO shards (shard) SELECT generate_series(1, ${shards - 1})`,
  )
  return { url: url.href, drop: () => run(admin, `DROP DATABASE ${name} WITH (FORCE)`) }
}

type Call = {
  body?: unknown
  raw?: string | Uint8Array<ArrayBuffer> | ReadableStream
  token?: string
  headers?: Record<string, string>
}
// biome-ignore lint/suspicious/noExplicitAny: tests look into whatever came; the contract checks it
export type Reply = { status: number; headers: Headers; text: string; body: any }

/** Stands for a part that a test without Redis does not have: it may be passed on, never used. */
const absent = (name: string): object =>
  new Proxy(() => {}, {
    get: (_, member) => (member === 'then' ? undefined : absent(`${name}.${String(member)}`)),
    apply: () => {
      throw new Error(`${name} was called in a test that has no Redis`)
    },
  })

/** These parts, and for the others what stands for them. */
const withAbsent = <T extends object>(parts: Partial<T>, name = ''): T =>
  new Proxy(parts, {
    get: (known, member) => known[member as keyof T] ?? absent(`${name}${String(member)}`),
  }) as T

const loose = (name: string) => readRule(name, '1000000/600')
/** For tests that fail more often than anybody should. */
const looseRules = {
  loginAccount: loose('login-account'),
  loginAddress: loose('login-address'),
  registerAddress: loose('register-address'),
  codeUser: loose('code-user'),
  codeAddress: loose('code-address'),
  codeKey: loose('code-key'),
}

/** The API over a real PostgreSQL and without Redis: accounts, keys, and the HTTP skeleton. */
export async function openHouse(options: { now?: () => number; log?: string[] } = {}) {
  const { url, drop } = await makeDatabase()
  const wire = await makeWire(url)
  const database = openDatabase(wire.url, 4, 'test')
  const accounts = openAccounts(database)
  const tokens = createTokens('a secret of at least 32 characters', options.now)
  const principals = createPrincipals({ accounts, tokens, now: options.now })
  const addressOf = createAddressOf([])
  const lines = options.log ?? []
  const keys: Partial<OperatorVerbs> = {
    createKey: (...args) => createKey({ database }, ...args),
    revokeKey: (...args) => revokeKey({ database }, ...args),
    listAccounts: (filter) => listUsers(database, filter),
    createAccount: (...args) => createAccount({ database }, ...args),
    changeAccount: (...args) => changeAccount({ database }, ...args),
    deleteAccount: (...args) => deleteAccount({ database }, ...args),
    replacePassword: (...args) => replacePassword({ database }, ...args),
  }
  const deps = withAbsent<Deps>({
    ops: withAbsent(keys, 'ops.'),
    accounts,
    tokens,
    principals,
    guard: openGuard(openLimits(undefined).counter, looseRules, addressOf, options.now),
    addressOf,
    log: openLog('test', 'info', { write: (text) => void lines.push(text) }),
    readiness: async () => ({ ready: true, redis: true, postgres: true, reason: null, shards: [] }),
    meters: openMeters(),
    metrics: async () => '',
    version: { name: 'stampede', version: '0.0.0', node: process.version, commit: null },
  })
  const app = createApp(deps)
  const routes = declaredRoutes(app)

  async function call(method: string, path: string, { body, raw, token, headers }: Call = {}) {
    const response = await app.request(path, {
      method,
      headers: {
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
        ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
        ...headers,
      },
      body: body === undefined ? raw : JSON.stringify(body),
    })
    const text = await response.text()
    const type = response.headers.get('content-type')
    const reply: Reply = {
      status: response.status,
      headers: response.headers,
      text,
      body: type?.includes('json') && text !== '' ? JSON.parse(text) : undefined,
    }
    if (method !== 'HEAD') checkContract(routes, method, path.split('?')[0]!, { ...reply, type })
    return reply
  }

  let users = 0
  /** A fresh account and its token. */
  async function signUp(role: 'user' | 'admin' = 'user') {
    const email = `someone-${++users}@example.com`
    const user = await accounts.createUser({ name: 'Someone', email, password: 'password', role })
    if ('problem' in user) throw new Error(user.problem)
    return { ...user, token: await tokens.issue(user) }
  }

  const close = async () => {
    wire.close()
    await database.end()
    await drop()
  }
  return { app, deps, database, accounts, tokens, principals, url, wire, call, signUp, close }
}
export type House = Awaited<ReturnType<typeof openHouse>>
