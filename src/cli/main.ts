#!/usr/bin/env node
import { Command, CommanderError } from 'commander'
import { ConfigError } from '../config.ts'
import { isOutage } from '../ledger/outage.ts'
import { NotSent } from '../store/place.ts'
import { acceptLossVerb } from './accept-loss.ts'
import { adminVerbs } from './admin.ts'
import { bookVerbs } from './books.ts'
import { configVerbs } from './config.ts'
import { controlVerbs } from './control.ts'
import { couponVerbs } from './coupon.ts'
import { doctorVerb } from './doctor.ts'
import { drainVerbs } from './drain.ts'
import { jobVerbs } from './jobs.ts'
import { keyVerbs } from './keys.ts'
import { migrateVerb } from './migrate.ts'
import { parkedVerbs } from './parked.ts'
import { queueVerbs } from './queues.ts'
import { rebuildVerb } from './rebuild.ts'
import { reconcileVerb } from './reconcile.ts'
import { RedisDown } from './redis.ts'
import { replayVerb } from './replay.ts'
import { simulateVerb } from './simulate.ts'
import { statusVerb } from './status.ts'

/**
 * The ops command. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 there is something to see to, 4 not
 * in time, 69 a server it needs is down, 78 bad configuration.
 */
const exits = { failed: 1, usage: 2, unavailable: 69, config: 78 } as const

const program = new Command('stampede')
  .description(
    'Look after a Stampede installation: of the `npm start` that runs here, or of REDIS_URL and DATABASE_URL.',
  )
  .option('--json', 'answer with one JSON object')
  .addHelpText('before', 'Example:\n  $ npm run stampede -- status\n')
  .addHelpText(
    'after',
    '\nExit codes: 0 done, 1 failed, 2 wrong usage, 3 something to see to, 4 not in time, 69 a server is down, 78 bad configuration',
  )
  .exitOverride()
const verbs = [
  ...[statusVerb, doctorVerb, controlVerbs, drainVerbs, reconcileVerb, replayVerb, rebuildVerb],
  ...[bookVerbs, couponVerbs, parkedVerbs, jobVerbs, queueVerbs, keyVerbs],
  ...[simulateVerb, acceptLossVerb, adminVerbs, migrateVerb, configVerbs],
]
for (const add of verbs) add(program)

try {
  await program.parseAsync()
} catch (error) {
  process.exitCode = explain(error as Error)
}

/** Says what went wrong, unless commander has done so, and returns the exit code for it. */
function explain(error: Error): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : exits.usage
  const isDown = isOutage(error)
  const reason = root(error).message
  const message = isDown ? `PostgreSQL does not answer: ${reason}` : reason
  console.error(program.opts().json ? JSON.stringify({ error: message }) : message)
  if (error instanceof ConfigError) return exits.config
  const noRedis = error instanceof RedisDown || error instanceof NotSent
  return isDown || noRedis ? exits.unavailable : exits.failed
}

/**
 * What is at the bottom of an error. drizzle's own message holds the statement and its values, and
 * one of those may be a password's hash; a refused connection is one error around several.
 */
function root(error: Error): Error {
  if (error.cause instanceof Error) return root(error.cause)
  return error instanceof AggregateError ? (error.errors[0] as Error) : error
}
