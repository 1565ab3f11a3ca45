import type { Command } from 'commander'
import { readConfig } from '../config.ts'
import { openQueueDesk, QueuesAway } from '../queues.ts'
import { count } from './arguments.ts'
import { stores } from './ops.ts'
import { ServerDown } from './redis.ts'
import { say } from './say.ts'

type Desk = ReturnType<typeof openQueueDesk>

/** `queues`: BullMQ's, which carry nothing of their own. */
export function queueVerbs(program: Command): void {
  const queues = program
    .command('queues')
    .description("BullMQ's queues: they say when, and carry nothing of their own")
    .addHelpText('before', 'Example:\n  $ npm run stampede -- queues list\n')
  const verb = (name: string, what: string, yes = '') =>
    queues
      .command(name)
      .description(what)
      .addHelpText('before', `Example:\n  $ npm run stampede -- queues ${name}${yes}\n`)
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
  verb('retry', 'have every failed job done again').action(
    desk(async (its, command) => {
      const retried = await its.retry()
      say(command, `${retried} jobs wait again.`, { retried })
    }),
  )
  verb('clean', 'remove what is over: jobs that were done or failed; waiting ones stay', ' --yes')
    .option('--yes', 'do it; without it you are shown how many would go')
    .action(
      desk(async (its, command) => {
        const over = command.opts().yes ? 0 : await its.over()
        const removed = command.opts().yes ? await its.clean() : 0
        const text = command.opts().yes
          ? `${removed} jobs removed.`
          : `Nothing was changed. With --yes ${over} jobs would go.`
        say(command, text, { removed, over })
      }),
    )
}

/** Runs with the queues of this installation, as far as BullMQ's Redis answers. */
function desk(work: (its: Desk, command: Command) => Promise<void>) {
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
