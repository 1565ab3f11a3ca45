import type { Row } from './row.ts'
import { failInFlush, freezeAt } from './rows-processes.ts'
import { type Town, until } from './town.ts'

/** How each run stops PostgreSQL around the COMMIT of a flush, in turn; the transaction, if it is known. */
type Stop = {
  when: string
  stop(town: Town): Promise<string | undefined>
  after?(town: Town): Promise<void>
}

const before: Stop = {
  when: 'before COMMIT is sent',
  async stop(town) {
    await failInFlush(town, freezeAt('flush.before-commit'))
    await town.cluster.kill('SIGQUIT')
    town.workers[0].signal('SIGCONT')
    return undefined
  },
}

const within: Stop = {
  when: 'within COMMIT, while its record waits for the disk',
  async stop(town) {
    // The longest that PostgreSQL lets a COMMIT wait before its fsync, in microseconds.
    await alter(town, 'SET commit_siblings = 0', 'SET commit_delay = 100000')
    for (let tries = 0; tries < 200; tries++) {
      const commit = town.proxies!.postgres.keepReply('COMMIT')
      await until(commit.hasPassed, 'a worker commits')
      const transaction = await committing(town)
      if (transaction && !commit.hasReplied()) {
        await town.cluster.kill('SIGQUIT')
        return transaction
      }
      // It was over before we came to look: the next one.
      commit.release()
    }
    throw new Error('no COMMIT was caught under way')
  },
  after: (town) => alter(town, 'RESET commit_siblings', 'RESET commit_delay'),
}

const after: Stop = {
  when: 'after COMMIT, before its reply is there',
  async stop(town) {
    const commit = town.proxies!.postgres.keepReply('COMMIT')
    await until(commit.hasReplied, 'a worker has committed')
    await town.cluster.kill('SIGQUIT')
    return undefined
  },
}

/** Changes settings of the town's own database, and has its workers connect anew, so that they apply. */
async function alter({ database, databaseUrl, proxies }: Town, ...changes: string[]) {
  const name = new URL(databaseUrl).pathname.slice(1)
  for (const change of changes) await database.query(`ALTER DATABASE ${name} ${change}`)
  proxies!.postgres.cut()
}

/** The transaction that a worker's COMMIT is ending now, if PostgreSQL says that one is. */
async function committing({ database }: Town): Promise<string | undefined> {
  const { rows } = await database.query<{ transaction: string }>(
    `SELECT backend_xid::text AS transaction FROM pg_stat_activity
     WHERE datname = current_database() AND application_name = 'stampede-worker'
     AND state = 'active' AND query = 'COMMIT' AND backend_xid IS NOT NULL`,
  )
  return rows[0]?.transaction
}

/** Whether it took place after all. */
async function fateOf({ database }: Town, transaction: string): Promise<string> {
  const { rows } = await database.query<{ fate: string }>(
    'SELECT pg_xact_status($1::xid8) AS fate',
    [transaction],
  )
  return rows[0]!.fate
}

const stops = [before, within, after]

export const stopped: Row = {
  name: 'postgres-stopped',
  what: `PostgreSQL shut down at once in a flush: ${stops.map(({ when }) => when).join('; ')}: 3 variants, in turn; restart`,
  town: { proxied: true },
  async fault({ town, run }) {
    const { when, stop, after } = stops[run % stops.length]!
    const transaction = await stop(town)
    const since = Date.now()
    await town.cluster.start()
    await after?.(town)
    const fate = transaction ? `: ${await fateOf(town, transaction)}` : ''
    return { since, detail: `${when}${fate}` }
  },
}
