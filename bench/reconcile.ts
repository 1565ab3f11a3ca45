import { keys } from '../src/store/keys.ts'
import type { Acknowledged } from './answers.ts'
import type { Book } from './client.ts'
import type { Stores } from './stores.ts'

/** What the client counted: of `undecided` requests nobody told it whether they happened. */
export type Claims = { acknowledged: Acknowledged[]; undecided: number }

/** No answer at all, or one that says so, or that the ledger may not have it yet. */
export const undecided = (unanswered: number, refused: Record<string, number>): number =>
  unanswered + (refused['outcome-unknown'] ?? 0) + (refused.late ?? 0)

const levelMs = 30_000

/**
 * Compares what the client was told with the ledger, the coupons and Redis, and names every
 * difference: oversold, handed out twice, acknowledged and lost, or never asked for.
 */
export async function reconcile(stores: Stores, book: Book, claims: Claims): Promise<string[]> {
  const found: string[] = []
  const same = (what: string, is: unknown, expected: unknown) => {
    if (is !== expected) found.push(`${what}: ${is} instead of ${expected}`)
  }
  if (!(await stores.untilLevel(levelMs))) found.push('the ledger is not level after 30 s')

  const ledger = await ledgerOf(stores, book.id)
  compareAnswers(ledger, claims, found)
  const { size } = new Map(ledger)
  same('distinct codes in the ledger', size, ledger.length)
  same('distinct users in the ledger', new Set(ledger.map(([, user]) => user)).size, ledger.length)

  const in_postgres = await postgresOf(stores, book.id)
  same('rows of coupons', in_postgres.coupons, ledger.length)
  same('held, as PostgreSQL counts', in_postgres.held, ledger.length)
  same('codes in PostgreSQL', in_postgres.codes, book.total)
  same('parked facts', in_postgres.parked, 0)

  const in_redis = await redisOf(stores, book.id)
  same('held in Redis', in_redis.held, ledger.length)
  same('users in Redis', in_redis.users, ledger.length)
  same('left and held in Redis', in_redis.left + in_redis.held, book.total)
  same('codes in stock', in_redis.stock, in_redis.left)
  same("the journal's last entry", in_redis.last, in_redis.last && in_postgres.checkpoint)
  return found
}

type Row = [code: string, user: string]

/** An acknowledgement that the ledger does not have, and who has the code now. */
export type Lost = Acknowledged & { now: string | null }

/** Tells what the ledger has of the acknowledged from what was lost. */
export async function keptOf(stores: Stores, book: Book, acknowledged: Acknowledged[]) {
  const owner = new Map(await ledgerOf(stores, book.id))
  const kept: Acknowledged[] = []
  const lost: Lost[] = []
  for (const one of acknowledged)
    if (owner.get(one.code) === one.user) kept.push(one)
    else lost.push({ ...one, now: owner.get(one.code) ?? null })
  return { kept, lost }
}

async function ledgerOf({ database }: Stores, book: string): Promise<Row[]> {
  const { rows } = await database.query<Row>({
    text: "SELECT code, user_id FROM ledger WHERE book_id = $1 AND kind = 'assign'",
    values: [book],
    rowMode: 'array',
  })
  return rows
}

function compareAnswers(ledger: Row[], claims: Claims, found: string[]): void {
  const { acknowledged, undecided } = claims
  const owner = new Map(ledger)
  const told = new Map(acknowledged.map(({ code, user }) => [code, user]))
  const lost = acknowledged.filter(({ code, user }) => owner.get(code) !== user)
  if (lost.length > 0)
    found.push(`lost: ${lost.length} acknowledgements, the first of ${JSON.stringify(lost[0])}`)
  if (told.size < acknowledged.length)
    found.push(`duplicate: ${acknowledged.length - told.size} codes were given to two clients`)
  // Up to that many facts need no acknowledgement.
  const unknown = ledger.length - acknowledged.length
  if (unknown < 0 || unknown > undecided)
    found.push(
      `facts in the ledger: ${ledger.length}, acknowledged: ${acknowledged.length}, ` +
        `undecided: ${undecided}`,
    )
}

async function postgresOf({ database }: Stores, book: string) {
  const { rows } = await database.query(
    `SELECT s.checkpoint_epoch || '-' || s.checkpoint AS checkpoint,
       (SELECT count(*) FROM coupons WHERE book_id = $1) AS coupons,
       (SELECT count(*) FROM codes WHERE book_id = $1) AS codes,
       (SELECT count(*) FROM parked_facts) AS parked,
       coalesce((SELECT held FROM book_counters WHERE book_id = $1), 0) AS held
     FROM shards s JOIN books b USING (shard) WHERE b.book_id = $1`,
    [book],
  )
  return rows[0] as Record<'coupons' | 'codes' | 'parked' | 'held', number> & { checkpoint: string }
}

async function redisOf({ redis, shardOf }: Stores, book: string) {
  const shard = await shardOf(book)
  const [left, held] = await redis.hmget(keys.book(shard, book), 'left', 'held')
  const [last] = await redis.xrevrange(keys.journal(shard), '+', '-', 'COUNT', 1)
  return {
    left: Number(left),
    held: Number(held),
    stock: await redis.scard(keys.stock(shard, book)),
    users: (await redis.hlen(keys.users(shard, book))) - 1, // the sentinel is nobody
    last: last?.[0],
  }
}
