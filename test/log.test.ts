import { Redis } from 'ioredis'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { openAccounts } from '../src/ledger/accounts.ts'
import { openLog } from '../src/log.ts'
import { openWorld, type World } from './world.ts'

/** What API and worker log of an error: where it comes from, and nothing that somebody could redeem. */
let world: World
beforeAll(async () => {
  world = await openWorld({ worker: false })
})
afterAll(() => world.close())

const secret = 'SUMMER-SALE-4711'

async function logged(failing: Promise<unknown>) {
  const lines: string[] = []
  const log = openLog('test', 'info', { write: (line) => void lines.push(line) })
  const error = await failing.then(
    () => {
      throw new Error('it did not fail')
    },
    (reason: Error) => reason,
  )
  log.error({ err: error }, 'a test')
  log.error(error)
  log.error({ err: error })
  const text = lines.join('')
  expect(text).not.toContain(secret)
  expect(text).not.toContain(secret.toLowerCase())
  expect(lines).toHaveLength(3)
  return JSON.parse(lines[0]!).err
}

/** A client of Redis that may not use SMISMEMBER, as behind a managed Redis' ACL. */
async function withoutRight<T>(work: (redis: Redis) => Promise<T>): Promise<T> {
  await world.redis.call(
    ...(['ACL', 'SETUSER', 'narrow', 'on', '>narrow', '~*', '+@all', '-smismember'] as const),
  )
  const { host, port } = world.redis.options
  const redis = new Redis({ host, port, username: 'narrow', password: 'narrow' })
  return work(redis).finally(() => redis.disconnect())
}

test('log: of a command that Redis refuses, without its arguments', async () => {
  const said = await withoutRight((redis) => logged(redis.smismember('some:set', secret)))
  expect(said).toMatchObject({
    name: 'ReplyError',
    message: expect.stringMatching(/NOPERM.*smismember/),
    stack: expect.stringMatching(/^ {4}at /),
  })
  // A transaction's error brings those of its commands along.
  await withoutRight((redis) => logged(redis.multi().smismember('some:set', secret).exec()))
  const unknown = await logged(world.redis.call('NOSUCHCOMMAND', secret))
  expect(unknown.message).toBe("ERR unknown command 'NOSUCHCOMMAND'")
})

test('log: of a query that PostgreSQL refuses, without its parameters and rows', async () => {
  const { database } = world
  const twice = 'INSERT INTO settings SELECT $1, to_jsonb(1) FROM generate_series(1, 2)'
  expect(await logged(database.query(twice, [secret]))).toMatchObject({
    message: expect.stringMatching(/^duplicate key/),
    code: '23505',
  })
  await database.query('ALTER TABLE users RENAME TO people')
  const email = `${secret}@example.com`.toLowerCase()
  const lost = openAccounts(database).createUser({
    ...{ name: secret, email, password: 'password', role: 'user' },
  })
  const said = await logged(lost)
  expect(said.message).toBe('relation "users" does not exist')
  await database.query('ALTER TABLE people RENAME TO users')
})
