import { type CodeVerdict, codesLook, type Standing, type Suspect } from './codes.ts'
import { unpack } from './record.ts'
import type { Difference } from './report.ts'
import { enough, type Run, settle } from './settle.ts'
import type { Hole } from './story.ts'

/** Of more codes than this it is not told which gap in the ledger is theirs. */
const explained = 1_000

/** Facts of a code that the ledger lacks, and the difference that says so. */
export type Lacking = { shard: number; hole: Hole; difference: Difference }

/** Codes that seemed to differ in a quick comparison, which under load means little. */
export class Suspects {
  readonly #open = new Map<string, Suspect>()
  readonly lacking: Lacking[] = []

  add(suspect: Suspect): void {
    // A piece of a page would keep the whole page in memory.
    const code = Buffer.from(suspect.code).toString()
    const known = this.#open.get(code)
    const digested = suspect.digested && (known?.digested ?? true)
    this.#open.set(code, { ...suspect, code, digested })
  }

  /** Looks at them carefully if they have become many. */
  async relieve(run: Run): Promise<void> {
    if (this.#open.size >= enough) await this.settle(run)
  }

  /** Looks at all of them carefully; what really differs goes to the findings. */
  async settle(run: Run): Promise<void> {
    const items = [...this.#open.values()]
    this.#open.clear()
    for (const [item, verdict] of await settle(run, items, codesLook(run)))
      this.#note(run, item, verdict)
  }

  #note(run: Run, item: Suspect, verdict: CodeVerdict): void {
    const { redis, postgres, differences, holes } = verdict
    const digests = run.digests.get(item.book)
    const digest = (store: 'redis' | 'postgres', { record, stock }: Standing, sign: 1 | -1) => {
      if (record !== null) digests?.add(store, item.code, record, sign)
      if (stock) digests?.add(store, item.code, '', sign)
    }
    if (!item.digested) digest('postgres', postgres, 1)
    if (!item.digested || !verdict.equal) digest('redis', redis, 1)
    // It was counted as being the same in both.
    if (item.digested && !verdict.equal) digest('redis', postgres, -1)
    if (verdict.equal || run.findings.codes.has(item.code)) return
    const all = [...differences, ...holes.map(({ difference }) => difference)]
    if (run.book !== undefined && all[0]!.book_id !== run.book) return
    for (const difference of differences) run.findings.add(difference)
    for (const { hole, difference } of holes)
      if (this.lacking.length >= explained) run.findings.add(difference)
      else this.lacking.push({ shard: item.shard, hole, difference })
    const coupon = (record: string | null) => (record === null ? null : unpack(record))
    run.ripples.note(
      all[0]!.book_id ?? '',
      { coupon: coupon(redis.record), stock: redis.stock },
      { coupon: coupon(postgres.record), stock: postgres.stock },
    )
  }
}
