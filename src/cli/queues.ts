import type { Command } from 'commander'
import { readConfig } from '../config.ts'
import { type Database, openDatabase } from '../ledger/database.ts'
import { cleanQueues, retryQueues } from '../ops/queues.ts'
import { openQueueDesk, type QueueDesk, QueuesAway } from '../queues.ts'
import { count, reason, reasonFor } from './arguments.ts'
import { actor, stores } from './ops.ts'
import { ServerDown } from './redis.ts'
import { say } from './say.ts'

/** `queues`: BullMQ's, which carry nothing of their own. */
export function queueVerbs(program: Command): void {
  const queues = program
    .command('queues')
    .description("BullMQ's queues: they say when, and carry nothing of their own")
    .addHelpText('before', 'Example:\n  $ npm run stampede -- queues list\n')
  const why = 'why: it stands in the audit log'
  const verb = (name: string, what: string, rest = '') =>
    queues
      .command(name)
      .description(what)
      .addHelpText('before', `Example:\n  $ npm run stampede -- queues ${name}${rest}\n`)
  verb('list', 'how many jobs are in which state, and who works').action(
    desk(async (its, command) => {
      const found = await its.list()
      const lines = found.map(
        (one) =>
          `${one.queue.padEnd(6)} ${one.waiting} waiting, ${one.active} active, ${one.delayed} delayed, ` +
          `${one.failed} failed; ${one.workers} workers${one.paused ? '; PAUSED' : ''}`,
      )
      say(command, lines.join('\n'), { queues: found })
    }),
  )
  verb('failed', 'jobs that failed for good')
    .option('--limit <n>', 'at most so many of each queue', count, 50)
    .addHelpText('after', '\nEnds with 3 if there are any.')
    .action(
      desk(async (its, command) => {
        const found = await its.failed(command.opts().limit)
        if (found.length > 0) process.exitCode = 3
        const lines = found.map(
          ({ queue, id, reason, at }) => `${queue} ${id} ${at.toISOString()}: ${reason}`,
        )
        say(command, lines.join('\n') || 'None has failed.', { failed: found })
      }),
    )
  verb('retry', 'have every failed job done again', ' --reason "collector is back"')
    .requiredOption('--reason <text>', why, reason)
    .action(
      desk(async (its, command) => {
        const by = { actor, reason: command.opts().reason }
        const retried = await withLedger((database) => retryQueues({ database }, its, by))
        say(command, `${retried} jobs wait again.`, { retried })
      }),
    )
  const over = 'remove what is over: jobs that were done or failed; waiting ones stay'
  verb('clean', over, ' --yes --reason "looked into"')
    .option('--yes', 'do it; without it you are shown how many would go')
    .option('--reason <text>', `${why}; --yes needs it`, reason)
    .action(
      desk(async (its, command) => {
        const { yes, reason: given } = command.opts()
        if (!yes) {
          const over = await its.over()
          const text = `Nothing was changed. With --yes and a --reason ${over} jobs would go.`
          say(command, text, { removed: 0, over })
          return
        }
        const by = { actor, reason: reasonFor(given, command) }
        const removed = await withLedger((database) => cleanQueues({ database }, its, by))
        say(command, `${removed} jobs removed.`, { removed, over: 0 })
      }),
    )
}

/** What is done stands in the audit log, or is not done. */
async function withLedger<T>(work: (database: Database) => Promise<T>): Promise<T> {
  const database = openDatabase(stores().postgres, 1, 'cli')
  try {
    return await work(database)
  } finally {
    await database.end()
  }
}

/** Runs with the queues of this installation, as far as BullMQ's Redis answers. */
function desk(work: (its: QueueDesk, command: Command) => Promise<void>) {
  return async (_: unknown, command: Command): Promise<void> => {
    const { QUEUE_REDIS_URL } = readConfig(['QUEUE_REDIS_URL'])
    const its = openQueueDesk(QUEUE_REDIS_URL ?? stores().redis)
    try {
      await work(its, command)
    } catch (error) {
      if (!(error instanceof QueuesAway)) throw error
      throw new ServerDown(`BullMQ's Redis does not answer: ${error.message}`)
    } finally {
      await its.close()
    }
  }
}
