import type { Logger } from 'pino'
import { createApp, type Deps } from './app.ts'
import { type ApiConfig, listed } from './config.ts'
import { createAddressOf } from './http/address.ts'
import { openGuard } from './http/guard.ts'
import type { Readiness, Version } from './http/health.ts'
import { openMeters } from './http/meter.ts'
import { createPrincipals } from './http/principal.ts'
import { openRefusals } from './http/refusals.ts'
import { createTokens } from './http/tokens.ts'
import { openAccounts } from './ledger/accounts.ts'
import { openDatabase } from './ledger/database.ts'
import { openExports } from './ledger/exports.ts'
import { openHoldings } from './ledger/holdings.ts'
import { openJobWatch } from './ledger/job-watch.ts'
import { watchPresence } from './ledger/presence.ts'
import { beat } from './ledger/processes.ts'
import { installationId, shardRows } from './ledger/shards.ts'
import { addRefusals, openStats } from './ledger/stats.ts'
import { openLimits, readRule } from './limits.ts'
import { metricsText, type Samples } from './metrics.ts'
import { openOps } from './ops/open.ts'
import type { Queues } from './queues.ts'
import { openBooks } from './recovery/books.ts'
import { openDirectory } from './recovery/directory.ts'
import { openDurable } from './recovery/durable.ts'
import { openFitness } from './recovery/fitness.ts'
import { openGatesOnce, shutGatesOnce } from './recovery/gate.ts'
import { gauges } from './recovery/gauges.ts'
import { openImports } from './recovery/imports.ts'
import { openOperations } from './recovery/operations.ts'
import { openPools } from './recovery/pools.ts'
import { keys } from './store/keys.ts'
import { Place } from './store/place.ts'
import { openStore } from './store/store.ts'
import { name, version } from './version.ts'

type Settings = Pick<
  ApiConfig,
  | 'REDIS_URL'
  | 'DATABASE_URL'
  | 'DATABASE_POOL'
  | 'JWT_SECRET'
  | 'DURABILITY_WAIT_MS'
  | 'BACKLOG_FACTS'
  | 'REDIS_MANAGED'
  | 'LIMIT_REDIS_URL'
  | 'LIMIT_LOGIN_ACCOUNT'
  | 'LIMIT_LOGIN_ADDRESS'
  | 'LIMIT_REGISTER_ADDRESS'
  | 'LIMIT_CODE_USER'
  | 'LIMIT_CODE_ADDRESS'
  | 'LIMIT_CODE_KEY'
  | 'TRUSTED_PROXIES'
  | 'JWT_SECRET_PREVIOUS'
  | 'CORS_ORIGINS'
>
const guardRules = (settings: Settings) => ({
  loginAccount: readRule('login-account', settings.LIMIT_LOGIN_ACCOUNT),
  loginAddress: readRule('login-address', settings.LIMIT_LOGIN_ADDRESS),
  registerAddress: readRule('register-address', settings.LIMIT_REGISTER_ADDRESS),
  codeUser: readRule('code-user', settings.LIMIT_CODE_USER),
  codeAddress: readRule('code-address', settings.LIMIT_CODE_ADDRESS),
  codeKey: readRule('code-key', settings.LIMIT_CODE_KEY),
})
export type House = Awaited<ReturnType<typeof openHouse>>

/**
 * Puts the rooms of an API process together: what src/server.ts serves and what tests speak to. The
 * database must be migrated. It serves once `openGates` has found the shards level.
 */
export async function openHouse(settings: Settings, queues: Queues, log: Logger) {
  const database = openDatabase(settings.DATABASE_URL, settings.DATABASE_POOL, 'api')
  const shards = await shardRows(database)
  const place = new Place(settings.REDIS_URL, shards.length, 'api', await installationId(database))
  const managed = settings.REDIS_MANAGED === '1'
  const fitness = openFitness(place, database, { managed, log })
  const presence = watchPresence(settings.DATABASE_URL, database, log)
  const durable = openDurable(place, database, {
    waitMs: settings.DURABILITY_WAIT_MS,
    managed,
    away: presence.away,
  })
  const store = openStore(place, { backlog: settings.BACKLOG_FACTS }, (shard) =>
    queues.nudge(shard),
  )
  const directory = openDirectory(store, database)
  const accounts = openAccounts(database)
  const tokens = createTokens(settings.JWT_SECRET, Date.now, settings.JWT_SECRET_PREVIOUS)
  const meters = openMeters()
  const addressOf = createAddressOf(listed(settings.TRUSTED_PROXIES))
  const limits = openLimits(settings.LIMIT_REDIS_URL ?? settings.REDIS_URL, (why) =>
    log.warn(
      `failed logins and guesses are counted by each process for itself, because Redis says ${why}: ` +
        'name the user `limit` of docs/redis-acl.md by LIMIT_REDIS_URL',
    ),
  )
  const guard = openGuard(limits.counter, guardRules(settings), addressOf, Date.now, (proxy) =>
    log.warn(
      `X-Forwarded-For came from ${proxy}, which TRUSTED_PROXIES does not name: its clients count as one`,
    ),
  )
  const refusals = openRefusals((some) => addRefusals(database, some), presence)
  const jobWatch = openJobWatch(database)
  const limit = (): Samples => ({ stampede_backlog_limit_facts: [[{}, settings.BACKLOG_FACTS]] })
  const sources = [meters.samples, limit, ...gauges(place, database, queues)]
  let stopping = false
  const stopBeat = beat(database, 'api', version)

  async function readiness(): Promise<Readiness> {
    const postgres = await database.query('SELECT 1').then(
      () => true,
      () => false,
    )
    const metas = await Promise.all(
      place.gates.map(({ shard }) =>
        place.redis
          .hmget(keys.meta(shard), 'phase', 'facts', 'flushed', 'intake')
          .catch(() => [] as (string | null)[]),
      ),
    )
    const shut = place.gates.find((gate) => !gate.open)
    return {
      ready: !stopping && !shut,
      redis: place.connected,
      postgres,
      reason: stopping ? 'this process is stopping' : (shut?.why ?? null),
      shards: place.gates.map(({ shard, epoch, open }, s) => {
        const [phase, facts, flushed, intake] = metas[s]!
        return {
          shard,
          epoch,
          phase: open ? (phase ?? 'unknown') : 'shut',
          intake: intake ?? 'unknown',
          lag: Number(facts ?? 0) - Number(flushed ?? 0),
        }
      }),
    }
  }

  const books = openBooks({ database, store }, queues)
  const exports = openExports(settings.DATABASE_URL, database)
  let board: ReturnType<Deps['board']> | undefined
  const deps: Deps = {
    accounts,
    tokens,
    principals: createPrincipals({ accounts, tokens }),
    guard,
    addressOf,
    store,
    directory,
    durable,
    operations: openOperations(place, database, durable),
    books,
    pools: openPools({ database, store }, queues),
    imports: openImports(database, queues, books),
    exports,
    holdingsOf: openHoldings(database),
    stats: openStats(database),
    refusals,
    jobWatch,
    ops: openOps(
      { redis: place.redis, database },
      { backlog: settings.BACKLOG_FACTS, managed, waitMs: settings.DURABILITY_WAIT_MS },
      queues,
      { store, directory },
    ),
    board: () => (board ??= import('./board.ts').then(({ openBoard }) => openBoard(queues))),
    log,
    readiness,
    meters,
    metrics: () => metricsText(sources),
    version: { name, version, node: process.version, commit: null } satisfies Version,
  }
  return {
    app: createApp(deps, listed(settings.CORS_ORIGINS)),
    deps,
    place,
    database,
    openGates: () => openGatesOnce(place, database, fitness),
    watchGates: () => shutGatesOnce(place, database),
    /** From now on /readyz says no, so that a load balancer sends nobody any more. */
    stop: () => {
      stopping = true
      jobWatch.close()
    },
    async close() {
      jobWatch.close()
      await refusals.close()
      await stopBeat()
      limits.close()
      durable.close()
      presence.close()
      place.close()
      await exports.close()
      await database.end()
    },
  }
}
