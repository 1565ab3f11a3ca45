import { failpoint } from '../failpoint.ts'
import { getBook } from '../ledger/books.ts'
import type { Database } from '../ledger/database.ts'
import { type Distribution, type Settled, type Share, savePlan } from '../ledger/distributions.ts'
import { memberIds } from '../ledger/pools.ts'
import { problem } from '../problems.ts'
import { dealt, shareMax, shuffled } from '../shares.ts'
import type { BookPlace, Store } from '../store/store.ts'

/**
 * Draws who is to get how many and writes it down, before anybody is given anything: whoever goes on
 * with a distribution finds the plan. The order is drawn as well: where stock runs out, chance decides
 * and not a name. False: there is nobody in the pool any more.
 */
export async function makePlan(
  { database, store }: { database: Database; store: Pick<Store, 'heldBy'> },
  run: Distribution,
  place: BookPlace,
): Promise<boolean> {
  const users = shuffled(await memberIds(database, run.pool_id))
  if (users.length === 0) return false
  const book = await getBook(database, run.book_id)
  const limit = book?.max_assignments_per_user ?? null
  // The script has the last word; this is what a fair plan can be drawn by.
  const held =
    run.mode === 'random' && limit !== null ? await store.heldBy(place, users) : undefined
  const rooms = users.map((_, u) =>
    held ? Math.max(0, limit! - held[u]!) : Number.POSITIVE_INFINITY,
  )
  const amounts = run.mode === 'equal' ? users.map(() => run.amount) : dealt(rooms, run.amount)
  const shares = users.map(
    (user, position): Share => ({
      ...{ position, user, share: Math.min(amounts[position]!, shareMax) },
    }),
  )
  const nothing = shares.flatMap(({ position, share }): Settled[] => {
    if (share > 0) return []
    if (rooms[position]! > 0) return [{ position, codes: [], short: false }]
    const why = problem('assignment-limit', { held: held![position]!, limit })
    return [{ position, codes: [], short: true, why }]
  })
  failpoint('distribute.before-plan')
  await savePlan(database, run, shares, nothing)
  failpoint('distribute.after-plan')
  return true
}
