import { keys } from '../../store/keys.ts'
import { lockMarginMs } from './codes.ts'
import { perStep, type Run } from './settle.ts'

/** Redis' clock, asked once: close enough where what is close to its deadline is left out. */
export async function openClock({ redis }: Run): Promise<() => number> {
  const [seconds] = await redis.time()
  const ahead = Number(seconds) * 1000 - performance.now()
  return () => performance.now() + ahead
}

export type Lock = { code: string; token: string; until: number }

/** The lock in a packed record, if it lasts for a while yet. */
export function liveLock(code: string, record: string, now: number): Lock | undefined {
  if (record.endsWith('\t')) return undefined // no deadline, no lock
  const [token, until] = record.split('\t').slice(-2) as [string, string]
  const lock = { code, token, until: Number(until) }
  return lock.until > now + 2 * lockMarginMs ? lock : undefined
}

/** Codes whose live lock is not guarded as it should be. */
export async function misguarded({ redis }: Run, shard: number, locks: Lock[]): Promise<string[]> {
  if (locks.length === 0) return []
  const asked = redis.pipeline().mget(...locks.map(({ code }) => keys.lock(shard, code)))
  for (const { code } of locks) asked.pexpiretime(keys.lock(shard, code))
  const [tokens, ...deadlines] = (await asked.exec())!.map(([error, reply]) => {
    if (error) throw error
    return reply
  }) as [(string | null)[], ...number[]]
  return locks.flatMap(({ code, token, until }, l) =>
    tokens[l] === token && deadlines[l] === until ? [] : [code],
  )
}

/** Goes through all keys for guards of locks that no coupon has. */
export async function compareGuards(run: Run, shards: number[]): Promise<void> {
  const { redis } = run
  const homes = new Map(shards.map((shard) => [keys.lock(shard, ''), shard]))
  const clock = await openClock(run)
  const mark = keys.lock(0, '').slice(keys.lock(0, '').indexOf(':'))
  let cursor = '0'
  do {
    const [next, found] = await redis.scan(cursor, 'MATCH', `*${mark}*`, 'COUNT', perStep)
    cursor = next
    const guards = found.flatMap((key) => {
      const prefix = key.slice(0, key.indexOf(mark) + mark.length)
      const shard = homes.get(prefix)
      return shard === undefined ? [] : [{ shard, code: key.slice(prefix.length) }]
    })
    for (const [shard, some] of Map.groupBy(guards, (guard) => guard.shard)) {
      const codes = some.map(({ code }) => code)
      const records = await redis.hmget(keys.coupons(shard), ...codes)
      for (const [c, record] of records.entries()) {
        const code = codes[c]!
        if (record && liveLock(code, record, clock())) continue
        const book = record?.slice(0, record.indexOf('\t')) ?? (await homeOf(run, code))
        run.suspects.add({ shard, book, code, digested: true })
      }
    }
    await run.suspects.relieve(run)
  } while (cursor !== '0')
}

/** The book of a code of which Redis has no record; '': nobody knows. */
async function homeOf({ database }: Run, code: string): Promise<string> {
  const { rows } = await database.query<{ book_id: string }>(
    `SELECT book_id FROM codes WHERE code = $1
     UNION ALL SELECT book_id FROM ledger WHERE code = $1 LIMIT 1`,
    [code],
  )
  return rows[0]?.book_id ?? ''
}
