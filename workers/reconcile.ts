import type { Logger } from 'pino'
import { claimReconcile } from '../src/ledger/reconciled.ts'
import type { Ops } from '../src/ops/ops.ts'
import { reconcile, shared, Unsettled } from '../src/ops/reconcile/reconcile.ts'

/** So many differences get a line of their own in the log. */
const shownMax = 20

/**
 * Compares both stores if no worker has for `minutes`. Of all workers one does it. False: it was not due.
 */
export async function reconcileOnce(ops: Ops, minutes: number, log: Logger): Promise<boolean> {
  if (!(await claimReconcile(ops.database, minutes))) return false
  const begun = performance.now()
  try {
    const { verdict, differences, totals, books } = await reconcile(ops, { exact: false })
    const ms = Math.round(performance.now() - begun)
    if (verdict === 'equal') log.info({ books: books.length, ms }, 'both stores agree')
    else {
      log.error({ books: books.length, ms, totals }, 'the stores differ')
      // No code: it would be a coupon in a log.
      for (const one of shared(differences, shownMax))
        log.error({ class: one.class, shard: one.shard, book: one.book_id }, one.class)
    }
  } catch (error) {
    // It will be due again; a recovery or an outage has its own alarms.
    if (!(error instanceof Unsettled)) throw error
    log.warn(`could not reconcile: ${error.message}`)
  }
  return true
}
