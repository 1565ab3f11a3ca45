import { connect, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Acknowledged } from './answers.ts'
import type { Client } from './client.ts'

/** Sent `perSecond`, whether or not earlier ones are answered: nothing queues behind a slow one. */
export type Plan = {
  books: string[]
  perSecond: number
  userOf: (request: number) => string
  /** Who was told which code is not kept: half a million answers are work for the collector of garbage. */
  forgets?: boolean
}
export type Paced = {
  /** Of every request, in the order of the plan. */
  ms: Float64Array
  acknowledged: Map<string, Acknowledged[]>
  refused: Record<string, number>
}

/** Where a service stalls, more requests than this wait here, and their waiting counts as theirs. */
const socketsMax = 500
/** A connection on which nothing happens for so long is closed. */
const silentMs = 30_000

/** Assigns one code from each book of the plan, in its order and at its pace. */
export async function pace(
  { assignUrl, headers }: Pick<Client, 'assignUrl'> & { headers: Record<string, string> },
  plan: Plan,
): Promise<Paced> {
  const { books, perSecond, userOf, forgets } = plan
  const line = openLine(new URL(assignUrl), headers)
  const ms = new Float64Array(books.length)
  const acknowledged = new Map<string, Acknowledged[]>(books.map((book) => [book, []]))
  const refused: Record<string, number> = {}

  async function assign(i: number): Promise<void> {
    const book_id = books[i]!
    const user_id = userOf(i)
    const body = JSON.stringify({ book_id, user_id })
    const start = performance.now()
    const text = await line.post(body)
    ms[i] = performance.now() - start
    const answer = JSON.parse(text)
    const code: string | undefined = answer.coupons?.[0].code
    if (code) forgets || acknowledged.get(book_id)!.push({ code, user: user_id })
    else refused[answer.code] = (refused[answer.code] ?? 0) + 1
  }

  const { promise: answered, resolve, reject } = Promise.withResolvers<void>()
  answered.catch(() => {}) // heard below, once all are asked
  let left = books.length
  let asked = 0
  for (const start = performance.now(); asked < books.length; await sleep(1)) {
    const due = Math.ceil(((performance.now() - start) / 1000) * perSecond)
    while (asked < Math.min(due, books.length))
      assign(asked++).then(() => {
        if (--left === 0) resolve()
      }, reject)
  }
  await answered
  line.close()
  return { ms, acknowledged, refused }
}

type Asked = { text: string; resolve(body: string): void; reject(error: Error): void }

/**
 * Connections to one address, each with one request under way. Written here because node:http takes as
 * much of a core for a request as the service does for its answer, and both are on the same machine.
 */
function openLine({ hostname, port, host, pathname }: URL, headers: Record<string, string>) {
  const lines = Object.entries({ host, ...headers }).map(([name, value]) => `${name}: ${value}\r\n`)
  const head = `POST ${pathname} HTTP/1.1\r\n${lines.join('')}content-length: `
  const idle: ((asked: Asked) => void)[] = []
  const waiting: Asked[] = []
  const sockets = new Set<Socket>()

  function open(): void {
    let under: Asked | undefined
    let got = ''
    const socket = connect({ host: hostname, port: Number(port), noDelay: true })
    // Sooner than the service does it, so that no request meets a connection that is about to be closed.
    socket.setTimeout(silentMs, () => socket.destroy())
    // One character a byte, so that lengths are those of the wire.
    socket.setEncoding('latin1')
    sockets.add(socket)
    const ask = (asked: Asked) => {
      under = asked
      socket.write(asked.text)
    }
    const next = () => {
      under = undefined
      const asked = waiting.shift()
      if (asked) ask(asked)
      else idle.push(ask)
    }
    socket.on('connect', next)
    socket.on('data', (some: string) => {
      got += some
      const end = got.indexOf('\r\n\r\n')
      if (end < 0) return
      const length = Number(/\r\ncontent-length: (\d+)/i.exec(got)?.[1])
      if (!(got.length >= end + 4 + length)) return
      const body = got.slice(end + 4)
      got = ''
      under!.resolve(Buffer.from(body, 'latin1').toString())
      next()
    })
    let why = new Error('the service closed a connection')
    socket.on('error', (error) => {
      why = error
    })
    socket.on('close', () => {
      sockets.delete(socket)
      // Whatever is written to a closed one comes nowhere, and nobody hears of it.
      const place = idle.indexOf(ask)
      if (place >= 0) idle.splice(place, 1)
      else (under ?? waiting.shift())?.reject(why)
    })
  }

  return {
    post: (body: string) =>
      new Promise<string>((resolve, reject) => {
        const text = `${head}${Buffer.byteLength(body)}\r\n\r\n${body}`
        const ask = idle.pop()
        if (ask) return ask({ text, resolve, reject })
        waiting.push({ text, resolve, reject })
        if (sockets.size < socketsMax) open()
      }),
    close() {
      for (const socket of sockets) socket.destroy()
    },
  }
}
