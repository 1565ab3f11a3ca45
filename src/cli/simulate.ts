import type { Command } from 'commander'
import { makeApiKey } from '../http/tokens.ts'
import { openAccounts } from '../ledger/accounts.ts'
import { audit } from '../ledger/audit.ts'
import { transaction } from '../ledger/database.ts'
import type { Ops } from '../ops/ops.ts'
import { simulate, type Tally } from '../ops/simulate.ts'
import { count, duration, id } from './arguments.ts'
import { actor, running, withOps } from './ops.ts'
import { ServerDown } from './redis.ts'
import { say, tell, told } from './say.ts'

const answerMs = 2_000

type Options = {
  users: number
  rate: number
  book: string
  time: number
  url?: string
}

export function simulateVerb(program: Command): void {
  program
    .command('simulate')
    .description(
      'a rehearsal: a crowd of buyers on one book, checked at the end; uses up its coupons',
    )
    .requiredOption('--book <id>', 'which book', id)
    .option('--users <n>', 'different buyers', count, 10_000)
    .option('--rate <n>', 'buyers that arrive a second', count, 100)
    .option('--time <time>', 'for how long they come', duration, 10_000)
    .option('--url <url>', 'of the API; left out: the `npm start` that runs here')
    .addHelpText(
      'before',
      'Example:\n  $ npm run stampede -- simulate --users 5000 --rate 200 --book 83ff2693-cf4c-4ea8-a2c7-f3bb22244a1d\n',
    )
    .addHelpText(
      'after',
      '\nEnds with 3 if what the buyers were told is not what PostgreSQL holds.',
    )
    .action(run)
}

const line = ({ arrived, requests, assigned, locked, redeemed, refused, p50, p99 }: Tally) =>
  `${arrived} came, ${requests} requests: ${assigned} assigned, ${locked} locked, ${redeemed} redeemed; ` +
  `p50 ${p50.toFixed(1)} ms, p99 ${p99.toFixed(1)} ms; refused ${JSON.stringify(refused)}`

async function run(options: Options, command: Command): Promise<void> {
  const base = (options.url ?? running()?.http)?.replace(/\/$/, '')
  if (!base) command.error('error: --url is needed: no `npm start` runs here', { exitCode: 2 })
  await answers(base)
  const found = await withOps((ops) =>
    withKey(ops, (key) =>
      simulate(ops, {
        ...{ base, key, book: options.book, users: options.users, rate: options.rate },
        seconds: options.time / 1000,
        onTick: (now) => tell(line(now)),
      }),
    ),
  )
  told()
  if (found.verdict === 'different') process.exitCode = 3
  const shown = found.differences.slice(0, 20).map((one) => `! ${one}`)
  say(command, [line(found), `checked: ${found.verdict}`, ...shown].join('\n'), found)
}

/** A crowd in front of a door that nobody opens would be told nothing, and nothing contradicts that. */
async function answers(base: string): Promise<void> {
  const timeout = AbortSignal.timeout(answerMs)
  await fetch(`${base}/healthz`, { signal: timeout }).catch((error: Error) => {
    const why = error.cause instanceof Error ? error.cause.message : error.message
    throw new ServerDown(`the API at ${base} does not answer: ${why}`)
  })
}

/** Works with a key that nobody else knows, and that is revoked afterwards. */
async function withKey<T>({ database }: Ops, work: (key: string) => Promise<T>): Promise<T> {
  const { key, ...stored } = makeApiKey()
  await transaction(database, async (tx) => {
    await openAccounts(tx).createApiKey({ ...stored, name: 'rehearsal', created_by: actor })
    await audit(tx, { actor, action: 'simulate', target: `key:${stored.key_id}` })
  })
  try {
    return await work(key)
  } finally {
    await openAccounts(database).revokeApiKey(stored.key_id)
  }
}
