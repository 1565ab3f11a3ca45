import { randomUUID } from 'node:crypto'
import type { Logger } from 'pino'
import type { Database } from '../ledger/database.ts'
import { beginRecovery, endRecovery, type ShardRow } from '../ledger/shards.ts'
import { keys } from '../store/keys.ts'
import { scriptNames, scriptSha, scriptText } from '../store/lua.ts'
import type { Place } from '../store/place.ts'
import { judge, unfitRedis } from './judge.ts'

/** What a worker needs to look at a shard and to begin a new one; none of them assigns anything. */
const beforehand = ['check', 'recovering', 'publish', 'flushed']

/** Brings scripts into Redis. Only a worker does, and the verbs only after its check. */
async function loadScripts(place: Place, names: readonly string[]): Promise<void> {
  const there = (await place.redis.call('SCRIPT', 'EXISTS', ...names.map(scriptSha))) as number[]
  for (const [i, name] of names.entries())
    if (!there[i]) await place.redis.call('SCRIPT', 'LOAD', scriptText(name))
}

/**
 * Looks after every shut gate once, as a worker: begins shards that are new, loads the scripts where
 * Redis has everything the ledger has, and opens. A shard that lost something stays shut, and says
 * so: rebuilding it from the ledger is not built yet. Returns how many are still shut.
 */
export async function recoverOnce(place: Place, database: Database, log: Logger): Promise<number> {
  const shut = place.gates.filter((gate) => !gate.open)
  if (shut.length === 0 || !place.connected) return shut.length
  const unfit = await unfitRedis(place)
  if (unfit) {
    for (const gate of shut) gate.why = unfit
    return shut.length
  }
  await loadScripts(place, beforehand)
  for (const gate of shut) {
    let verdict = await judge(place, database, gate.shard)
    if (verdict.is === 'new' && (await begin(place, database, verdict.row, log)))
      verdict = await judge(place, database, gate.shard)
    if (verdict.is === 'level') {
      const why = await healPushes(database, place, gate.shard)
      if (why) verdict = { is: 'lost', why }
    }
    if (verdict.is === 'level') {
      await loadScripts(place, scriptNames)
      place.open(gate.shard, verdict.state.epoch, verdict.state.n)
    } else if (verdict.is !== 'new') {
      if (gate.why !== verdict.why) log.error({ shard: gate.shard }, `shut: ${verdict.why}`)
      gate.why = verdict.why
    }
  }
  return shut.filter((gate) => !gate.open).length
}

/** Puts a shard that never served into service under its next epoch; false if another worker does. */
async function begin(
  place: Place,
  database: Database,
  row: ShardRow,
  log: Logger,
): Promise<boolean> {
  const { shard } = row
  const epoch = row.epoch + 1
  const token = randomUUID()
  if (!(await beginRecovery(database, row, epoch, token))) return false
  const begun = await place.call('recovering', [keys.meta(shard)], [epoch, token])
  if (begun !== 'begun') return false
  const published = await place.call(
    'publish',
    [keys.meta(shard), keys.coupons(shard), keys.redemptions(shard)],
    [epoch, token, row.facts, row.intake],
  )
  if (published !== 'published') return false
  const ended = await endRecovery(database, shard, epoch, token)
  if (ended) log.info({ shard, epoch }, 'a new shard is in service')
  return ended
}

/**
 * Policies and loads are not in the journal, so a Redis that lost the last moments before it stopped
 * may lack some although every entry is there. Books that are behind what PostgreSQL believes, or
 * whose numbers do not add up, are marked to be pushed again, which does no harm to what is there.
 * Returns why the shard is lost if a whole book is gone.
 */
async function healPushes(
  database: Database,
  place: Place,
  shard: number,
): Promise<string | undefined> {
  const { rows } = await database.query<{
    book_id: string
    kind: string
    pushed: number
    total: number
  }>(
    `SELECT book_id, kind, pushed_version AS pushed, total_code_count AS total FROM books
     WHERE shard = $1 AND pushed_version > 0`,
    [shard],
  )
  for (const { book_id, kind, pushed, total } of rows) {
    const [left, held, version] = await place.redis.hmget(
      keys.book(shard, book_id),
      'left',
      'held',
      'version',
    )
    if (left == null) return `Redis has lost the book ${book_id}`
    if (Number(version) < pushed)
      await database.query(
        'UPDATE books SET pushed_version = $2 WHERE book_id = $1 AND pushed_version = $3',
        [book_id, Number(version), pushed],
      )
    if (kind === 'codes' && Number(left) + Number(held) < total)
      await database.query(
        `UPDATE loads SET state = 'written' WHERE book_id = $1 AND state = 'pushed'`,
        [book_id],
      )
  }
  return undefined
}
