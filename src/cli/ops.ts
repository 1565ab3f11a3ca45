import { readFileSync } from 'node:fs'
import { hostname, userInfo } from 'node:os'
import { join } from 'node:path'
import { ConfigError, readConfig } from '../config.ts'
import { openDatabase } from '../ledger/database.ts'
import type { Ops } from '../ops/ops.ts'
import { withRedis } from './redis.ts'

/** Who types: stands in the audit log. */
export const actor = `cli:${userInfo().username}@${hostname()}`

/** Where both stores are: as the environment says, else of the `npm start` that is running. */
export function stores(): { redis: string; postgres: string } {
  const found = running()
  const given = (name: 'REDIS_URL' | 'DATABASE_URL') => {
    try {
      return readConfig([name])[name as never] as string
    } catch (error) {
      // What is set wrongly is said; what is not set may be found.
      if (error instanceof ConfigError && /is not set/.test(error.message)) return undefined
      throw error
    }
  }
  const redis = given('REDIS_URL') ?? found?.redis
  const postgres = given('DATABASE_URL') ?? found?.postgres
  if (redis && postgres) return { redis, postgres }
  throw new ConfigError(
    `${redis ? 'DATABASE_URL' : 'REDIS_URL'} is not set, and no \`npm start\` runs here: ` +
      'name the stores of the installation, or start it',
  )
}

/** run.json of a running `npm start` has the URLs, passwords and all. */
export function running(): { redis: string; postgres: string; http: string } | undefined {
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
