import pg from 'pg'

/** bigint columns hold counts and entry numbers far below 2^53: read them as numbers. */
pg.types.setTypeParser(pg.types.builtins.INT8, Number)

export type Database = pg.Pool
export type Transaction = pg.PoolClient

/**
 * A pool of `size` connections. The server ends what hangs (statement 15 s, idle transaction 5 s,
 * lock 2 s), because a client-side timeout would hand a half-dead connection to the next caller.
 */
export function openDatabase(url: string, size: number, name: string): Database {
  const pool = new pg.Pool({
    connectionString: url,
    max: size,
    application_name: `stampede-${name}`,
    connectionTimeoutMillis: 2_000,
    // A server that is frozen answers nothing, not even its own time-outs; the pool then closes the
    // connection, so that nobody is handed a half-dead one.
    query_timeout: 20_000,
    idleTimeoutMillis: 60_000,
    keepAlive: true,
    options:
      '-c statement_timeout=15000 -c lock_timeout=2000 ' +
      '-c idle_in_transaction_session_timeout=5000 -c synchronous_commit=on -c timezone=UTC',
  })
  // An idle connection that PostgreSQL closes must not end the process: the next query reconnects.
  pool.on('error', () => {})
  // One in use says so to whoever waits for its answer; between two answers nobody is listening.
  pool.on('connect', (client) => client.on('error', () => {}))
  return pool
}

/** Runs `work` in one transaction. A connection whose fate is unclear is closed, not reused. */
export async function transaction<T>(
  database: Database,
  work: (tx: Transaction) => Promise<T>,
): Promise<T> {
  const tx = await database.connect()
  let broken: Error | undefined
  try {
    await tx.query('BEGIN')
    const result = await work(tx)
    await tx.query('COMMIT')
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

/** A unique index refused the row (SQLSTATE 23505); `constraint` names which, when it is known. */
export function isUniqueViolation(error: unknown, constraint?: string): boolean {
  const failure = error as { code?: string; constraint?: string }
  return failure?.code === '23505' && (!constraint || failure.constraint === constraint)
}
