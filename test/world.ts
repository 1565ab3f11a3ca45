import { once } from 'node:events'
import { rmSync } from 'node:fs'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { Redis } from 'ioredis'
import pino from 'pino'
import { type Environment, readConfig } from '../src/config.ts'
import { scratchDir } from '../src/embedded/leftovers.ts'
import { startRedis } from '../src/embedded/redis.ts'
import { openHouse } from '../src/house.ts'
import { createHttpServer } from '../src/http/listener.ts'
import { makeApiKey } from '../src/http/tokens.ts'
import { openQueues } from '../src/queues.ts'
import { startWorker } from '../workers/main.ts'
import { checkContract, declaredRoutes } from './contract.ts'
import { makeDatabase } from './house.ts'
import { makeWire } from './wire.ts'

export type Reply = {
  status: number
  headers: Headers
  // biome-ignore lint/suspicious/noExplicitAny: tests look into whatever came; the contract checks it
  body: any
}
type Ask = { body?: unknown; as?: string; headers?: Record<string, string> }

const secret = 'a secret of at least 32 characters'

const limitNames = [
  'LIMIT_LOGIN_ACCOUNT',
  'LIMIT_LOGIN_ADDRESS',
  'LIMIT_REGISTER_ADDRESS',
  'LIMIT_CODE_USER',
  'LIMIT_CODE_ADDRESS',
  'LIMIT_CODE_KEY',
  'TRUSTED_PROXIES',
  'JWT_SECRET_PREVIOUS',
  'CORS_ORIGINS',
] as const
const looseLimits = {
  LIMIT_LOGIN_ACCOUNT: '1000000/600',
  LIMIT_LOGIN_ADDRESS: '1000000/600',
  LIMIT_REGISTER_ADDRESS: '1000000/600',
  LIMIT_CODE_USER: '1000000/600',
  LIMIT_CODE_ADDRESS: '1000000/600',
  LIMIT_CODE_KEY: '1000000/600',
}

/**
 * The whole service on real servers: a Redis and a database of this test file's own, an API over
 * real sockets and a worker, both in this process.
 */
export async function openWorld({
  shards = 2,
  worker = true,
  waitMs = 2_000,
  managed = false,
  acl = false,
  backlog = 500_000,
  /** For tests of what is refused; the others fail more often than anybody should. */
  limits = looseLimits as Environment,
} = {}) {
  const dir = scratchDir('redis')
  const users = acl ? { api: 'api', worker: 'worker', queue: 'queue', limit: 'limit' } : undefined
  const server = await startRedis({ dir, durable: true, users })
  const { url: direct, drop } = await makeDatabase(shards)
  const wire = await makeWire(direct)
  const log = pino({ level: 'fatal' })
  const settings = {
    REDIS_URL: acl ? server.urlOf('api') : server.url,
    QUEUE_REDIS_URL: acl ? server.urlOf('queue') : undefined,
    DATABASE_URL: wire.url,
    DATABASE_POOL: 10,
    JWT_SECRET: secret,
    DURABILITY_WAIT_MS: waitMs,
    BACKLOG_FACTS: backlog,
    ...readConfig(limitNames, limits),
    LIMIT_REDIS_URL: acl ? server.urlOf('limit') : undefined,
    REDIS_MANAGED: managed ? ('1' as const) : ('0' as const),
  }
  const queues = openQueues(settings.QUEUE_REDIS_URL ?? settings.REDIS_URL)
  const ofWorker = { ...settings, REDIS_URL: acl ? server.urlOf('worker') : server.url }
  const house = await openHouse(settings, queues, log)
  let works = worker ? await startWorker(ofWorker, log) : undefined
  let open = true
  const gates = (async () => {
    while (open) {
      await house.openGates().catch(() => {})
      await sleep(20)
    }
  })()
  const http = createHttpServer(house.app).listen(0, '127.0.0.1')
  await once(http, 'listening')
  const base = `http://127.0.0.1:${(http.address() as AddressInfo).port}`
  const routes = declaredRoutes(house.app)

  /** One request over a real socket. A path that begins with a word is below /api/v1. */
  async function call(
    method: string,
    path: string,
    { body, as, headers }: Ask = {},
  ): Promise<Reply> {
    const full = path.startsWith('/') ? path : `/api/v1/${path}`
    const response = await fetch(base + full, {
      method,
      headers: {
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
        ...(as === undefined ? {} : { authorization: `Bearer ${as}` }),
        ...headers,
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    })
    const text = await response.text()
    const type = response.headers.get('content-type')
    const reply: Reply = {
      status: response.status,
      headers: response.headers,
      body: type?.includes('json') && text !== '' ? JSON.parse(text) : undefined,
    }
    checkContract(routes, method, full.split('?')[0]!, { ...reply, type })
    return reply
  }

  const { accounts, tokens } = house.deps
  let people = 0
  /** A fresh account and its token. */
  async function signUp(role: 'user' | 'viewer' | 'operator' | 'admin' = 'user') {
    const email = `someone-${++people}@example.com`
    const user = await accounts.createUser({ name: 'Someone', email, password: 'password', role })
    if ('problem' in user) throw new Error(user.problem)
    return { id: user.user_id, token: await tokens.issue(user) }
  }

  async function ready(): Promise<void> {
    await until(() => house.place.gates.every((gate) => gate.open), 'all gates are open')
  }
  if (worker) await ready()
  const admin = await signUp('admin')
  const { key, ...stored } = makeApiKey()
  await house.database.query(
    'INSERT INTO api_keys (key_id, name, secret_hash, created_by) VALUES ($1, $2, $3, $4)',
    [stored.key_id, 'test', stored.secret_hash, admin.id],
  )

  /** A book with these codes in stock (`count`: as many generated ones); answers its id. */
  async function makeBook(
    policy: Record<string, unknown> = {},
    codes: string[] | number = [],
  ): Promise<string> {
    const made = await call('POST', 'books', {
      as: admin.token,
      body: { name: 'A book', owner_id: 'owner', ...policy },
    })
    if (made.status !== 201) throw new Error(`no book: ${JSON.stringify(made.body)}`)
    const id: string = made.body.book_id
    const filled =
      typeof codes === 'number'
        ? codes > 0 &&
          (await call('POST', `books/${id}/codes/generate`, {
            as: admin.token,
            body: { count: codes },
          }))
        : codes.length > 0 &&
          (await call('POST', `books/${id}/codes/upload`, { as: admin.token, body: { codes } }))
    if (filled && filled.status !== 200) throw new Error(`no codes: ${JSON.stringify(filled.body)}`)
    return id
  }

  /** Resolves once PostgreSQL holds everything that the journals hold. */
  async function level(ms = 10_000): Promise<void> {
    await until(async () => (await house.deps.durable.barrier()).ok, 'the ledger is level', ms)
  }

  const redis = new Redis(server.url)
  return {
    base,
    call,
    signUp,
    makeBook,
    level,
    ready,
    admin: admin.token,
    adminId: admin.id,
    /** An API key: it acts for any user. */
    service: key,
    redis,
    redisServer: server,
    /** Between everybody and PostgreSQL. */
    wire,
    settings,
    house,
    database: house.database,
    /** What the worker's /metrics would tell. */
    workerMetrics: () => works?.sources ?? [],
    flushes: () => works?.flushes ?? { nudge: 0, sweep: 0 },
    async stopWorker() {
      await works?.stop()
      works = undefined
    },
    async startWorker() {
      works ??= await startWorker(ofWorker, log)
    },
    async close() {
      open = false
      http.close()
      http.closeAllConnections()
      await gates
      await works?.stop()
      await queues.close()
      redis.disconnect()
      await house.close()
      wire.close()
      await drop()
      await server.stop()
      rmSync(dir, { recursive: true, force: true })
    },
  }
}
export type World = Awaited<ReturnType<typeof openWorld>>

/** Waits until `holds`, looking often; throws with `what` when it does not within `ms`. */
export async function until(
  holds: () => boolean | Promise<boolean>,
  what: string,
  ms = 15_000,
): Promise<void> {
  const deadline = performance.now() + ms
  while (!(await holds())) {
    if (performance.now() > deadline) throw new Error(`not within ${ms} ms: ${what}`)
    await sleep(10)
  }
}
