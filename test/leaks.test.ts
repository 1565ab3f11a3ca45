import { Redis } from 'ioredis'
import { expect, test } from 'vitest'
import { freePort } from '../src/embedded/ports.ts'
import { createTokens } from '../src/http/tokens.ts'
import { openAccounts } from '../src/ledger/accounts.ts'
import { openDatabase } from '../src/ledger/database.ts'
import { openCollector } from './collector.ts'
import { openProcesses } from './processes.ts'
import { until } from './world.ts'

/**
 * Codes, tokens, keys and passwords are worth money to whoever reads them. A small run of real processes
 * at the most talkative level, with errors in it, and a look at everything that it left behind.
 */
const password = 'nobody-guesses-this-horse'

test('leaks  there are none: nothing secret in logs, metrics, traces, jobs, queues and records', async () => {
  let logs = ''
  const town = await openProcesses({ shards: 2, told: (text) => (logs += text) })
  const database = openDatabase(town.databaseUrl, 4, 'test')
  const redis = new Redis(town.redisUrl)
  const collector = await openCollector()
  try {
    const account = await openAccounts(database).createUser({
      ...{ name: 'Admin', email: 'admin@example.com', password, role: 'admin' },
    })
    if ('problem' in account) throw new Error(account.problem)
    const admin = await createTokens(town.secret).issue(account)
    const metricsPort = await freePort()
    const env = { LOG_LEVEL: 'trace', OTEL_EXPORTER_OTLP_ENDPOINT: collector.url }
    const worker = town.startWorker({ ...env, METRICS_PORT: String(metricsPort) })
    const { base, ...api } = await town.startApi(env)

    const secrets: Record<string, string> = { password, admin, secret: town.secret }
    async function call(method: string, path: string, body?: unknown, as = admin) {
      const headers = { 'content-type': 'application/json', authorization: `Bearer ${as}` }
      const sent = { method, headers, ...(body ? { body: JSON.stringify(body) } : {}) }
      const response = await fetch(`${base}/api/v1/${path}`, sent)
      // biome-ignore lint/suspicious/noExplicitAny: whatever came
      return { status: response.status, body: (await response.json().catch(() => ({}))) as any }
    }
    const fine = async (...args: Parameters<typeof call>) => {
      const { status, body } = await call(...args)
      expect(status, `${args[0]} ${args[1]}`).toBeLessThan(300)
      return body
    }

    const { key } = await fine('POST', 'api-keys', { name: 'shop', reason: 'a test' })
    secrets.key = key.slice(20)
    const login = { email: 'admin@example.com', password }
    secrets.token = (await fine('POST', 'auth/login', login)).access_token
    const wrong = { ...login, password: 'wrong-guess-of-a-horse' }
    secrets.wrong = wrong.password
    expect((await call('POST', 'auth/login', wrong)).status).toBe(401)
    const user = { user_id: 'buyer' }
    const { book_id } = await fine('POST', 'books', { name: 'Sale', owner_id: 'o' }, key)
    const codes = Array.from({ length: 20 }, (_, i) => `LEAK-${i}-Q7XK2M`)
    await fine('POST', `books/${book_id}/codes/upload`, { codes }, key)
    for (const [i, code] of codes.entries()) secrets[`code ${i}`] = code
    const { coupons } = await fine('POST', 'coupons/assign', { book_id, ...user, count: 3 }, key)
    const [first, second] = coupons.map(({ code }: { code: string }) => code)
    const locked = await fine('POST', `coupons/lock/${first}`, user, key)
    secrets.lock = locked.lock_token
    const { lock_token } = locked
    await fine('POST', `coupons/redeem/${first}`, { ...user, lock_token, metadata: {} }, key)
    await fine('POST', `coupons/release/${second}`, undefined)
    for (let i = 0; i < 12; i++) {
      secrets[`guess ${i}`] = `GUESSED-${i}-Q7XK2M`
      expect((await call('POST', `coupons/lock/GUESSED-${i}-Q7XK2M`, user, key)).status).toBe(404)
    }
    // Files, streams, batches and distributions carry codes by the thousand, and a path may have one.
    const rows = Array.from({ length: 5 }, (_, i) => `FILE-${i}-Q7XK2M`)
    for (const [i, code] of rows.entries()) secrets[`row ${i}`] = code
    const authorization = `Bearer ${key}`
    const sent = await fetch(`${base}/api/v1/books/${book_id}/imports?on_error=keep`, {
      method: 'POST',
      headers: { authorization, 'content-type': 'text/csv' },
      body: `code,note\n${rows.map((code) => `${code},\n${code},twice\n`).join('')}`,
    })
    expect(sent.status).toBe(202)
    const { job_id } = (await sent.json()) as { job_id: string }
    const read = async (path: string) => {
      const response = await fetch(`${base}/api/v1/${path}`, { headers: { authorization } })
      expect(response.status, path.split('?')[0]).toBe(200)
      return response.text()
    }
    // Its events end with the job.
    expect(await read(`jobs/${job_id}/events`)).toContain('"state":"done"')
    expect(await read(`imports/${job_id}/report`)).toContain(rows[0])
    expect(await read(`books/${book_id}/export/coupons`)).toContain(rows[4])
    expect(await read(`books/${book_id}/export/coupons?after=${rows[0]}`)).toContain(rows[4])
    const items = [
      { book_id, user_id: 'ann', key: 'a-key-of-an-item' },
      { book_id, user_id: 'ben' },
    ]
    const batch = await fine('POST', 'coupons/assign:batch', { items }, key)
    expect(batch).toMatchObject({ assigned_count: 2 })
    const pool = { name: 'A pool', user_ids: ['cyd', 'dan'] }
    const { pool_id } = await fine('POST', 'pools', pool, key)
    const share = { book_id, mode: 'equal', coupons_per_user: 1 }
    const given = await fine('POST', `pools/${pool_id}/distribute`, share, key)
    expect(given).toMatchObject({ total_assigned: 2 })
    const job = await fine('POST', `books/${book_id}/codes/generate`, { count: 11_000 }, key)
    const check = await fine('POST', 'ops/reconcile', { reason: 'a test' })
    await until(async () => {
      const states = await Promise.all(
        [job, check].map(async ({ job_id }) => (await call('GET', `jobs/${job_id}`)).body.state),
      )
      return states.every((state) => state === 'done')
    }, 'the jobs are done')

    // What is thrown carries parameters: a password, a code.
    for (const [table, method, path, body] of [
      ['users', 'POST', 'auth/register', { name: 'x', email: 'x@example.com', password }],
      ['codes', 'POST', 'coupons/lock/GUESSED-99-Q7XK2M', user],
    ] as const) {
      await database.query(`ALTER TABLE ${table} RENAME TO gone`)
      expect((await call(method, path, body, key)).status, path).toBe(500)
      await database.query(`ALTER TABLE gone RENAME TO ${table}`)
    }
    secrets['guess 99'] = 'GUESSED-99-Q7XK2M'

    const metrics = await Promise.all(
      [`${base}/metrics`, `http://127.0.0.1:${metricsPort}/metrics`].map(async (url) =>
        (await fetch(url)).text(),
      ),
    )
    const { rows: jobs } = await database.query('SELECT * FROM jobs')
    const { rows: records } = await database.query('SELECT * FROM audit_log, processes')
    const { rows: kept } = await database.query('SELECT * FROM users, api_keys')
    const queues = await everything(redis, '{stampede}:*')
    const limits = (await redis.keys('limit:*')).join('\n')
    await api.stop()
    await worker.stop()

    const places: Record<string, string> = {
      logs,
      metrics: metrics.join('\n'),
      traces: collector.text(),
      jobs: JSON.stringify(jobs),
      queues,
      limits,
      records: JSON.stringify(records),
    }
    const signs: Record<string, RegExp> = {
      logs: /request failed/,
      metrics: /stampede_answers_total/,
      traces: /POST \/coupons\/lock\/\{code\}/,
      jobs: /"kind":"generate".*"kind":"import"|"kind":"import".*"kind":"generate"/,
      queues: /flush/,
      limits: /limit:code-key:/,
      records: /"action":"keys.create"/,
    }
    for (const [place, text] of Object.entries(places)) {
      expect(text, `there is something to find in ${place}`).toMatch(signs[place]!)
      expect(text, place).not.toContain('$argon2')
      const found = Object.entries(secrets).filter(([, secret]) => text.includes(secret))
      expect(found.map(([name]) => `${name} in ${place}`)).toEqual([])
    }
    // At rest, of what proves somebody's identity there is a hash alone.
    const rest = JSON.stringify(kept)
    for (const name of ['password', 'key', 'token', 'admin', 'secret'])
      expect(rest, name).not.toContain(secrets[name]!)
  } finally {
    redis.disconnect()
    await collector.close()
    await database.end()
    await town.close()
  }
})

/** Every value below these keys, whatever its type. */
async function everything(redis: Redis, pattern: string): Promise<string> {
  const all = await Promise.all(
    (await redis.keys(pattern)).map(async (key) => {
      const type = await redis.type(key)
      const value =
        type === 'hash'
          ? await redis.hgetall(key)
          : type === 'stream'
            ? await redis.xrange(key, '-', '+')
            : type === 'zset'
              ? await redis.zrange(key, '0', '-1')
              : type === 'list'
                ? await redis.lrange(key, '0', '-1')
                : type === 'set'
                  ? await redis.smembers(key)
                  : await redis.get(key)
      return `${key} ${JSON.stringify(value)}`
    }),
  )
  return all.join('\n')
}
