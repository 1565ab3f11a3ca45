import { Redis } from 'ioredis'
import { RateLimiterMemory, RateLimiterRedis, RateLimiterRes } from 'rate-limiter-flexible'

/**
 * How often something may go wrong, counted for all processes together in Redis: on a connection, a
 * user and under a key prefix of its own, so that a flood of guesses reaches no coupon. Without that
 * Redis each process counts for itself, because a limit is no reason to refuse everybody.
 */
export type Rule = { name: string; points: number; seconds: number }

/** How many there are now, and for how long they count. */
export type Count = { count: number; ms: number }
export type Counter = { rule: Rule; add(key: string): Promise<Count> }
export type Limits = ReturnType<typeof openLimits>

/** Of limits as the settings write them: `10/600` is 10 in 600 seconds. */
export function readRule(name: string, text: string): Rule {
  const [points, seconds] = text.split('/').map(Number) as [number, number]
  return { name, points, seconds }
}

/** Redis that is slower than this counts as away. */
const patienceMs = 500

/**
 * `url` left out: every process for itself, as in tests that have no Redis. `warn`: told if Redis is
 * there and its user may not count, for then nobody would notice that it never does.
 */
export function openLimits(url: string | undefined, warn: (why: string) => void = () => {}) {
  const redis =
    url === undefined
      ? undefined
      : new Redis(url, {
          connectionName: 'stampede-limit',
          maxRetriesPerRequest: 0,
          enableOfflineQueue: false,
          autoResendUnfulfilledCommands: false,
          commandTimeout: patienceMs,
          connectTimeout: 2_000,
          retryStrategy: (attempt) => Math.min(50 * 2 ** attempt, 2_000),
          disconnectTimeout: 100,
          disableClientInfo: true,
          protocol: 2,
        })
  if (redis) {
    // Nobody waits for it: while it is away the insurance below counts.
    redis.on('error', () => {})
    redis.once('ready', () =>
      redis.pttl('limit:').catch((error: Error) => {
        if (error.message.startsWith('NOPERM')) warn(error.message)
      }),
    )
  }

  return {
    counter(rule: Rule): Counter {
      const options = {
        keyPrefix: `limit:${rule.name}`,
        points: rule.points,
        duration: rule.seconds,
      }
      const memory = new RateLimiterMemory(options)
      const limiter = redis
        ? new RateLimiterRedis({
            ...options,
            storeClient: redis,
            insuranceLimiter: memory,
            rejectIfRedisNotReady: true,
          })
        : memory
      return {
        rule,
        async add(key) {
          const { consumedPoints, msBeforeNext } = await limiter
            .consume(key)
            // Over the limit it rejects with the same numbers.
            .catch((over: unknown) => {
              if (over instanceof RateLimiterRes) return over
              throw over
            })
          return { count: consumedPoints, ms: msBeforeNext }
        },
      }
    },
    close(): void {
      redis?.disconnect()
    },
  }
}
