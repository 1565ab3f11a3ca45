import type { Command } from 'commander'
import { type Timeline, timeline } from '../ops/timeline.ts'
import { withOps } from './ops.ts'
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
}

async function show(code: string, _: unknown, command: Command): Promise<void> {
  const found = await withOps((ops) => timeline(ops, code))
  if (!found) throw new Error('Neither store has ever heard of this code.')
  say(command, text(found), found)
}

function text({ code, book_id, facts, parked, redis, postgres }: Timeline): string {
  const lines = facts.map(
    ({ at, entry, kind, user_id, version, redemptions, actor, request_id }) =>
      `${at.toISOString()}  ${kind.padEnd(8)} ${user_id}  version ${version}, ${redemptions} redemptions` +
      `  by ${actor}, request ${request_id}, entry ${entry}`,
  )
  const { record, in_stock, locked_by_guard } = redis
  return [
    `${code} of book ${book_id}`,
    ...(lines.length > 0 ? lines : ['the ledger has no fact of it']),
    ...parked.map(({ name, reason }) => `! parked ${name}: ${reason}`),
    `redis     ${record ? JSON.stringify(record) : in_stock ? 'in stock' : 'nothing'}${locked_by_guard ? ', guarded by a lock' : ''}`,
    `postgres  ${postgres ? JSON.stringify(postgres) : 'no coupon: in stock'}`,
  ].join('\n')
}
