import type { CouponRecord } from '../../store/record.ts'
import { Met } from './digest.ts'

export const differenceClasses = [
  'STATE_MISMATCH',
  'STOCK_MISMATCH',
  'UNDERSOLD',
  'LOCK_MISMATCH',
  'COUNTER_MISMATCH',
  'CAP_EXCEEDED',
  'SEQUENCE_GAP',
  'DUPLICATE_FACT',
  'PARKED',
] as const
export type DifferenceClass = (typeof differenceClasses)[number]

/**
 * One thing that the stores do not agree on. `redis` and `postgres` are what each says, as small JSON
 * values; where PostgreSQL's ledger and its tables disagree, `postgres` has a member for each.
 */
export type Difference = {
  class: DifferenceClass
  shard: number
  /** null: of the shard as a whole, or of a code that belongs to no book. */
  book_id: string | null
  code?: string
  what: string
  redis: unknown
  postgres: unknown
}

/** How many there are of each class, whether they are listed or not. */
export type Totals = { [C in DifferenceClass]?: number }

const listedMax = 1_000

/** Gathers differences: at most a thousand are kept, the rest is counted. */
export class Findings {
  readonly #kept = new Map<DifferenceClass, Difference[]>()
  readonly #totals: Totals = {}
  readonly #homes = new Set<string>()
  /** Codes that were named: their other traces are not new. */
  readonly codes = new Met()
  /** Shards of whose ledger it was said that it lacks facts, or has one twice. */
  readonly ledgers = new Set<number>()

  add(difference: Difference): void {
    const { class: of, shard, book_id } = difference
    // A parked fact says nothing of where the stores differ: whatever it left behind is found for itself.
    if (of !== 'PARKED') this.#homes.add(`${shard} `).add(`${shard} ${book_id}`)
    this.#totals[of] = (this.#totals[of] ?? 0) + 1
    if (of === 'SEQUENCE_GAP' || of === 'DUPLICATE_FACT') this.ledgers.add(shard)
    if (difference.code !== undefined) this.codes.add(difference.code)
    const kept = this.#kept.get(difference.class) ?? []
    this.#kept.set(difference.class, kept)
    if (kept.length < listedMax) kept.push(difference)
  }

  /** Whether anything was found so far of a book, or, where it is '', of a shard. */
  at({ shard, book }: { shard: number; book: string }): boolean {
    return this.#homes.has(`${shard} ${book}`) || this.#homes.has(`${shard} null`)
  }

  list(): { differences: Difference[]; more: number; totals: Totals } {
    const differences = shared([...this.#kept.values()].flat(), listedMax)
    const all = Object.values(this.#totals).reduce((sum, some) => sum + some, 0)
    return { differences, more: all - differences.length, totals: { ...this.#totals } }
  }
}

/** At most `max` of them, by class: each class gets its share, so that a flood of one hides no other. */
export function shared(differences: readonly Difference[], max: number): Difference[] {
  const classes = Map.groupBy(differences, (difference) => difference.class)
  const share = Math.floor(max / Math.max(1, classes.size))
  const first = [...classes.values()].flatMap((some) => some.slice(0, share))
  const rest = [...classes.values()].flatMap((some) => some.slice(share))
  const chosen = new Set([...first, ...rest.slice(0, max - first.length)])
  return differenceClasses.flatMap((name) =>
    (classes.get(name) ?? []).filter((difference) => chosen.has(difference)),
  )
}

type Held = Pick<CouponRecord, 'user' | 'redemptions' | 'max'>
export const isUsedUp = ({ redemptions, max }: Omit<Held, 'user'>) => max > 0 && redemptions >= max

/** Of more users it is not known what follows from their coupons: it is named as well. */
const usersMax = 100_000

/**
 * How far the counters around coupons that were named already are off for that reason alone: Redis'
 * count less PostgreSQL's. One changed coupon is one difference, not four.
 */
export class Ripples {
  readonly #books = new Map<string, Record<'held' | 'redeemed' | 'void' | 'stock', number>>()
  readonly #users = new Map<string, number>()

  /** `stock`: whether the code is in stock, by each. */
  note(
    book: string,
    redis: { coupon: Held | null; stock: boolean },
    postgres: { coupon: Held | null; stock: boolean },
  ): void {
    const sums = this.ofBook(book)
    this.#books.set(book, sums)
    for (const [side, sign] of [
      [redis, 1],
      [postgres, -1],
    ] as const) {
      if (side.stock) sums.stock += sign
      if (!side.coupon) continue
      if (side.coupon.user === '') {
        sums.void += sign
        continue
      }
      sums.held += sign
      if (isUsedUp(side.coupon)) sums.redeemed += sign
      const user = `${book}\t${side.coupon.user}`
      if (this.#users.size < usersMax || this.#users.has(user))
        this.#users.set(user, (this.#users.get(user) ?? 0) + sign)
    }
  }

  ofBook = (book: string) => this.#books.get(book) ?? { held: 0, redeemed: 0, void: 0, stock: 0 }
  ofUser = (book: string, user: string) => this.#users.get(`${book}\t${user}`) ?? 0
}
