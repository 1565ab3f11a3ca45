import { Redis } from 'ioredis'

/** Redis does not answer. A main says so and ends with 69. */
export class RedisDown extends Error {}

const answerMs = 2_000

/** A connection that is not made yet, is tried once, and waits for nothing. */
export function openRedis(url: string): Redis {
  const redis = new Redis(url, {
    lazyConnect: true,
    retryStrategy: null,
    connectTimeout: answerMs,
    socketTimeout: answerMs,
    maxRetriesPerRequest: 0,
    enableOfflineQueue: false,
    connectionName: 'stampede-cli',
    disableClientInfo: true,
    protocol: 2,
  })
  redis.on('error', () => {}) // whoever asks is told
  return redis
}

/** One piece of work with a Redis that is asked once and not waited for. */
export async function withRedis<T>(url: string, work: (redis: Redis) => Promise<T>): Promise<T> {
  const redis = openRedis(url)
  let reason: Error | undefined
  redis.on('error', (error) => {
    reason = error
  })
  try {
    await redis.connect()
    return await work(redis)
  } catch (error) {
    // Redis' own no, such as NOPERM, is not an outage, nor is what went wrong elsewhere.
    if ((error as Error).name === 'ReplyError' || redis.status === 'ready') throw error
    throw new RedisDown(`Redis does not answer: ${(reason ?? (error as Error)).message}`)
  } finally {
    redis.disconnect()
  }
}
