/** What pg says when there is no connection to be had; none of these has a code. */
const words =
  /Connection terminated|Query read timeout|timeout exceeded when trying to connect|timeout expired|Client has encountered/
const network = /^(ECONN|EPIPE|ETIMEDOUT|ENOTFOUND|EAI_AGAIN|EHOST|ENETUNREACH)/
/** Connection lost, resources gone, shut down or cancelled, lock not to be had, standby. */
const states = /^(08|53|57|58|55P03|25006)/

/**
 * Whether an error means that PostgreSQL cannot answer now, rather than that we asked wrongly.
 * drizzle and pg wrap each other's errors, hence the walk along `cause`.
 */
export function isOutage(error: unknown): boolean {
  let current = error as { code?: unknown; message?: unknown; cause?: unknown } | undefined
  for (let depth = 0; depth < 5 && current; depth++) {
    const { code, message } = current
    if (typeof code === 'string' && (network.test(code) || states.test(code))) return true
    if (typeof message === 'string' && words.test(message)) return true
    current = current.cause as typeof current
  }
  return false
}
