import type { Socket } from 'node:net'
import pg from 'pg'
import type { Problem } from '../problems.ts'
import { isOutage } from './outage.ts'

/** bigint columns hold counts and entry numbers far below 2^53: read them as numbers. */
pg.types.setTypeParser(pg.types.builtins.INT8, Number)

/** PostgreSQL ends a statement that takes longer. */
const statementMs = 15_000

export type Database = pg.Pool
export type Transaction = pg.PoolClient

/**
 * A pool of `size` connections. The server ends what hangs (statement 15 s, idle transaction 5 s,
 * lock 2 s), because a client-side timeout would hand a half-dead connection to the next caller.
 */
export function openDatabase(
  url: string,
  size: number,
  name: string,
  silentMs = statementMs + 2_000,
): Database {
  const pool = new pg.Pool({
    connectionString: url,
    max: size,
    application_name: `stampede-${name}`,
    connectionTimeoutMillis: 1_500,
    // A server that is frozen answers nothing, not even its own time-outs; the pool then closes the
    // connection, so that nobody is handed a half-dead one.
    query_timeout: 20_000,
    idleTimeoutMillis: 60_000,
    keepAlive: true,
    options:
      `-c statement_timeout=${statementMs} -c lock_timeout=2000 ` +
      '-c idle_in_transaction_session_timeout=5000 -c synchronous_commit=on -c timezone=UTC',
  })
  // An idle connection that PostgreSQL closes must not end the process: the next query reconnects.
  pool.on('error', () => {})
  // One in use says so to whoever waits for its answer; between two answers nobody is listening.
  pool.on('connect', (client) => client.on('error', () => {}))
  endSilent(pool, silentMs)
  return pool
}

const socketOf = (client: pg.PoolClient) =>
  (client as unknown as { connection: { stream: Socket } }).connection.stream
const clientsOf = new WeakMap<Database, Set<pg.PoolClient>>()

/** Breaks off whatever the pool is asking: nobody is there to answer. */
export function hangUp(database: Database): void {
  for (const client of clientsOf.get(database) ?? []) socketOf(client).destroy()
}

/**
 * A network that fails without a word leaves connections that neither answer nor break, for as long
 * as TCP has patience: a quarter of an hour. PostgreSQL ends its statements itself, so who was asked
 * and says nothing for longer is not there any more; all connections of the pool went the same way.
 */
function endSilent(pool: Database, silentMs: number): void {
  const all = new Set<pg.PoolClient>()
  clientsOf.set(pool, all)
  const asked = new Map<pg.PoolClient, { heard: number; since: number }>()
  const note = (client: pg.PoolClient) =>
    asked.set(client, { heard: socketOf(client).bytesRead, since: performance.now() })

  pool.on('connect', (client) => all.add(client))
  pool.on('acquire', note)
  pool.on('release', (_, client) => asked.delete(client))
  pool.on('remove', (client) => {
    all.delete(client)
    asked.delete(client)
  })
  const look = setInterval(() => {
    if (pool.ended) clearInterval(look)
    for (const [client, { heard, since }] of asked) {
      const socket = socketOf(client)
      // What has come and is not taken yet, as of a COPY whose reader is busy, is not the server's silence.
      if (socket.bytesRead !== heard || socket.readableLength > 0) note(client)
      else if (performance.now() - since > silentMs) hangUp(pool)
    }
  }, silentMs / 8)
  look.unref()
}

/** In the middle of a COPY no transaction of ours hears nothing of its client for so long. */
const abandonedSeconds = 6

/**
 * Ends transactions that wait in the middle of a COPY for a client that is gone without a word, and
 * hold their locks meanwhile: PostgreSQL's own time-outs end idle transactions and long statements, but
 * not one that waits for data. Returns how many there were.
 */
export async function endAbandoned(database: Database): Promise<number> {
  const { rowCount } = await database.query(
    `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
     WHERE datname = current_database() AND usename = current_user
       AND application_name IN ('stampede-worker', 'stampede-api')
       AND state = 'active' AND wait_event = 'ClientRead'
       AND query_start < now() - interval '${abandonedSeconds} s'`,
  )
  return rowCount ?? 0
}

/** The reply to COMMIT did not come: the transaction took place, or it did not. */
export class CommitUnknown extends Error {}

/**
 * Runs `work` in one transaction. A connection whose fate is unclear is closed, not reused. Throws
 * CommitUnknown where nobody can tell whether it took place; with every other error it did not.
 */
export async function transaction<T>(
  database: Database,
  work: (tx: Transaction) => Promise<T>,
): Promise<T> {
  const tx = await database.connect()
  let broken: Error | undefined
  try {
    await tx.query('BEGIN')
    const result = await work(tx)
    await tx.query('COMMIT').catch((cause: Error) => {
      throw isOutage(cause) ? new CommitUnknown(cause.message, { cause }) : cause
    })
    return result
  } catch (error) {
    await tx.query('ROLLBACK').catch((failure: Error) => {
      broken = failure
    })
    throw error
  } finally {
    tx.release(broken)
  }
}

/** Makes a transaction fall, and carries what whoever asked is to hear. */
class Refused extends Error {
  readonly refusal: Problem
  constructor(refusal: Problem) {
    super(refusal.problem)
    this.refusal = refusal
  }
}

/** A transaction that falls where its work comes to a refusal, which is the answer then. */
export async function unlessRefused<T extends object>(
  database: Database,
  work: (tx: Transaction) => Promise<T | Problem>,
): Promise<T | Problem> {
  try {
    return await transaction(database, async (tx) => {
      const result = await work(tx)
      if ('problem' in result) throw new Refused(result)
      return result
    })
  } catch (error) {
    if (error instanceof Refused) return error.refusal
    throw error
  }
}

/** A unique index refused the row (SQLSTATE 23505); `constraint` names which, when it is known. */
export function isUniqueViolation(error: unknown, constraint?: string): boolean {
  const failure = error as { code?: string; constraint?: string }
  return failure?.code === '23505' && (!constraint || failure.constraint === constraint)
}

/** Which kind of outage an error tells of, if any. */
export function outageOf(error: unknown): 'away' | 'commit-unknown' | undefined {
  if (error instanceof CommitUnknown) return 'commit-unknown'
  return isOutage(error) ? 'away' : undefined
}
