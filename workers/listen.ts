import { once } from 'node:events'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Logger } from 'pino'
import { metricsText, metricsType, type Source } from '../src/metrics.ts'

/**
 * A worker's /metrics and /livez. It asks nobody for a credential and holds no secret: HOST says who
 * can reach it. Without it the worker does its work all the same, so a taken port is a warning.
 */
export async function listen(
  at: { host: string; port: number },
  sources: readonly Source[],
  log: Logger,
): Promise<Server | undefined> {
  const server = createServer({ headersTimeout: 5_000, requestTimeout: 5_000 }, (asked, reply) => {
    const path = asked.url?.split('?')[0]
    const say = (status: number, type: string, text: string) =>
      reply.writeHead(status, { 'Content-Type': type, 'Cache-Control': 'no-store' }).end(text)
    if (asked.method !== 'GET' && asked.method !== 'HEAD') say(405, 'text/plain', 'GET only\n')
    else if (path === '/livez') say(200, 'application/json', '{"alive":true}')
    else if (path === '/metrics')
      metricsText(sources).then(
        (text) => say(200, metricsType, text),
        (error: Error) => say(500, 'text/plain', `${error.message}\n`),
      )
    else say(404, 'text/plain', '/metrics and /livez are here\n')
  })
  try {
    server.listen(at.port, at.host)
    await once(server, 'listening')
  } catch (error) {
    log.warn(`no metrics: ${(error as Error).message}`)
    return undefined
  }
  server.on('error', (error) => log.warn(`metrics: ${error.message}`))
  const { port } = server.address() as AddressInfo
  log.info(`metrics on http://${at.host}:${port}/metrics`)
  return server
}
