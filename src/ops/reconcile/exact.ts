import { shardRows } from '../../ledger/shards.ts'
import { notLevel, notStopped, openJobs } from '../drain.ts'
import type { Ops } from '../ops.ts'
import { type Options, type Reconciliation, reconcile } from './reconcile.ts'

/** An exact comparison of stores that do not stand still would call whatever is under way a difference. */
export class Busy extends Error {}

/**
 * What an operator asks for. Whoever asks for `exact` promises that nothing is written, and may be wrong:
 * so the promise is looked at, also afterwards. Throws Busy, and whatever `reconcile` throws.
 */
export async function reconcileAsked(ops: Ops, options: Options): Promise<Reconciliation> {
  if (options.exact) await refuseBusy(ops)
  const found = await reconcile(ops, options)
  if (options.exact) await refuseBusy(ops)
  return found
}

async function refuseBusy(ops: Ops): Promise<void> {
  const isOpen = (await shardRows(ops.database)).some(({ intake }) => intake === 'open')
  const busy = isOpen ? ['intake is open'] : await notStopped(ops)
  busy.push(...(await notLevel(ops)), ...(await openJobs(ops, undefined)))
  if (busy.length > 0)
    throw new Busy(
      `Both stores must stand still to be compared exactly, and ${busy.slice(0, 3).join('; ')}: ` +
        'drain, or pause --intake, and ask again; or compare without exact',
    )
}
