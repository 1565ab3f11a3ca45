import { Redis } from 'ioredis'
import { isOutage } from '../ledger/outage.ts'

/** Redis, or the API, does not answer. A main says so and ends with 69. */
export class ServerDown extends Error {}

const answerMs = 1_500

/** A connection that is made when it is needed, is tried once, and is not waited for. */
export function openRedis(url: string): Redis {
  const redis = new Redis(url, {
    lazyConnect: true,
    retryStrategy: null,
    connectTimeout: answerMs,
    socketTimeout: answerMs,
    // Left to itself it would keep the process for two seconds after it was told to go.
    disconnectTimeout: 100,
    maxRetriesPerRequest: 0,
    connectionName: 'stampede-cli',
    disableClientInfo: true,
    protocol: 2,
  })
  redis.on('error', () => {}) // whoever asks is told
  return redis
}

/**
 * One piece of work with a Redis that is asked once and not waited for. Work that does not ask it does
 * not need it: what PostgreSQL alone can answer is answered without.
 */
export async function withRedis<T>(url: string, work: (redis: Redis) => Promise<T>): Promise<T> {
  const redis = openRedis(url)
  let reason: Error | undefined
  redis.on('error', (error) => {
    reason = error
  })
  try {
    return await work(redis)
  } catch (error) {
    // Redis' own no, such as NOPERM, is not an outage, nor is what went wrong elsewhere.
    const isReached = redis.status === 'ready' || redis.status === 'wait'
    if ((error as Error).name === 'ReplyError' || isReached || isOutage(error as Error)) throw error
    throw new ServerDown(`Redis does not answer: ${(reason ?? (error as Error)).message}`)
  } finally {
    redis.disconnect()
  }
}
