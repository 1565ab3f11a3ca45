import { readFileSync } from 'node:fs'
import { hostname, userInfo } from 'node:os'
import { join } from 'node:path'
import { ConfigError, readConfig } from '../config.ts'
import { openDatabase } from '../ledger/database.ts'
import type { Ops } from '../ops/ops.ts'
import { withRedis } from './redis.ts'

/** Who types: stands in the audit log. */
export const actor = `cli:${login()}@${hostname()}`

/** A container may run under a user that its /etc/passwd does not have. */
function login(): string {
  try {
    return userInfo().username
  } catch {
    return `uid:${process.getuid?.()}`
  }
}

/** `http`: the API's address, where it is known. */
type Installation = { redis: string; postgres: string; http?: string }

/**
 * Where both stores are: as the environment says, else of the `npm start` that is running. Never one
 * from here and one from there: those would be the stores of two installations.
 */
export function stores(): Installation {
  const redis = given('REDIS_URL')
  const postgres = given('DATABASE_URL')
  if (redis && postgres) return { redis, postgres }
  const found = running()
  const [missing, other] = redis ? ['DATABASE_URL', 'REDIS_URL'] : ['REDIS_URL', 'DATABASE_URL']
  if (redis || postgres)
    throw new ConfigError(
      `${missing} is not set, and ${other} is: set both` +
        (found ? `, or neither for the \`npm start\` that runs here (${found.http})` : ''),
    )
  if (found) return found
  throw new ConfigError(
    `${missing} and ${other} are not set, and no \`npm start\` runs here: ` +
      'name the stores of the installation, or start it',
  )
}

/** For what needs PostgreSQL alone: where DATABASE_URL is set, nothing else has to be. */
export function postgresUrl(): string {
  const url = given('DATABASE_URL')
  if (url) return url
  const found = given('REDIS_URL') ? undefined : running()
  if (found) return found.postgres
  throw new ConfigError(
    'DATABASE_URL is not set: name the PostgreSQL of the installation, or start `npm start` here',
  )
}

/** What is set wrongly is said; what is not set may be found. */
function given(name: 'REDIS_URL' | 'DATABASE_URL'): string | undefined {
  try {
    return readConfig([name])[name as never] as string
  } catch (error) {
    if (error instanceof ConfigError && /is not set/.test(error.message)) return undefined
    throw error
  }
}

/** run.json of a running `npm start` has the URLs, passwords and all. */
function running(): Required<Installation> | undefined {
  const { DATA_DIR } = readConfig(['DATA_DIR'])
  try {
    return JSON.parse(readFileSync(join(DATA_DIR, 'run.json'), 'utf8'))
  } catch {
    return undefined
  }
}

/** One piece of work with the stores, neither of which is waited for; one that is not asked may be away. */
export async function withOps<T>(work: (ops: Ops) => Promise<T>): Promise<T> {
  const { redis: redisUrl, postgres } = stores()
  const database = openDatabase(postgres, 4, 'cli')
  try {
    return await withRedis(redisUrl, (redis) => work({ redis, database }))
  } finally {
    await database.end()
  }
}

/** The same for work that begins in PostgreSQL and ends in Redis: with Redis away it is not begun. */
export const withBoth = <T>(work: (ops: Ops) => Promise<T>): Promise<T> =>
  withOps(async (ops) => {
    await ops.redis.connect()
    return work(ops)
  })
