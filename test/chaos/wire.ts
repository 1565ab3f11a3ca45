import type { Pool } from 'undici'
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
 * Posts to one API process. `ms`: from when it had a connection. Before that it waits for the crowd's own
 * sockets, of which there are so many and no more, and the service knows nothing of it.
 */
export function send(
  pool: Pool,
  path: string,
  body: object,
  headers: Record<string, string>,
): Promise<Reply> {
  return new Promise((resolve) => {
    let begun: number | undefined
    let timer: NodeJS.Timeout | undefined
    let status = 0
    let got: Record<string, unknown> = {}
    const parts: Buffer[] = []
    const ms = () => (begun === undefined ? 0 : Math.round(performance.now() - begun))
    const broken = ({ code, message, syscall }: NodeJS.ErrnoException) => {
      clearTimeout(timer)
      resolve({ is: 'broken', why: code ?? message, sent: syscall !== 'connect', ms: ms() })
    }
    const asked = {
      ...{ method: 'POST', path, body: JSON.stringify(body) },
      headers: { 'content-type': 'application/json', ...headers },
    }
    pool.dispatch(asked, {
      onRequestStart(controller) {
        begun = performance.now()
        timer = setTimeout(() => controller.abort(new Error('timeout')), patienceMs)
      },
      onResponseStart(_controller, statusCode, answered) {
        status = statusCode
        got = answered
      },
      onResponseData(_controller, part) {
        parts.push(part)
      },
      onResponseEnd() {
        clearTimeout(timer)
        try {
          const body = JSON.parse(Buffer.concat(parts).toString())
          resolve({ is: 'answer', status, headers: got, body, ms: ms() })
        } catch {
          broken(new Error(`${status} and no JSON`))
        }
      },
      onResponseError: (_controller, error) => broken(error),
    })
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
