import { inTime } from '../deadline.ts'
import { postgresSettings } from '../ledger/settings.ts'
import {
  type Item,
  judgeClocks,
  judgePostgres,
  judgeRedis,
  judgeShards,
} from '../recovery/checklist.ts'
import { redisSettings } from '../store/settings.ts'
import { answerOf, type Ops } from './ops.ts'

/** Longer than this nobody waits for either store. */
const patienceMs = 2_000

/** The item that stands where a store does not answer, in place of all that it would have said. */
export const connection = 'connection'

/**
 * The whole checklist, now: what the service looks at before it serves. `managed`: REDIS_MANAGED. A store
 * that does not answer is an item like another, and does not keep the other one from being looked at.
 */
export async function doctor({ redis, database }: Ops, managed: boolean): Promise<Item[]> {
  const [r, p] = await Promise.all([
    // Of all shards that it may hold: PostgreSQL, if it answers, says which of them are strangers.
    found('redis', answerOf(redis, redisSettings(redis, 0))),
    found('postgres', postgresSettings(database)),
  ])
  return [
    ...('item' in r ? [r.item] : judgeRedis(r.found, managed)),
    ...('item' in p ? [p.item] : judgePostgres(p.found, false)),
    ...('item' in r || 'item' in p
      ? []
      : [...judgeShards(p.found.shards, r.found, p.found), ...judgeClocks(r.found, p.found)]),
  ]
}

const remedies = {
  redis: 'start it, or correct REDIS_URL; nothing is served without it',
  postgres: 'start it, or correct DATABASE_URL; nothing is durable without it',
}

async function found<T>(
  of: 'redis' | 'postgres',
  answer: Promise<T>,
): Promise<{ found: T } | { item: Item }> {
  try {
    const silence = () => new Error(`no answer in ${patienceMs} ms`)
    return { found: await inTime(answer, patienceMs, silence) }
  } catch (error) {
    const value = `does not answer: ${(error as Error).message || error}`
    return { item: { of, setting: connection, value, verdict: 'refusal', remedy: remedies[of] } }
  }
}
