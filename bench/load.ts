import { createHistogram } from 'node:perf_hooks'
import autocannon from 'autocannon'
import { readAnswers, type Sample } from './answers.ts'

/** Autocannon in a process of its own, so that what it costs can be told apart. */
export type LoadOrder = {
  url: string
  headers: Record<string, string>
  /** Each request is this body with another user in place of `user`, in its Idempotency-Key as well. */
  body: string
  user: string
  firstUser: number
  connections: number
  /** It ends after this many seconds, or this many requests. */
  seconds?: number
  amount?: number
  sample: Sample
}
/** Sent as soon as the last answer is there; `at` by the clock that all processes share. */
export type LoadEnded = { is: 'ended'; at: number }
export type LoadResult = {
  is: 'result'
  sent: number
  answers: number
  accepted: number
  /** Problem code -> how many answers had it. */
  refused: Record<string, number>
  errors: number
  timeouts: number
  seconds: number
  latencyMs: { p50: number; p95: number; p99: number; max: number; mean: number }
  /** The longest time without an acknowledgement, from the first answer to the last one. */
  pauseMs: number
  /** The accepted answers' codes and users: see answers.ts. */
  acknowledged: Uint8Array
}
export type LoadMessage = { is: 'ready' } | LoadEnded | LoadResult

/** Members of autocannon's client that its types leave out; its version is pinned. */
type Connection = autocannon.Client & {
  getRequestBuffer(): Buffer
  reqsMade: number
  responseMax: number
}

/** A connection that hangs is given up after 10 s; autocannon itself must not end a round sooner. */
const timeoutSeconds = 10
const backstopSeconds = 60

function run(order: LoadOrder): void {
  const { url, headers, body, connections, amount, seconds } = order
  const answers = readAnswers(order.sample)
  const latency = createHistogram()
  const open = new Set<Connection>()
  const started = performance.now()
  let sent = 0
  let last = started
  let status = 0
  let acceptedAt = started
  let pauseMs = 0

  /**
   * Every request is one prepared buffer with the next user's number written into it: the server
   * sees a new user each time, and the generator leaves the cores to the server. The buffer is free
   * again when it is used again, because a connection has one request under way.
   */
  function setupClient(client: autocannon.Client): void {
    const connection = client as Connection
    const request = Buffer.from(connection.getRequestBuffer())
    const places = [request.indexOf(order.user), request.lastIndexOf(order.user)]
    const [inKey, inBody] = places.map((at) => at + order.user.length - digits) as [number, number]
    connection.getRequestBuffer = () => {
      const number = String(order.firstUser + sent++).padStart(digits, '0')
      request.write(number, inBody, 'latin1')
      if (inKey !== inBody) request.write(number, inKey, 'latin1')
      return request
    }
    open.add(connection)
    connection.once('done', () => {
      open.delete(connection)
      if (open.size === 0) process.send!({ is: 'ended', at: Date.now() } satisfies LoadEnded)
    })
  }

  const load = autocannon(
    {
      ...{ url, method: 'POST', headers, body, connections, setupClient },
      ...(amount ? { amount } : { duration: seconds! + backstopSeconds }),
      timeout: timeoutSeconds,
      sampleInt: 100,
      // Autocannon tells the status just before, and wants to hear true.
      verifyBody: (text) => {
        if (answers.read(text as string, status)) {
          if (acceptedAt !== started) pauseMs = Math.max(pauseMs, last - acceptedAt)
          acceptedAt = last
        }
        return true
      },
    },
    (error, result) => {
      if (error) throw error
      const ms = (percent: number) => latency.percentile(percent) / 1000
      const report: LoadResult = {
        is: 'result',
        sent,
        ...answers.counts(),
        errors: result.errors,
        timeouts: result.timeouts,
        seconds: (last - started) / 1000,
        latencyMs: {
          ...{ p50: ms(50), p95: ms(95), p99: ms(99) },
          ...{ max: latency.max / 1000, mean: latency.mean / 1000 },
        },
        pauseMs: Math.max(pauseMs, last - acceptedAt),
        acknowledged: answers.acknowledged(),
      }
      process.send!(report)
    },
  )
  // Autocannon's own histogram counts whole milliseconds. A connection's first answer is left out:
  // its time is that of the connect.
  load.on('response', (client, code, _bytes, ms) => {
    status = code
    last = performance.now()
    if ((client as Connection).reqsMade > 1) latency.record(Math.max(1, Math.round(ms * 1000)))
  })
  // Autocannon's own end drops the requests under way, and nobody would know what became of them.
  // Told that it has made all its requests, a connection ends with the answer to the last one.
  if (!amount)
    setTimeout(() => {
      for (const connection of open) connection.responseMax = Math.max(1, connection.reqsMade)
    }, seconds! * 1000)
}

/** The end of a user's id that counts. */
const digits = 12

process.on('disconnect', () => process.exit())
process.once('message', (order: LoadOrder) => run(order))
process.send!({ is: 'ready' })
