import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'

type Value = { stringValue?: string; intValue?: number | string; doubleValue?: number }
type Attributes = { key: string; value: Value }[]
type Wired = {
  name: string
  kind: number
  traceId: string
  spanId: string
  parentSpanId?: string
  attributes?: Attributes
  links?: { traceId: string; spanId: string }[]
  events?: { name: string }[]
  status: { code: number }
}
type Traces = {
  resourceSpans: {
    resource: { attributes: Attributes }
    scopeSpans: { spans: Wired[] }[]
  }[]
}
const plain = (attributes: Attributes = []) =>
  Object.fromEntries(
    attributes.map(({ key, value }) => [key, value.stringValue ?? Number(value.intValue)]),
  )

/**
 * What an OpenTelemetry collector is to us: OTLP over HTTP, as JSON. One that is silent takes what is
 * sent, and never answers.
 */
export async function openCollector({ silent = false } = {}) {
  const bodies: string[] = []
  const server = createServer((asked, reply) => {
    const chunks: Buffer[] = []
    asked.on('data', (chunk) => chunks.push(chunk))
    asked.on('end', () => {
      const known = asked.method === 'POST' && asked.url === '/v1/traces'
      if (known) bodies.push(Buffer.concat(chunks).toString())
      if (!silent)
        reply.writeHead(known ? 200 : 404, { 'content-type': 'application/json' }).end('{}')
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  return {
    url: `http://127.0.0.1:${port}`,
    /** All that came, letter by letter. */
    text: () => bodies.join('\n'),
    spans: () =>
      bodies.flatMap((body) =>
        (JSON.parse(body) as Traces).resourceSpans.flatMap(({ resource, scopeSpans }) =>
          scopeSpans.flatMap(({ spans }) =>
            spans.map((span) => ({
              ...span,
              service: plain(resource.attributes)['service.name'],
              attributes: plain(span.attributes),
              links: span.links ?? [],
              events: span.events ?? [],
            })),
          ),
        ),
      ),
    close() {
      server.closeAllConnections()
      server.close()
    },
  }
}
