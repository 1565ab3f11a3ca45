import { Redis } from 'ioredis'

/** Redis does not answer. A main says so and ends with 69. */
export class RedisDown extends Error {}

const answerMs = 5_000

/** One piece of work with a Redis that is asked once and not waited for. */
export async function withRedis<T>(url: string, work: (redis: Redis) => Promise<T>): Promise<T> {
  const redis = new Redis(url, {
    lazyConnect: true,
    retryStrategy: null,
    connectTimeout: answerMs,
    socketTimeout: answerMs,
    maxRetriesPerRequest: 0,
    connectionName: 'stampede-cli',
    disableClientInfo: true,
    protocol: 2,
  })
  let reason: Error | undefined
  redis.on('error', (error) => {
    reason = error
  })
  try {
    await redis.connect()
    return await work(redis)
  } catch (error) {
    // Redis' own no, such as NOPERM, is not an outage.
    if ((error as Error).name === 'ReplyError') throw error
    throw new RedisDown(`Redis does not answer: ${(reason ?? (error as Error)).message}`)
  } finally {
    redis.disconnect()
  }
}
