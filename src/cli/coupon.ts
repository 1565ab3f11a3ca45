import type { Command } from 'commander'
import { readConfig } from '../config.ts'
import { getBook } from '../ledger/books.ts'
import { openDatabase } from '../ledger/database.ts'
import { actOnCoupon, type Wanted } from '../ops/coupon.ts'
import { type Timeline, type TimelineFact, timeline } from '../ops/timeline.ts'
import { type Problem, problemDocument } from '../problems.ts'
import { reason } from './arguments.ts'
import { actor, stores, withOps } from './ops.ts'
import { say } from './say.ts'

export function couponVerbs(program: Command): void {
  const coupon = program
    .command('coupon')
    .description('one coupon')
    .addHelpText('before', 'Example:\n  $ npm run stampede -- coupon show SUMMER-QDJCC3L1-2026\n')
  coupon
    .command('show')
    .description('every fact of it, and what both stores say of it now')
    .argument('<code>')
    .addHelpText('before', 'Example:\n  $ npm run stampede -- coupon show SUMMER-QDJCC3L1-2026\n')
    .action(show)
  const verb = (name: Wanted['verb'], argument: string, what: string, example: string) =>
    coupon
      .command(name)
      .description(what)
      .argument(argument)
      .requiredOption('--reason <text>', 'why: it stands in the audit log', reason)
      .addHelpText('before', `Example:\n  $ npm run stampede -- coupon ${name} ${example}\n`)
      .addHelpText(
        'after',
        '\nEnds with 4 if it is done in Redis and the ledger is late, with 1 if it did not happen.',
      )
      .action(async (subject: string, options: Asked, command: Command) =>
        (await destroys(name, subject, options))
          ? show(subject, options, command, unchanged[name])
          : act(name, subject, options.reason, command),
      )
  verb(
    'release',
    '<code>',
    "put an assigned coupon back into stock; a counter book's code becomes void",
    'SUMMER-QDJCC3L1-2026 --reason "bought by mistake"',
  ).option(
    '--yes',
    "do it to a counter book's code as well; without it you are shown what would go",
  )
  verb(
    'void',
    '<code>',
    'take a code out of circulation for good, from stock or from its holder',
    'SUMMER-QDJCC3L1-2026 --reason "printed in a newspaper" --yes',
  ).option('--yes', 'do it; without it you are shown what would go')
  verb(
    'rollback',
    '<redemption_id>',
    'undo one redemption, once',
    'a7751f2a-1d79-42d3-b608-b9f06142870e --reason "till was wrong"',
  )
}

async function act(
  name: Wanted['verb'],
  subject: string,
  why: string,
  command: Command,
): Promise<void> {
  const { REDIS_MANAGED } = readConfig(['REDIS_MANAGED'])
  const { redis: redisUrl, postgres } = stores()
  const database = openDatabase(postgres, 2, 'cli')
  try {
    const where = { redisUrl, database, managed: REDIS_MANAGED === '1' }
    const wanted = { verb: name, subject }
    const done = await actOnCoupon(where, wanted, { actor, reason: why })
    if ('problem' in done) throw new Error(refusal(name, done))
    if (!done.durable) process.exitCode = 4
    const late = done.durable ? 'in the ledger' : 'in Redis, the ledger is late'
    say(command, `${name} of ${done.code}: entry ${done.entry}, ${late}`, done)
  } finally {
    await database.end()
  }
}

/** What Redis lost looks like anything that was done, so whoever did it must hear more than a title. */
function refusal(name: Wanted['verb'], refused: Problem): string {
  if (refused.problem === 'not-durable')
    return `Redis lost the ${name} before the ledger had it: it did not happen. Do it again.`
  return problemDocument(refused, '', '').title
}

type Asked = { reason: string; yes?: boolean }

/** Of what cannot be undone: what it would be, and what the answer is to say of it. */
const unchanged: Partial<Record<Wanted['verb'], { text: string; said: object }>> = {
  void: {
    text: 'Nothing was changed. With --yes this code would be out of circulation for good.',
    said: { voided: false },
  },
  release: {
    text: 'Nothing was changed. With --yes this code would be void for ever, as all released ones of a counter book.',
    said: { released: false },
  },
}

/** Whether it is for good, and nobody has said --yes. */
async function destroys(verb: Wanted['verb'], code: string, { yes }: Asked): Promise<boolean> {
  if (yes || verb === 'rollback') return false
  if (verb === 'void') return true
  return withOps(async (ops) => {
    const found = await timeline(ops, code)
    const book = found && (await getBook(ops.database, found.book_id))
    return book?.kind === 'counter'
  })
}

/** `next`: what was not done, and how it would be. */
async function show(
  code: string,
  _: unknown,
  command: Command,
  next?: (typeof unchanged)['void'],
): Promise<void> {
  const found = await withOps((ops) => timeline(ops, code))
  if (!found) throw new Error('PostgreSQL has no such code, and Redis no such coupon.')
  if (next) say(command, `${text(found)}\n${next.text}`, { ...found, ...next.said })
  else say(command, text(found), found)
}

const inLedger = ({ in_ledger, recorded_at }: TimelineFact) =>
  !in_ledger
    ? 'not in the ledger yet'
    : recorded_at
      ? `in the ledger ${recorded_at.toISOString()}`
      : 'in the ledger since before migration 0008'

function line(fact: TimelineFact): string {
  const { at, kind, user_id, version, redemptions, actor, request_id, entry, traceparent } = fact
  const what = `${kind.padEnd(8)} ${user_id || 'nobody'}  version ${version}, ${redemptions} redemptions`
  const who = `by ${actor ?? 'somebody'}, request ${request_id ?? 'unknown'}, entry ${entry}`
  const trace = traceparent ? `, trace ${traceparent}` : ''
  return `${at.toISOString()}  ${what}  ${who}${trace}, ${inLedger(fact)}`
}

function text({ code, book_id, facts, journal_cut, parked, redis, postgres }: Timeline): string {
  const cut = '! more waits in the journal than was read: facts of it may be missing here'
  const { record, in_stock, locked_by_guard } = redis
  const inRedis = redis.void
    ? 'VOID'
    : record
      ? JSON.stringify(record)
      : in_stock
        ? 'in stock'
        : 'nothing'
  const inPostgres = postgres
    ? `${postgres.user_id === '' ? 'VOID: ' : ''}${JSON.stringify(postgres)}`
    : 'no coupon'
  return [
    `${code} of book ${book_id}`,
    ...(facts.length > 0 ? facts.map(line) : ['no fact of it was found']),
    ...(journal_cut ? [cut] : []),
    ...parked.map(({ name, reason }) => `! parked ${name}: ${reason}`),
    `redis     ${inRedis}${locked_by_guard ? ', guarded by a lock' : ''}`,
    `postgres  ${inPostgres}`,
  ].join('\n')
}
