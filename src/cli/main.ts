#!/usr/bin/env node
import { Command, CommanderError } from 'commander'
import { ConfigError } from '../config.ts'
import { isOutage } from '../ledger/outage.ts'
import { NotSent } from '../store/place.ts'
import { ServerDown } from './redis.ts'
import { told } from './say.ts'

/**
 * The ops command. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 there is something to see to, 4 not
 * in time, 69 a server it needs is down, 78 bad configuration, 130 ended by Ctrl-C.
 */
const exits = { failed: 1, usage: 2, unavailable: 69, config: 78 } as const

/** Known before commander has read it, because what it refuses is an answer as well. */
const json = process.argv.slice(2).includes('--json')

const program = new Command('stampede')
  .description(
    'Look after a Stampede installation: of the `npm start` that runs here, or of REDIS_URL and DATABASE_URL.',
  )
  .option('--json', 'answer with one JSON object')
  .addHelpText('before', 'Example:\n  $ npm run stampede -- status\n')
  .addHelpText(
    'after',
    '\nExit codes: 0 done, 1 failed, 2 wrong usage, 3 something to see to, 4 not in time, 69 a server is down, 78 bad configuration, 130 ended by Ctrl-C',
  )
  .exitOverride()
// With --json an error is the one object that `explain` prints, and nothing besides.
if (json) program.configureOutput({ writeErr: () => {} })
/** Where each verb is defined, in the order of --help. */
export const verbs: Record<string, () => Promise<(program: Command) => void>> = {
  status: async () => (await import('./status.ts')).statusVerb,
  doctor: async () => (await import('./doctor.ts')).doctorVerb,
  'pause resume': async () => (await import('./control.ts')).controlVerbs,
  'drain verify-certificate': async () => (await import('./drain.ts')).drainVerbs,
  reconcile: async () => (await import('./reconcile.ts')).reconcileVerb,
  replay: async () => (await import('./replay.ts')).replayVerb,
  rebuild: async () => (await import('./rebuild.ts')).rebuildVerb,
  books: async () => (await import('./books.ts')).bookVerbs,
  coupon: async () => (await import('./coupon.ts')).couponVerbs,
  parked: async () => (await import('./parked.ts')).parkedVerbs,
  jobs: async () => (await import('./jobs.ts')).jobVerbs,
  queues: async () => (await import('./queues.ts')).queueVerbs,
  keys: async () => (await import('./keys.ts')).keyVerbs,
  simulate: async () => (await import('./simulate.ts')).simulateVerb,
  'accept-loss': async () => (await import('./accept-loss.ts')).acceptLossVerb,
  admin: async () => (await import('./admin.ts')).adminVerbs,
  migrate: async () => (await import('./migrate.ts')).migrateVerb,
  config: async () => (await import('./config.ts')).configVerbs,
}

async function main(): Promise<void> {
  // Only what the verb at hand needs is loaded: that is 0.4 s less of 0.6 for most of them. Without one,
  // or with one that is none, --help and the error need all of them.
  const asked = process.argv.slice(2).find((word) => !word.startsWith('-'))
  const names = Object.keys(verbs)
  const needed = names.filter((name) => asked && name.split(' ').includes(asked))
  for (const name of needed.length > 0 ? needed : names) {
    const define = await verbs[name]!()
    define(program)
  }
  try {
    await program.parseAsync()
  } catch (error) {
    told()
    process.exitCode = explain(error as Error)
  } finally {
    told()
  }
}

/** Says what went wrong, unless commander has done so, and returns the exit code for it. */
function explain(error: Error): number {
  if (error instanceof CommanderError) return usage(error)
  const isDown = isOutage(error)
  const reason = root(error).message
  const message = isDown ? `PostgreSQL does not answer: ${reason}` : reason
  console.error(json ? JSON.stringify({ error: message }) : message)
  if (error instanceof ConfigError) return exits.config
  const noRedis = error instanceof ServerDown || error instanceof NotSent
  return isDown || noRedis ? exits.unavailable : exits.failed
}

function usage({ code, exitCode, message }: CommanderError): number {
  if (exitCode === 0) return 0
  // Where no command was named, commander's message is that it has shown its help.
  const isHelp = code === 'commander.help'
  const error = isHelp ? 'a command is missing: see --help' : message.replace(/^error: /, '')
  if (json) console.error(JSON.stringify({ error }))
  return exits.usage
}

/**
 * What is at the bottom of an error. drizzle's own message holds the statement and its values, and
 * one of those may be a password's hash; a refused connection is one error around several.
 */
function root(error: Error): Error {
  if (error.cause instanceof Error) return root(error.cause)
  return error instanceof AggregateError ? (error.errors[0] as Error) : error
}

if (import.meta.main) await main()
