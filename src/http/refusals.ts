import type { Refusals } from '../ledger/stats.ts'

/** How often what was counted is told to PostgreSQL. */
const tellMs = 1_000
/** Rows that are kept in memory, and told at once: who refuses more books than that forgets some of it. */
const rowsMax = 5_000
const minuteMs = 60_000

export type RefusalCounter = ReturnType<typeof openRefusals>

/**
 * Counts refusals by book, minute and reason. No fact stands behind a refusal, and none is worth a write
 * of its own, least of all when a sale is over and thousands a second hear `sold-out`: they are counted in
 * memory and told once a second. So the numbers are approximate. A process that is killed takes its last
 * second along; one whose statement was not answered tells it again, which may count it twice; with
 * PostgreSQL away they wait, as many as there is room for.
 */
export function openRefusals(
  tell: (refusals: Refusals[]) => Promise<void>,
  { away, now = Date.now }: { away: () => boolean; now?: () => number },
) {
  let untold = new Map<string, Refusals>()
  let telling: Promise<void> | undefined

  function add(one: Refusals): void {
    const key = `${one.book} ${one.reason} ${one.minute}`
    const known = untold.get(key)
    if (known) known.count += one.count
    else if (untold.size < rowsMax) untold.set(key, one)
  }

  async function tellAll(): Promise<void> {
    const all = [...untold.values()]
    untold = new Map()
    await tell(all).catch(() => {
      // PostgreSQL is going away: nothing waits for this, and the next second tries again.
      for (const one of all) add(one)
    })
  }

  const timer = setInterval(() => void refusals.tell(), tellMs)
  timer.unref()

  const refusals = {
    count(book: string, reason: string): void {
      add({ book, reason, minute: Math.floor(now() / minuteMs) * minuteMs, count: 1 })
    },
    /** Tells what there is; one statement is under way at a time. */
    async tell(): Promise<void> {
      if (telling === undefined && untold.size > 0 && !away())
        telling = tellAll().finally(() => {
          telling = undefined
        })
      await telling
    },
    async close(): Promise<void> {
      clearInterval(timer)
      await telling
      await refusals.tell()
    },
  }
  return refusals
}
