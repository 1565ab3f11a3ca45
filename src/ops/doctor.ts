import { postgresSettings } from '../ledger/settings.ts'
import {
  type Item,
  judgeClocks,
  judgePostgres,
  judgeRedis,
  judgeShards,
} from '../recovery/checklist.ts'
import { redisSettings } from '../store/settings.ts'
import type { Ops } from './ops.ts'

/**
 * The whole checklist, now: what the service looks at before it serves. `managed`: REDIS_MANAGED.
 * Throws if one of the two stores does not answer.
 */
export async function doctor({ redis, database }: Ops, managed: boolean): Promise<Item[]> {
  const postgres = await postgresSettings(database)
  const found = await redisSettings(redis, postgres.shards)
  return [
    ...judgeRedis(found, managed),
    ...judgePostgres(postgres, false),
    ...judgeShards(postgres.shards, found, postgres),
    ...judgeClocks(found, postgres),
  ]
}
