type Fetch<A extends unknown[]> = (request: Request, ...rest: A) => Response | Promise<Response>

/** What a page may send, and what it may read of an answer, beyond what every page may. */
const may = {
  'Access-Control-Allow-Methods': 'GET, POST, PUT, PATCH, DELETE',
  'Access-Control-Allow-Headers':
    'Authorization, Content-Encoding, Content-Type, Durability, Idempotency-Key, Last-Event-ID, ' +
    'X-Request-Id, traceparent',
  'Access-Control-Max-Age': '600',
}
const exposed =
  'Content-Disposition, Durability, Idempotent-Replayed, Location, RateLimit, RateLimit-Policy, ' +
  'Retry-After, X-Request-Id'

/**
 * Lets pages of these origins call, and pages of no other. Credentials go in Authorization and never in
 * a cookie, so none are allowed here. It stands around the app only where there is such a list.
 */
export function withCors<A extends unknown[]>(
  origins: readonly string[],
  inner: Fetch<A>,
): Fetch<A> {
  const known = new Set(origins)
  return async (request, ...rest) => {
    const origin = request.headers.get('origin')
    const isKnown = origin !== null && known.has(origin)
    const asksFirst = request.headers.has('access-control-request-method')
    if (request.method === 'OPTIONS' && isKnown && asksFirst)
      return new Response(null, { status: 204, headers: { ...allow(origin), ...may } })
    const response = await inner(request, ...rest)
    response.headers.append('Vary', 'Origin')
    if (isKnown)
      for (const [name, value] of Object.entries(allow(origin))) response.headers.set(name, value)
    return response
  }
}

const allow = (origin: string) => ({
  'Access-Control-Allow-Origin': origin,
  'Access-Control-Expose-Headers': exposed,
})
