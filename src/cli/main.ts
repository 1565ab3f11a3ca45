#!/usr/bin/env node
import { Command, CommanderError } from 'commander'
import { complain, exits, explain } from './explain.ts'
import { told } from './say.ts'

/**
 * The ops command. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 there is something to see to, 4 not
 * in time, 69 a server it needs is down, 78 bad configuration, 130 ended by Ctrl-C.
 */

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
  // Only what the verb at hand needs is loaded: the rest would take longer than most verbs. Without one,
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
    process.exitCode = said(error as Error)
  } finally {
    told()
  }
}

/** Says what went wrong, unless commander has done so, and returns the exit code for it. */
function said(error: Error): number {
  if (error instanceof CommanderError) return usage(error)
  const { message, exit } = explain(error)
  complain(message, json)
  return exit
}

function usage({ code, exitCode, message }: CommanderError): number {
  if (exitCode === 0) return 0
  // Where no command was named, commander's message is that it has shown its help.
  const isHelp = code === 'commander.help'
  const error = isHelp ? 'a command is missing: see --help' : message.replace(/^error: /, '')
  if (json) complain(error, json)
  return exits.usage
}

if (import.meta.main) await main()
