import type { EntryId, FactKind } from '../../journal/entry.ts'
import { type CouponRecord, unpackRecord } from '../../store/record.ts'

/** A fact as the ledger holds it. `record`: what Redis has after it; `state`: what it says. */
export type StoredFact = EntryId & {
  i: number
  kind: FactKind
  record: string
  state: CouponRecord
}

/** Facts that the ledger must have had between two others; undefined: before the first, after the last. */
export type Hole = {
  after: StoredFact | undefined
  before: StoredFact | undefined
  facts: number
  /** Assigned while it was held: either a release is missing, or somebody assigned it twice. */
  twice: boolean
}

/** What the facts of one code come to, and where they do not follow from each other. */
export type Story = {
  last: StoredFact | undefined
  /** null: in stock, or not there. */
  record: string | null
  holes: Hole[]
  duplicates: { first: StoredFact; again: StoredFact }[]
}

export const placeOf = ({ epoch, n, i }: Pick<StoredFact, 'epoch' | 'n' | 'i'>) =>
  `${epoch}-${n}/${i}`

/** Facts of one code, a line each: epoch, n, i, kind and the packed record, with tabs between. */
export function parseFacts(text: string | null): StoredFact[] {
  return (text?.split('\n') ?? []).map((line) => {
    const [epoch, n, i, kind, ...fields] = line.split('\t') as [
      string,
      string,
      string,
      FactKind,
      ...string[],
    ]
    const place = { epoch: Number(epoch), n: Number(n), i: Number(i) }
    const record = kind === 'void' ? `${fields[0]}\t` : fields.join('\t')
    return { ...place, kind, record, state: unpackRecord(fields) }
  })
}

/**
 * Reads facts of one code in the order of their entries. Who assigned it when tells one holding from
 * the next; within one, versions count from 1 without a gap. A fact that stands twice counts once.
 */
export function tell(facts: readonly StoredFact[]): Story {
  const story: Story = { last: undefined, record: null, holes: [], duplicates: [] }
  const told = new Map<string, StoredFact>()
  for (const fact of facts) {
    const { version, assignedAt } = fact.state
    const name = `${assignedAt} ${version}`
    const first = told.get(name)
    if (first) {
      story.duplicates.push({ first, again: fact })
      continue
    }
    told.set(name, fact)
    const { last } = story
    const goes = last && !isEnd(last) && last.state.assignedAt === assignedAt
    const twice = !goes && story.record !== null
    const missing = goes ? version - last.state.version - 1 : version - 1 + (twice ? 1 : 0)
    if (missing !== 0)
      story.holes.push({ after: last, before: fact, facts: Math.max(1, missing), twice })
    story.last = fact
    story.record = fact.kind === 'release' ? null : fact.record
  }
  return story
}

/**
 * What the ledger lacks, if its end is not what the coupons table has: facts after the last one. Zero:
 * it lacks nothing, the two contradict each other.
 */
export function lacks(
  { last, record }: Story,
  row: Pick<CouponRecord, 'assignedAt' | 'version'> | null,
): number {
  if (!row) return record === null ? 0 : 1
  if (!last) return row.version
  const { assignedAt, version } = last.state
  if (row.assignedAt === assignedAt && !isEnd(last)) return Math.max(0, row.version - version)
  return row.assignedAt > assignedAt ? row.version + (record === null ? 0 : 1) : 0
}

/** After these nobody holds the coupon. */
const isEnd = ({ kind }: StoredFact) => kind === 'release' || kind === 'void'

export const isAfter = (fact: EntryId, { epoch, n }: EntryId) =>
  fact.epoch > epoch || (fact.epoch === epoch && fact.n > n)
