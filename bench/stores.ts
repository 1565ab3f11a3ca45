import { setTimeout as sleep } from 'node:timers/promises'
import { Redis } from 'ioredis'
import { openDatabase } from '../src/ledger/database.ts'
import { keys } from '../src/store/keys.ts'
import type { Installation } from './installation.ts'

/** How far a shard's journal is, and how far PostgreSQL has followed. */
export type Progress = { n: number; facts: number; flushed: number }
export type Stores = ReturnType<typeof openStores>

const pollMs = 5
const field = (info: string, name: string) =>
  new RegExp(`^${name}:(.*?)\r?$`, 'm').exec(info)?.[1] ?? ''

/** Looks at both stores past the service, to hold against each other what it says. */
export function openStores({ redis: url, postgres }: Pick<Installation, 'redis' | 'postgres'>) {
  const redis = new Redis(url)
  const database = openDatabase(postgres, 4, 'bench')

  /** Whether PostgreSQL has every entry that any journal has. */
  async function isLevel(): Promise<boolean> {
    const { rows } = await database.query<{ shard: number; at: string }>(
      `SELECT shard, checkpoint_epoch || '-' || checkpoint AS at FROM shards`,
    )
    const metas = await Promise.all(
      rows.map(({ shard }) => redis.hmget(keys.meta(shard), 'epoch', 'n')),
    )
    return rows.every(({ at }, i) => at === metas[i]!.join('-'))
  }

  return {
    redis,
    database,

    async shardOf(book: string): Promise<number> {
      const { rows } = await database.query<{ shard: number }>(
        'SELECT shard FROM books WHERE book_id = $1',
        [book],
      )
      return rows[0]!.shard
    },

    async progress(shard: number): Promise<Progress> {
      const [n, facts, flushed] = await redis.hmget(keys.meta(shard), 'n', 'facts', 'flushed')
      return { n: Number(n), facts: Number(facts), flushed: Number(flushed) }
    },

    /** In how many script calls and how many transactions the assignments of a book were made. */
    async shapeOf(book: string): Promise<{ calls: number; flushes: number }> {
      const { rows } = await database.query<{ calls: number; flushes: number }>(
        `SELECT count(DISTINCT (epoch, n)) AS calls, count(DISTINCT xmin::text) AS flushes
         FROM ledger WHERE book_id = $1 AND kind = 'assign'`,
        [book],
      )
      return rows[0]!
    },

    /** Waits until PostgreSQL is level; false if it is not within `ms`. */
    async untilLevel(ms: number): Promise<boolean> {
      for (const until = performance.now() + ms; !(await isLevel()); await sleep(pollMs))
        if (performance.now() > until) return false
      return true
    },

    async usedMemory(): Promise<number> {
      return Number(field(await redis.info('memory'), 'used_memory'))
    },

    /** Waits for the rewrite of the append-only file that a large change brings about. */
    async untilQuiet(): Promise<void> {
      const busy = async () => {
        const info = await redis.info('persistence')
        return ['in_progress', 'scheduled'].some((is) => field(info, `aof_rewrite_${is}`) === '1')
      }
      while (await busy()) await sleep(100)
    },

    async versions() {
      const info = await redis.info('server')
      const { rows } = await database.query<{ server_version: string }>('SHOW server_version')
      const name = field(info, 'server_name') || 'redis'
      const version = field(info, 'valkey_version') || field(info, 'redis_version')
      return { redis: `${name} ${version}`, postgres: `PostgreSQL ${rows[0]!.server_version}` }
    },

    async close(): Promise<void> {
      redis.disconnect()
      await database.end()
    },
  }
}
