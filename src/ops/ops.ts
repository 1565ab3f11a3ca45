import type { Redis } from 'ioredis'
import type { Database } from '../ledger/database.ts'

/** What every verb of an operator works with: a connection to each store, whoever opened them. */
export type Ops = {
  redis: Redis
  database: Database
}

/** What Redis answers; where the connection broke, why it did, which ioredis tells to listeners alone. */
export async function answerOf<T>(redis: Redis, asked: Promise<T>): Promise<T> {
  let reason: Error | undefined
  const listen = (error: Error) => {
    reason = error
  }
  redis.on('error', listen)
  try {
    return await asked
  } catch (error) {
    throw (error as Error).name === 'ReplyError' ? error : (reason ?? error)
  } finally {
    redis.off('error', listen)
  }
}
