/**
 * Calls `act` after `ms` unless the returned function is called first. After a stall of our own (garbage
 * collection, a thousand signatures at once) Node runs timers before it reads sockets, so an answer
 * that lay there in time would come too late: the event loop gets two more turns first.
 */
export function deadline(ms: number, act: () => void): () => void {
  let over = false
  const timer = setTimeout(() => setImmediate(() => setImmediate(() => over || act())), ms)
  return () => {
    over = true
    clearTimeout(timer)
  }
}

/** The answer, if it comes within `ms`; rejects with `late()` otherwise, and nobody listens any more. */
export async function inTime<T>(answer: Promise<T>, ms: number, late: () => Error): Promise<T> {
  answer.catch(() => {}) // whoever is late may fail unheard
  const { promise, reject } = Promise.withResolvers<never>()
  const done = deadline(ms, () => reject(late()))
  try {
    return await Promise.race([answer, promise])
  } finally {
    done()
  }
}
