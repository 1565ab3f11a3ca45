import { inTime } from '../deadline.ts'
import { postgresSettings } from '../ledger/settings.ts'
import type { QueueDesk } from '../queues.ts'
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

/** BullMQ's Redis has no say in what is served: nothing of a sale is lost with it, and much comes late. */
export type QueueItem = Omit<Item, 'of'> & { of: 'queue' }

/** What there is to say of BullMQ's Redis; that it does not answer is an item like another. */
export async function queueItem(desk: Pick<QueueDesk, 'policy'>): Promise<QueueItem> {
  const item = (setting: string, value: string, isFine: boolean, remedy: string): QueueItem => ({
    ...{ of: 'queue', setting, value },
    ...{ verdict: isFine ? 'fine' : 'warning', remedy: isFine ? '' : remedy },
  })
  try {
    const policy = (await desk.policy()) ?? 'hidden'
    const remedy =
      'set it to noeviction, or it drops jobs when it is full, and a sweep finds them late'
    return item('maxmemory-policy', policy, policy === 'noeviction', remedy)
  } catch (error) {
    const remedy =
      'start it, or correct QUEUE_REDIS_URL: jobs and flushes wait for the sweep meanwhile'
    return item(connection, (error as Error).message, false, remedy)
  }
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
