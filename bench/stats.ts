import { setTimeout as sleep } from 'node:timers/promises'
import type { Bench } from './bench.ts'
import { median, type Target, target } from './targets.ts'

export type StatsReport = { targets: Target[]; differences: string[] }

const days = 30
/** A piece stays well below the time limit of a statement. */
const factsPerPiece = 100_000
const asksEach = 20
const countMs = 600_000

/**
 * Statistics of a book with a ledger of so many facts, put into PostgreSQL as a version of before there were
 * statistics would have left them: how long until a worker has counted them, and what does it cost to ask?
 */
export async function stats({ client, options, stores, say }: Bench): Promise<StatsReport> {
  const { database } = stores
  const facts = options.large
  const { id } = await client.makeBook('Statistics', 1)
  const shard = await stores.shardOf(id)
  const from = Math.floor(Date.now() / 86_400_000 - days) * 86_400_000
  for (let done = 0; done < facts; done += factsPerPiece) {
    const piece = [done + 1, Math.min(done + factsPerPiece, facts)]
    // In an epoch of before the shard's first one. Of four: two assigned, one locked, one redeemed.
    await database.query(
      `INSERT INTO ledger (shard, epoch, n, i, op, kind, book_id, code, user_id, version, at,
               redemptions, max_redemptions, assigned_at, context)
             SELECT $1, 0, n, 0, gen_random_uuid(), (ARRAY['assign', 'assign', 'lock', 'redeem'])[n % 4 + 1],
               $2, 'STATS-' || n, 'user-' || n % 1000000, 1, at, 0, 1, at - interval '40 s', '{}'
             FROM generate_series($3::bigint, $4::bigint) AS n, LATERAL (
               SELECT to_timestamp($5 + n * $6::float8) AS at) AS t`,
      [shard, id, ...piece, from / 1000, (days * 86_400) / facts],
    )
    if (piece[1]! % 1_000_000 === 0) say(`${piece[1]} facts`)
  }
  await database.query('UPDATE shards SET counted_epoch = 0, counted = 0 WHERE shard = $1', [shard])
  const begun = performance.now()
  const totals = () => client.call('GET', `books/${id}/stats/totals`)
  while (!(await totals()).complete) {
    if (performance.now() - begun > countMs) throw new Error('nobody counts the facts')
    await sleep(100)
  }
  const countSeconds = (performance.now() - begun) / 1000
  say(`counted in ${countSeconds.toFixed(1)} s`)

  const time = (step: string, steps: number) => {
    const ms = { minute: 60_000, hour: 3_600_000, day: 86_400_000 }[step]! * steps
    const query = `from=${iso(from)}&to=${iso(from + ms)}&step=${step}`
    return `books/${id}/stats/timeline?${query}`
  }
  const paths = {
    'a day by the minute': time('minute', 1_440),
    '30 days by the hour': time('hour', 24 * days),
    '30 days by the day': time('day', days),
    totals: `books/${id}/stats/totals`,
  }
  const targets: Target[] = []
  for (const [what, path] of Object.entries(paths)) {
    const times: number[] = []
    for (let ask = 0; ask < asksEach; ask++) {
      const asked = performance.now()
      await client.call('GET', path)
      times.push(performance.now() - asked)
    }
    targets.push(target(`${what}, ms, median of ${asksEach}`, median(times), 'at most', 200))
  }
  const { assigned, locked, redeemed } = await totals()
  const expected = [0, 1, 2, 3].map((rest) => Math.floor((facts + ((4 - rest) % 4)) / 4))
  const wanted = [expected[0]! + expected[1]!, expected[2], expected[3]]
  const differences =
    `${[assigned, locked, redeemed]}` === `${wanted}`
      ? []
      : [`assigned, locked, redeemed: ${[assigned, locked, redeemed]} instead of ${wanted}`]
  return { targets, differences }
}

const iso = (ms: number) => new Date(ms).toISOString()
