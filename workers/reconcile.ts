import type { Logger } from 'pino'
import { claimReconcile, noteReconcile } from '../src/ledger/reconciled.ts'
import type { Ops } from '../src/ops/ops.ts'
import { reconcile, Unsettled } from '../src/ops/reconcile/reconcile.ts'

/**
 * Compares both stores if nobody has for `minutes`, and keeps what came of it for /metrics. Of all
 * workers one does it. False: it was not due.
 */
export async function reconcileOnce(ops: Ops, minutes: number, log: Logger): Promise<boolean> {
  if (!(await claimReconcile(ops.database, minutes))) return false
  const begun = performance.now()
  try {
    const { verdict, differences, more, books } = await reconcile(ops, { exact: false })
    const undersold = differences.filter((one) => one.class === 'UNDERSOLD').length
    await noteReconcile(ops.database, { differences: differences.length + more, undersold })
    const ms = Math.round(performance.now() - begun)
    if (verdict === 'equal') log.info({ books: books.length, ms }, 'both stores agree')
    // No code: it would be a coupon in a log.
    else
      for (const one of differences.slice(0, 20))
        log.error({ class: one.class, shard: one.shard, book: one.book_id }, one.class)
  } catch (error) {
    // It will be due again; a recovery or an outage has its own alarms.
    if (!(error instanceof Unsettled)) throw error
    log.warn(`could not reconcile: ${error.message}`)
  }
  return true
}
