import { ConfigError } from '../config.ts'
import { isOutage } from '../ledger/outage.ts'
import { NotSent } from '../store/place.ts'
import { ServerDown } from './redis.ts'

export const exits = {
  failed: 1,
  usage: 2,
  different: 3,
  late: 4,
  unavailable: 69,
  config: 78,
} as const

/** What went wrong in words for people, and the exit code for it. */
export function explain(error: Error): { message: string; exit: number } {
  const isDown = isOutage(error)
  const reason = root(error).message
  const message = isDown ? `PostgreSQL does not answer: ${reason}` : reason
  if (error instanceof ConfigError) return { message, exit: exits.config }
  const noRedis = error instanceof ServerDown || error instanceof NotSent
  return { message, exit: isDown || noRedis ? exits.unavailable : exits.failed }
}

/**
 * What is at the bottom of an error. drizzle's own message holds the statement and its values, and
 * one of those may be a password's hash; a refused connection is one error around several.
 */
function root(error: Error): Error {
  if (error.cause instanceof Error) return root(error.cause)
  return error instanceof AggregateError ? (error.errors[0] as Error) : error
}

/** What went wrong goes where no answer is looked for; --json: as an object. */
export const complain = (message: string, json: boolean): void =>
  console.error(json ? JSON.stringify({ error: message }) : message)
