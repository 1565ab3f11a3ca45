import { once } from 'node:events'
import { type AddressInfo, Server as TcpServer } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { setFlagsFromString } from 'node:v8'
import closeWithGrace from 'close-with-grace'
import { apiConfig, ConfigError } from './config.ts'
import { openHouse } from './house.ts'
import { createHttpServer } from './http/listener.ts'
import { openLog } from './log.ts'
import { openQueues } from './queues.ts'

/** How often a shut gate is looked at, and how long a stop may take. */
const gateMs = 100
/** Open gates are looked at once a second. */
const looksPerWatch = 10
const stopMs = 8_000
/** After SIGTERM clients are told to leave for this long before their connections are closed. */
const leaveMs = 500

/**
 * V8 takes a steady sale for a time to save memory: it then collects all garbage every seven seconds, or once in 100 s
 * with all that there is moved together, and buyers wait for 30 to 300 ms. Now it does so where there is three times as
 * much garbage as there is of use, as it does by itself in busier times, and moves no more than usual.
 */
setFlagsFromString('--heap-growing-percent=300')
setFlagsFromString('--no-memory-reducer-favors-memory')

/** The API process: `node src/server.ts`. Exits 78 on wrong configuration, 69 without PostgreSQL. */
const config = (() => {
  try {
    return apiConfig()
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    console.error(error.message)
    process.exit(78)
  }
})()
const log = openLog('api', config.LOG_LEVEL)
const tracing = config.OTEL_EXPORTER_OTLP_ENDPOINT
  ? (await import('./tracing.ts')).startTracing('stampede-api', config, log)
  : undefined
const queues = openQueues(config.QUEUE_REDIS_URL ?? config.REDIS_URL, tracing?.telemetry)
const house = await openHouse(config, queues, log).catch((error: Error) => {
  log.fatal(`PostgreSQL has no shards to serve: ${error.message}. Is it there, and migrated?`)
  process.exit(69)
})

let closing = false
let looks = 0
const gates = (async () => {
  for (let shut = -1; !closing; ) {
    const left = await house.openGates().catch((error: Error) => {
      log.error({ err: error }, 'could not look at the gates')
      return shut
    })
    if (left !== shut) log.info(left === 0 ? 'all shards serve' : `${left} shards are shut`)
    shut = left
    // Also shards that were recovered while nobody asked for them: the next request must not find out.
    if (++looks % looksPerWatch === 0) await house.watchGates().catch(() => {})
    await new Promise((resolve) => setTimeout(resolve, gateMs))
  }
})()

const server = createHttpServer(house.app, config.MAX_CONNECTIONS).listen(
  config.PORT,
  config.HOST,
  () => {
    const at = server.address() as AddressInfo
    log.info(`listening on http://${config.HOST}:${at.port}`)
  },
)
server.on('error', (error: NodeJS.ErrnoException) => {
  log.fatal(`cannot listen on ${config.HOST}:${config.PORT}: ${error.message}`)
  process.exit(1)
})
closeWithGrace({ delay: stopMs, logger: log }, async ({ err }) => {
  if (err) log.fatal({ err }, 'unexpected error')
  house.stop()
  closing = true
  // A kept-alive connection would hold the close up for as long as its client finds something to
  // ask: the next answer is its last. Whoever is talking hears so before idle connections are closed,
  // as http's own close would do at once: a request on its way to one would have an unknown outcome.
  server.prependListener('request', (_, response) => {
    response.shouldKeepAlive = false
  })
  const closed = once(server, 'close')
  TcpServer.prototype.close.call(server)
  await sleep(leaveMs)
  const idle = setInterval(() => server.closeIdleConnections(), 50)
  await closed
  clearInterval(idle)
  await gates
  await queues.close()
  await house.close()
  await tracing?.stop()
})
