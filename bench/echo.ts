import { serve } from '@hono/node-server'
import { Hono } from 'hono'

/**
 * What HTTP alone costs on this machine: a bare Hono that parses the same body as assign and answers
 * JSON of as many bytes. Its own process; the parent says how many bytes and hears the port.
 */
export type EchoOrder = { path: string; bytes: number }
export type EchoReady = { port: number }

process.on('disconnect', () => process.exit())
process.once('message', ({ path, bytes }: EchoOrder) => {
  const app = new Hono()
  let padding = ''
  app.post(path, async (c) => {
    const { book_id, user_id } = await c.req.json()
    const body = { book_id, user_id, padding }
    // Every body of a load has the same length, so that this happens once.
    if (padding === '') body.padding = padding = 'x'.repeat(bytes - JSON.stringify(body).length)
    return c.json(body)
  })
  serve({ fetch: app.fetch, hostname: '127.0.0.1', port: 0 }, ({ port }) =>
    process.send!({ port } satisfies EchoReady),
  )
})
