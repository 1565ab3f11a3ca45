import { randomUUID } from 'node:crypto'
import { createServer, type Server } from 'node:http'
import type { Socket } from 'node:net'
import { getRequestListener, RequestError } from '@hono/node-server'
import type { OpenAPIHono } from '@hono/zod-openapi'
import { type Problem, problem, problemDocument, problemStatus } from '../problems.ts'
import type { Context, Env } from './context.ts'
import { ofJson } from './headers.ts'

/**
 * Whoever takes longer for their headers, or for the whole request, is cut: looked for every second,
 * for Node's own half minute is long enough to hold all the sockets there are.
 */
const limits = {
  headersTimeout: 5_000,
  requestTimeout: 10_000,
  keepAliveTimeout: 65_000,
  connectionsCheckingInterval: 1_000,
  maxHeaderSize: 16 * 1024,
}
/** Whoever takes nothing of their answer for this long is cut. */
const unreadMs = 60_000

/**
 * The app behind a server that has yet to listen. A request without a usable URL (a Host that is
 * none, a backslash in the path) never reaches the app; it gets a problem document all the same.
 * Bytes that are no HTTP at all get Node's own bare 400, 408 or 431.
 */
export function createHttpServer(
  app: OpenAPIHono<Env>,
  maxConnections = 10_000,
  lookMs = unreadMs,
): Server {
  const errorHandler = (error: unknown) => {
    const refusal = error instanceof RequestError ? notHttp : problem('internal-error')
    const id = randomUUID()
    const body = JSON.stringify(problemDocument(refusal, '/', id))
    const headers = { ...ofJson, 'Content-Type': 'application/problem+json', 'X-Request-Id': id }
    return new Response(body, { status: problemStatus(refusal.problem), headers })
  }
  const listener = getRequestListener(app.fetch, { hostname: 'localhost', errorHandler })
  const server = createServer(limits, listener)
  server.maxConnections = maxConnections
  cutUnread(server, lookMs)
  server.on('clientError', (error: NodeJS.ErrnoException, socket: Socket) => {
    if (error.code === 'ERR_HTTP_REQUEST_TIMEOUT' && unhurried.has(socket)) return
    refuseBytes(error.code, socket)
  })
  return server
}

/** Sockets whose request may take longer than `requestTimeout`: whoever reads its body minds the pace. */
const unhurried = new WeakSet<Socket>()

/** Exempts this request from `requestTimeout` until the returned function is called. */
export function takeTime(c: Context): () => void {
  const socket = c.env?.incoming?.socket
  if (!socket) return () => {}
  unhurried.add(socket)
  return () => unhurried.delete(socket)
}

const bare: Record<string, string> = {
  HPE_HEADER_OVERFLOW: '431 Request Header Fields Too Large',
  HPE_CHUNK_EXTENSIONS_OVERFLOW: '413 Payload Too Large',
  ERR_HTTP_REQUEST_TIMEOUT: '408 Request Timeout',
}

/** As Node does where nobody listens to `clientError`. */
function refuseBytes(code: string | undefined, socket: Socket): void {
  const answering = (socket as { _httpMessage?: { headersSent: boolean } })._httpMessage
  if (socket.writable && !answering?.headersSent)
    socket.write(`HTTP/1.1 ${bare[code ?? ''] ?? '400 Bad Request'}\r\nConnection: close\r\n\r\n`)
  socket.destroySoon()
}

/**
 * Node's own time-out of sockets would be wound up anew by every byte of every request; this looks now
 * and then at those alone that have something left to take.
 */
function cutUnread(server: Server, lookMs: number): void {
  const sockets = new Map<Socket, number>()
  server.on('connection', (socket: Socket) => {
    sockets.set(socket, -1)
    socket.once('close', () => sockets.delete(socket))
  })
  const look = () => {
    for (const [socket, before] of sockets) {
      // What is left of what was ever written: the same as at the last look, and nothing moved.
      const taken = socket.writableLength === 0 ? -1 : socket.bytesWritten - socket.writableLength
      if (taken !== -1 && taken === before) socket.destroy()
      else sockets.set(socket, taken)
    }
  }
  const looking = setInterval(look, lookMs).unref()
  server.once('close', () => clearInterval(looking))
}

const notHttp: Problem = {
  ok: false,
  problem: 'invalid-request',
  errors: [{ path: 'url', message: 'must be a path on a valid host' }],
}
