import { Agent, request } from 'node:http'
import type { FactKind } from '../src/journal/entry.ts'
import { type Act, actOf } from './client.ts'
import type { World } from './world.ts'

/** One call of a rush: `path` is below /api/v1/. */
export type Ask = {
  verb: FactKind
  path: string
  as: string
  user?: string
  body?: Record<string, unknown>
  headers?: Record<string, string>
}
/** What came of it: the problem's code, or undefined if it was done. */
export type Came = {
  status: number
  code: string | undefined
  // biome-ignore lint/suspicious/noExplicitAny: tests look into whatever came
  body: any
  sentAt: number
}

/**
 * Sends requests over at most `sockets` kept-alive connections, as many clients would. What each
 * was told goes into `history`.
 */
export function openRush(world: World, history: Act[], sockets: number, base = world.base) {
  const agent = new Agent({ keepAlive: true, maxSockets: sockets })

  function send({ verb, path, as, user, body, headers }: Ask): Promise<Came> {
    const { promise, resolve } = Promise.withResolvers<Came>()
    const sentAt = performance.now()
    const text = JSON.stringify(user === undefined ? (body ?? {}) : { ...body, user_id: user })
    const sent = request(`${base}/api/v1/${path}`, {
      method: 'POST',
      agent,
      headers: {
        ...headers,
        authorization: `Bearer ${as}`,
        'content-type': 'application/json',
        'content-length': Buffer.byteLength(text),
      },
    })
    const answer = (status: number, text: string, header: (name: string) => string | null) => {
      const body = text === '' ? {} : JSON.parse(text)
      history.push(actOf(verb, user, { status, header, body }))
      resolve({ status, code: body.code && body.title ? body.code : undefined, body, sentAt })
    }
    sent.on('error', () => answer(0, '', () => null))
    sent.on('response', (response) => {
      let text = ''
      response.setEncoding('utf8').on('data', (chunk) => {
        text += chunk
      })
      const header = (name: string) => (response.headers[name] as string | undefined) ?? null
      response.on('end', () => answer(response.statusCode!, text, header))
      response.on('error', () => answer(0, '', () => null))
    })
    sent.end(text)
    return promise
  }

  return {
    send,
    all: (asks: readonly Ask[]) => Promise.all(asks.map(send)),
    close: () => agent.destroy(),
  }
}

/** How often each came: `done`, or the code of the problem. */
export function tally(came: readonly Came[]): Record<string, number> {
  const counts: Record<string, number> = {}
  for (const { code } of came) counts[code ?? 'done'] = (counts[code ?? 'done'] ?? 0) + 1
  return counts
}
