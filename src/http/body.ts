import { type Problem, problem } from '../problems.ts'
import type { Context } from './context.ts'

/** Bodies over this are refused unless the route says otherwise. */
export const bodyLimit = 16 * 1024

type Body = { ok: true; value: unknown } | Problem

const json = /^application\/(?:[a-z0-9.-]+\+)?json\s*(?:;|$)/i

/**
 * Reads and parses a JSON body of at most `limit` bytes. With a Content-Length the size is known
 * before a byte is read and the body is taken in one piece, which is the path of every hot route;
 * without one (chunked) it is counted while it arrives.
 */
export async function readBody(
  c: Context,
  optional: boolean,
  limit: number = bodyLimit,
): Promise<Body> {
  const { raw } = c.req
  const length = raw.headers.get('content-length')
  if (length !== null && Number(length) > limit) return problem('body-too-large', { limit })
  const whole = length !== null && raw.headers.get('transfer-encoding') === null
  let text: string | null
  try {
    text = await (whole ? raw.text() : counted(raw, limit))
  } catch {
    // The client went away in the middle of its body: nobody will read this answer.
    return problem('malformed-json')
  }
  if (text === null) return problem('body-too-large', { limit })
  if (text === '') return optional ? { ok: true, value: {} } : problem('malformed-json')

  const type = raw.headers.get('content-type')
  if (type === null || !json.test(type)) return problem('unsupported-media-type')
  // Bytes that are not UTF-8 have become U+FFFD. Refused, for what the client meant is lost.
  if (text.includes('\uFFFD')) return problem('malformed-json')
  try {
    return { ok: true, value: JSON.parse(text) }
  } catch {
    return problem('malformed-json')
  }
}

async function counted(raw: Request, limit: number): Promise<string | null> {
  if (raw.body === null) return ''
  const chunks: Uint8Array[] = []
  let size = 0
  for await (const chunk of raw.body) {
    size += chunk.length
    if (size > limit) return null
    chunks.push(chunk)
  }
  return new TextDecoder().decode(Buffer.concat(chunks))
}
