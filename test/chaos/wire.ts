import { type Agent, request } from 'node:http'
import type { Durability } from '../../src/journal/entry.ts'
import type { Answered, Asked, Told } from './history.ts'

/** What came back, or why nothing did. */
export type Reply =
  // biome-ignore lint/suspicious/noExplicitAny: answers are looked into where they are read
  | { is: 'answer'; status: number; headers: Record<string, any>; body: any; ms: number }
  | { is: 'broken'; why: string; sent: boolean; ms: number }

/** Longer than any promise of the service: past this a request counts as unanswered. */
export const patienceMs = 6_000

/**
 * `ms`: from when it had a connection. Before that it waits for the crowd's own sockets, of which there are
 * so many and no more, and the service knows nothing of it.
 */
export function send(
  agent: Agent,
  url: string,
  body: object,
  headers: Record<string, string>,
): Promise<Reply> {
  const text = JSON.stringify(body)
  return new Promise((resolve) => {
    const asked = request(url, {
      ...{ method: 'POST', agent },
      headers: {
        'content-type': 'application/json',
        'content-length': Buffer.byteLength(text),
        ...headers,
      },
    })
    let begun: number | undefined
    let timer: NodeJS.Timeout | undefined
    const ms = () => (begun === undefined ? 0 : Math.round(performance.now() - begun))
    const broken = ({ code, message, syscall }: NodeJS.ErrnoException) => {
      clearTimeout(timer)
      resolve({ is: 'broken', why: code ?? message, sent: syscall !== 'connect', ms: ms() })
    }
    asked.on('socket', () => {
      begun = performance.now()
      timer = setTimeout(() => asked.destroy(new Error('timeout')), patienceMs)
    })
    asked.on('response', (response) => {
      let got = ''
      response.setEncoding('utf8')
      response.on('data', (part) => (got += part))
      response.on('end', () => {
        clearTimeout(timer)
        const { statusCode: status = 0, headers } = response
        try {
          resolve({ is: 'answer', status, headers, body: JSON.parse(got), ms: ms() })
        } catch {
          broken(new Error(`${status} and no JSON`))
        }
      })
      response.on('error', broken)
    })
    asked.on('error', broken)
    asked.end(text)
  })
}

/** What an answer promises. Only what is certainly a no counts as one. */
export function readAnswer({ id }: Asked, reply: Reply): Answered {
  const base = { is: 'answered', id, at: Date.now(), ms: reply.ms } as const
  if (reply.is === 'broken') {
    const outcome = reply.sent ? 'unknown' : 'unsent'
    return { ...base, outcome, status: 0, why: reply.why, codes: [] }
  }
  const { status, headers, body } = reply
  if (status !== 200 && status !== 202) {
    const unknown = status < 400 || body.code === 'outcome-unknown' || status === 500
    const outcome = unknown ? 'unknown' : 'refused'
    const { code: why = `status ${status}`, operation } = body
    const after = headers['retry-after']
    return {
      ...{ ...base, outcome, status, why, codes: [] },
      ...(operation ? { operation } : {}),
      ...(after ? { retryAfterMs: Number(after) * 1_000 } : {}),
    }
  }
  const durability = String(headers.durability ?? '')
  const entry = /entry=(\d+)\/(\d+)-(\d+)\/(\d+)/.exec(durability)?.slice(1).map(Number)
  const coupons: { code: string }[] = body.coupons ?? [body]
  return {
    ...base,
    outcome: headers['idempotent-replayed'] ? 'again' : 'done',
    status,
    reached: durability.split(';')[0] as Durability,
    ...(entry ? { fact: entry as [number, number, number, number] } : {}),
    codes: coupons.map(({ code }) => code),
    ...(body.lock_token ? { token: body.lock_token } : {}),
    ...(body.redemption_id ? { redemption: body.redemption_id } : {}),
    ...(headers.location ? { operation: headers.location } : {}),
  }
}

/** What the service says became of an operation; no answer is said in the same place. */
export async function readOperation(
  url: string,
  token: string,
): Promise<Pick<Told, 'state' | 'facts'>> {
  try {
    const headers = { authorization: `Bearer ${token}` }
    const response = await fetch(url, { headers, signal: AbortSignal.timeout(patienceMs) })
    // biome-ignore lint/suspicious/noExplicitAny: a problem or an operation
    const body: any = await response.json()
    if (!response.ok) return { state: `${response.status} ${body.code}`, facts: [] }
    return { state: body.state, facts: body.facts.map(({ entry }: { entry: string }) => entry) }
  } catch (error) {
    return { state: (error as Error).message, facts: [] }
  }
}
