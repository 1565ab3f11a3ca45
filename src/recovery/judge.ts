import type { Redis } from 'ioredis'
import { entryHash } from '../journal/entry.ts'
import type { Database } from '../ledger/database.ts'
import { type ShardRow, shardRow } from '../ledger/shards.ts'
import { keys } from '../store/keys.ts'
import { scriptSha } from '../store/lua.ts'
import { type Gate, NotSent, type Place, RedisRefused, ReplyLost } from '../store/place.ts'

/** What lua/check.lua says of a shard; undefined: it holds nothing. */
export type ShardState = {
  epoch: number
  phase: string
  n: number
  facts: number
  flushed: number
  watermark: number
  intake: string
  calls: number
  whole: boolean
  checkpoint: string[]
  memory: string
}

/** What recoveries are counted under in /metrics; `why` says it in words and numbers. */
export const causes = [
  'new',
  'unfinished',
  'accepted_loss',
  'suspect',
  'memory_lost',
  'damaged',
  'behind',
  'forked',
  'restarted',
] as const
export type Cause = (typeof causes)[number]

/**
 * May a shard serve? `level`: Redis has everything the ledger has. `lost`: it has not, or nobody has
 * served from it yet; a worker recovers it. `wait`: somebody is at it, it cannot be told now, or only
 * an operator can decide.
 */
export type Verdict =
  | { is: 'level'; row: ShardRow; state: ShardState; withoutPostgres?: true }
  | { is: 'lost'; row: ShardRow; cause: Cause; why: string }
  | { is: 'wait'; why: string }

/** What is judged with: how Redis is asked, and what this process has seen itself. */
type Eyes = Pick<Place, 'call' | 'gates'>

/**
 * The eyes of somebody who has seen nothing yet and only looks: an operator at a command line. What Redis
 * refuses to tell him says nothing about the shard, so it is thrown as it is.
 */
export function withoutMemory(redis: Redis, shards: number): Eyes {
  const seen = {
    ...{ open: false, pushable: false, why: '', epoch: 0 },
    ...{ seen: 0, calls: 0, memory: '', suspect: undefined },
  }
  return {
    gates: Array.from({ length: shards }, (_, shard) => ({ ...seen, shard })),
    call: (script, on, args) =>
      redis.call('EVALSHA', [scriptSha(script), on.length, ...on, ...args]).catch((error) => {
        throw error.message.startsWith('NOSCRIPT') ? new RedisRefused(error.message) : error
      }),
  }
}

export async function readShard(
  place: Pick<Place, 'call'>,
  shard: number,
  checkpoint: string,
): Promise<ShardState | undefined> {
  const reply = await place.call(
    'check',
    [keys.meta(shard), keys.journal(shard), keys.coupons(shard), keys.redemptions(shard)],
    [checkpoint],
  )
  if (!Array.isArray(reply)) return undefined
  const [epoch, phase, n, facts, flushed, watermark, intake, calls, whole, fields, memory] = reply
  return {
    epoch: Number(epoch),
    phase: String(phase),
    n: Number(n),
    facts: Number(facts),
    flushed: Number(flushed),
    watermark: Number(watermark),
    intake: String(intake),
    calls: Number(calls),
    whole: whole === '1',
    checkpoint: (fields as string[]) ?? [],
    memory: String(memory),
  }
}

/** How often the comparison begins anew because the ledger moved on between its two looks. */
const looksMax = 5

/** Compares a shard in Redis with its row in PostgreSQL: the fork check. Changes nothing. */
export async function judge(place: Eyes, database: Database, shard: number): Promise<Verdict> {
  let row: ShardRow
  try {
    row = await shardRow(database, shard)
  } catch (error) {
    return judgeAlone(place, shard, `PostgreSQL: ${(error as Error).message}`)
  }
  for (let look = 0; look < looksMax; look++) {
    const verdict = await compare(place, row)
    if (verdict.is === 'level') return verdict
    // What was flushed, trimmed or recovered between the two looks is neither an old backup nor a loss.
    const now = await shardRow(database, shard).catch(() => row)
    const same = (['epoch', 'phase', 'checkpointEpoch', 'checkpoint'] as const).every(
      (field) => now[field] === row[field],
    )
    if (same) return verdict
    row = now
  }
  return { is: 'wait', why: 'the ledger moves on while Redis is being compared with it' }
}

async function compare(place: Eyes, row: ShardRow): Promise<Verdict> {
  const { shard } = row
  const id = row.checkpoint > 0 ? `${row.checkpointEpoch}-${row.checkpoint}` : ''
  // As it was before Redis is asked: it may learn of later entries meanwhile.
  const before = { ...place.gates[shard]! }
  let state: ShardState | undefined
  try {
    state = await readShard(place, shard, id)
  } catch (error) {
    return { is: 'wait', why: explain(error) }
  }
  if (row.phase === 'recovering' && !row.abandoned)
    return { is: 'wait', why: 'a worker is recovering this shard' }
  if (isBehind(row, state) && !row.lossAccepted) return { is: 'wait', why: behind(row, state!) }
  const { suspect } = place.gates[shard]!
  const lost = whatIsLost(row, state, id, { ...before, suspect })
  return lost ? { is: 'lost', row, ...lost } : { is: 'level', row, state: state! }
}

/** PostgreSQL lacks what it once had committed, or was in an epoch it does not know: an old backup. */
export function isBehind(
  row: ShardRow,
  state: Pick<ShardState, 'epoch' | 'phase' | 'n' | 'watermark'> | undefined,
): boolean {
  if (!state) return false
  if (state.epoch !== row.epoch) return state.epoch > row.epoch
  if (row.phase === 'active') return state.watermark > row.checkpoint
  // Entries are written only once PostgreSQL has the end of the recovery: it had it, and forgot.
  return row.phase === 'recovering' && state.phase === 'active' && state.n > 0
}

export function behind(row: ShardRow, state: Pick<ShardState, 'epoch' | 'watermark'>): string {
  return oldBackup(
    `epoch ${row.epoch}, entry ${row.checkpoint}; Redis knows of ${state.epoch}, ${state.watermark}`,
  )
}

export const oldBackup = (what: string): string =>
  `PostgreSQL is behind what it had committed (${what}): was an old backup restored? Restore a newer ` +
  'one, or accept the loss with `npm run stampede -- accept-loss`'

type Lost = { cause: Cause; why: string }

function whatIsLost(
  row: ShardRow,
  state: ShardState | undefined,
  id: string,
  gate: Gate,
): Lost | undefined {
  if (row.phase === 'new') return { cause: 'new', why: 'a new installation' }
  if (row.phase === 'recovering') return { cause: 'unfinished', why: 'unfinished recovery' }
  if (row.lossAccepted)
    return {
      cause: 'accepted_loss',
      why: 'an operator accepted the loss of what PostgreSQL lacks',
    }
  const found = whatRedisLacks(row, state, id)
  const restarted = found ? undefined : whatLivesAnew(row, state!)
  // What a process saw may be more than what can be seen now, so its words come first.
  if (row.suspect) return { cause: (found ?? restarted)?.cause ?? 'suspect', why: row.suspect }
  return found ?? whatThisProcessSaw(gate, state!) ?? restarted
}

/**
 * Whether Redis, as lua/check.lua tells it by its run id and the history that it took over, has gone on
 * since then. One that was promoted and finds no replicas forgets that history (repl-backlog-ttl: after
 * an hour), and nothing else.
 */
export function sameLife(then: string, now: string): boolean {
  if (then === now) return true
  const [run, history] = now.split(' ')
  return then.split(' ')[0] === run && /^0+$/.test(history ?? '')
}

/**
 * A Redis that was restarted, or was another's replica, may have forgotten its last entries, and what
 * nobody alive has seen nobody misses: the first new ones would take their places. So it serves under a
 * new epoch only.
 */
function whatLivesAnew({ epoch, memory, memoryEpoch }: ShardRow, state: ShardState) {
  if (memoryEpoch !== epoch || memory === '' || state.memory === '') return undefined
  if (sameLife(memory, state.memory)) return undefined
  return {
    cause: 'restarted',
    why: 'Redis was restarted, or was a replica, since this epoch began',
  } as const
}

function whatRedisLacks(
  row: ShardRow,
  state: ShardState | undefined,
  id: string,
): Lost | undefined {
  if (!state)
    return { cause: 'memory_lost', why: 'Redis has lost its memory: the shard has no meta' }
  const { epoch, phase, n } = state
  if (epoch !== row.epoch || phase !== 'active')
    return {
      cause: 'behind',
      why: `Redis is at epoch ${epoch} (${phase}), PostgreSQL at ${row.epoch}`,
    }
  if (!state.whole) return { cause: 'damaged', why: 'damaged: journal or sentinels are missing' }
  if (n < row.checkpoint)
    return {
      cause: 'behind',
      why: `Redis ends at entry ${n}, the ledger already holds ${row.checkpoint}`,
    }
  if (id && entryHash(id, state.checkpoint) !== row.checkpointHash)
    return { cause: 'forked', why: `entry ${id} in Redis is not the one that the ledger holds` }
  return undefined
}

function whatThisProcessSaw(gate: Gate, { epoch, n }: ShardState) {
  if (gate.epoch !== epoch) return undefined
  if (gate.suspect) return { cause: 'suspect', why: gate.suspect } as const
  if (n < gate.seen)
    return { cause: 'behind', why: `Redis ends at entry ${n}, but had ${gate.seen}` } as const
  return undefined
}

/**
 * PostgreSQL is away. A process that has served this shard may go on if Redis is still in the epoch
 * it knows and has every entry it saw; one that has not must wait.
 */
async function judgeAlone(place: Eyes, shard: number, why: string): Promise<Verdict> {
  const { epoch, seen, memory } = place.gates[shard]!
  if (epoch === 0) return { is: 'wait', why }
  try {
    const state = await readShard(place, shard, '')
    const { suspect } = place.gates[shard]!
    if (suspect || state?.epoch !== epoch || state.phase !== 'active' || !state.whole)
      return { is: 'wait', why: `Redis changed while PostgreSQL is away. ${why}` }
    if (!sameLife(memory, state.memory))
      return { is: 'wait', why: `Redis was restarted while PostgreSQL is away. ${why}` }
    if (state.n < seen)
      return { is: 'wait', why: `Redis lost entries while PostgreSQL is away. ${why}` }
    // Nothing is to be changed in Redis by a row that PostgreSQL did not give.
    const { flushed: facts, intake } = state
    const row = { shard, epoch, phase: 'active', facts, intake } as ShardRow
    return { is: 'level', row, state, withoutPostgres: true }
  } catch (error) {
    return { is: 'wait', why: explain(error) }
  }
}

function explain(error: unknown): string {
  if (error instanceof RedisRefused && error.message.startsWith('NOSCRIPT'))
    return 'no worker has vouched for this Redis since it started'
  if (error instanceof NotSent || error instanceof ReplyLost || error instanceof RedisRefused)
    return `Redis: ${error.message}`
  throw error
}
