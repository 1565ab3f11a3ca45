import { setTimeout as sleep } from 'node:timers/promises'
import { shardRow } from '../../ledger/shards.ts'
import { keys } from '../../store/keys.ts'
import type { Run } from './settle.ts'

/** A shard that is being recovered is waited for. */
const serveMs = 10_000
const pollMs = 100

type Service = {
  isNew: boolean
  serves: boolean
  isWhole: boolean
  redis: Record<string, unknown>
  postgres: Record<string, unknown>
}

/**
 * Looks whether a shard serves, and is whole. What lies on one that does not serve is not compared: a
 * worker brings it level, or makes it anew, and a list of all that is missing would help nobody.
 */
export async function checkService(run: Run, shard: number): Promise<void> {
  const until = performance.now() + (run.exact ? 0 : serveMs)
  let service = await lookAt(run, shard)
  while (!service.serves && performance.now() < until) {
    await sleep(pollMs)
    service = await lookAt(run, shard)
  }
  const { serves, isWhole, isNew, redis, postgres } = service
  if (serves) run.serving.add(shard)
  if (serves ? isWhole : isNew && !run.books.some((book) => book.shard === shard)) return
  const what = serves
    ? 'the shard is damaged: its journal or a sentinel'
    : 'the shard does not serve'
  run.findings.add({ class: 'COUNTER_MISMATCH', shard, book_id: null, what, redis, postgres })
}

async function lookAt({ redis, database }: Run, shard: number): Promise<Service> {
  const row = await shardRow(database, shard)
  const asked = redis.multi().hmget(keys.meta(shard), 'epoch', 'phase', 'kept')
  asked.xlen(keys.journal(shard)).hexists(keys.coupons(shard), '')
  const results = await asked.hexists(keys.redemptions(shard), '').exec()
  const [[epoch, phase, kept], entries, coupons, redemptions] = results!.map(([error, reply]) => {
    if (error) throw error
    return reply
  }) as [(string | null)[], number, number, number]
  return {
    isNew: row.phase === 'new',
    serves: row.phase === 'active' && phase === 'active' && Number(epoch) === row.epoch,
    isWhole: entries === Number(kept) && coupons === 1 && redemptions === 1,
    redis: { epoch, phase, kept, entries, sentinels: { coupons, redemptions } },
    postgres: { epoch: row.epoch, phase: row.phase },
  }
}
