import { setTimeout as sleep } from 'node:timers/promises'

/**
 * What each may take during a sale, in ms: twice what it takes beside one on two cores. A million codes, half of
 * them assigned, are then compared in about 25 s, and for half of these the cores are all the buyers'.
 */
export const paceMs = {
  coupon: 0.01,
  code: 0.009,
  user: 0.0045,
  redemption: 0.01,
  fact: 0.009,
  place: 0.002,
}

/** No pause is longer: a step that waited for the ledger took nobody's core, and a cursor may not lie idle for long. */
const longestMs = 500

/**
 * Called after each step with the milliseconds that it may take, waits until they are over, and in any case a
 * quarter as long as the step took. What took longer than it may is caught up with, for half a second at most.
 */
export function openPace(): (ms: number) => Promise<void> {
  let since = performance.now()
  let due = since
  return async (ms) => {
    const now = performance.now()
    due = Math.max(due + ms, now - longestMs)
    await sleep(Math.min(longestMs, Math.max(due - now, (now - since) / 4)))
    since = performance.now()
  }
}
