import { deadline } from '../deadline.ts'
import { failpoint } from '../failpoint.ts'
import { keys } from './keys.ts'
import type { Place } from './place.ts'

/** What a script answers to a call that was forbidden before it came: see lua/include/begin.lua. */
export const neverWord = 'never'

/** Longer than any connection lives in silence: a call that is still on its way ends before this. */
const neverMs = 3_600_000

/** Somebody waits for the answer: a connection that is silent for longer is given up. */
const settleMs = 1_000

/**
 * Takes the place of a call's reply, so that the call, should it still arrive, does nothing. One that
 * has run keeps its reply, and one of another epoch is fenced anyway. False: Redis cannot be told now.
 */
export async function forbid(place: Place, shard: number, op: string): Promise<boolean> {
  if (!place.gates[shard]!.open) return false
  try {
    await place.redis.set(keys.op(shard, op), neverWord, 'PX', neverMs, 'NX')
    failpoint('operation.after-forbid')
    return true
  } catch {
    return false // away, full, or read-only: whoever asks asks again
  }
}

/**
 * Settles a call that was sent twice because its first reply was lost: the first copy may still be on
 * its way, and would do what the second was refused. Resolves with the reply of the one that wrote
 * something; null: neither did, and neither will any more; undefined: Redis cannot be told now.
 */
export async function settle(
  place: Place,
  shard: number,
  op: string,
): Promise<string | null | undefined> {
  const answered = deadline(settleMs, () => place.redis.stream?.destroy())
  try {
    return await place.redis.set(keys.op(shard, op), neverWord, 'PX', neverMs, 'NX', 'GET')
  } catch {
    return undefined
  } finally {
    answered()
  }
}
