import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'

/**
 * What a connection through the proxy does with its bytes. `held`: they wait, as in a network that
 * is cut and later healed, and arrive late. `dead`: they vanish and nobody is told, as when the other
 * machine lost its power (a half-open connection).
 */
type Mode = 'pass' | 'held' | 'dead'

type Link = {
  client: Socket
  server: Socket
  mode: Mode
  /** Waits for a request that holds this text; its reply is swallowed and the connection cut. */
  swallow: string | undefined
  /** That request has passed. */
  swallowing: boolean
  /** Takes what the server says, while it is kept back. */
  kept: ((pass: () => void) => void) | undefined
}

/** The next request with a certain text goes to the server, and its reply does not get back. */
export type Kept = {
  /** The request has gone on to the server. */
  hasPassed(): boolean
  /** The reply is here. */
  hasReplied(): boolean
  /** Lets the reply go on, and all that follows. */
  release(): void
}

/** A TCP proxy between a process and one of its servers, whose faults a test turns on and off. */
export type Wire = Awaited<ReturnType<typeof openProxy>>

export async function openProxy(targetPort: number) {
  const links = new Set<Link>()
  let delayMs = 0
  let newcomers: Mode | 'cut' = 'pass'
  let swallowed = 0
  /** The next request of any connection that holds this text is the one whose reply is kept back. */
  let keep: { text: string; on(link: Link): void } | undefined

  function end(link: Link): void {
    links.delete(link)
    link.client.resetAndDestroy()
    link.server.resetAndDestroy()
  }

  /** `from` and `to` are the two ends of `link`, in the direction that the bytes go. */
  function forward(link: Link, from: Socket, to: Socket): void {
    const fromServer = from === link.server
    // Delayed chunks in their order: whichever timer is first, the first one goes.
    const late: (() => void)[] = []
    from.on('data', (chunk) => {
      if (link.mode === 'dead') return
      if (fromServer && link.swallowing) {
        swallowed++
        return end(link)
      }
      if (!fromServer && link.swallow && chunk.includes(link.swallow)) link.swallowing = true
      const pass = () => {
        if (link.mode !== 'dead' && to.writable) to.write(chunk)
      }
      if (!fromServer && keep && chunk.includes(keep.text)) {
        keep.on(link)
        keep = undefined
      }
      if (fromServer && link.kept) return link.kept(pass)
      if (delayMs === 0 && late.length === 0) return pass()
      late.push(pass)
      setTimeout(() => late.shift()!(), delayMs)
    })
    // A half-open connection hears nothing of the other side's end either.
    from.on('end', () => link.mode !== 'dead' && to.end())
    from.on('error', () => link.mode !== 'dead' && end(link))
    from.on('close', () => link.mode !== 'dead' && to.destroy())
  }

  const listener = createServer({ allowHalfOpen: true }, (client) => {
    if (newcomers === 'cut') return void client.resetAndDestroy()
    const server = connect({ port: targetPort, host: '127.0.0.1', allowHalfOpen: true })
    const link: Link = {
      ...{ client, server, mode: newcomers },
      ...{ swallow: undefined, swallowing: false, kept: undefined },
    }
    links.add(link)
    for (const socket of [client, server]) {
      socket.setNoDelay(true)
      // The other half of a half-open connection stays until the proxy closes.
      socket.on('close', () => client.closed && server.closed && links.delete(link))
    }
    forward(link, client, server)
    forward(link, server, client)
    if (newcomers === 'held') hold(link)
  })
  listener.listen(0, '127.0.0.1')
  await once(listener, 'listening')

  function hold(link: Link): void {
    link.mode = 'held'
    link.client.pause()
    link.server.pause()
  }

  return {
    port: (listener.address() as AddressInfo).port,
    links: () => links.size,
    swallowed: () => swallowed,
    /** Every chunk arrives this much later; 0 ends it. */
    delay(ms: number): void {
      delayMs = ms
    },
    /** Resets all connections. New ones are let in, unless `refuse`. */
    cut({ refuse = false } = {}): void {
      newcomers = refuse ? 'cut' : 'pass'
      for (const link of links) end(link)
    },
    /** The next reply to a request that holds `text` is lost, and its connection cut. */
    swallowReply(text: string): void {
      for (const link of links) link.swallow = text
    },
    /** Keeps back the reply to the next request that holds `text`. */
    keepReply(text: string): Kept {
      const waiting: (() => void)[] = []
      let its: Link | undefined
      const on = (link: Link) => {
        its = link
        link.kept = (pass) => void waiting.push(pass)
      }
      keep = { text, on }
      return {
        hasPassed: () => its !== undefined,
        hasReplied: () => waiting.length > 0,
        release() {
          its!.kept = undefined
          for (const pass of waiting) pass()
        },
      }
    },
    /** Nothing passes in either direction, on old and new connections, until `heal`. */
    blackhole(): void {
      newcomers = 'held'
      for (const link of links) hold(link)
    },
    /** The connections there are go silent for good; new ones work. */
    halfOpen(): void {
      for (const link of links) link.mode = 'dead'
    },
    /** What was held arrives now, late; new connections work again. */
    heal(): void {
      newcomers = 'pass'
      delayMs = 0
      for (const link of links) {
        if (link.mode !== 'held') continue
        link.mode = 'pass'
        link.client.resume()
        link.server.resume()
      }
    },
    close(): void {
      listener.close()
      for (const link of [...links]) end(link)
    },
  }
}
