import { type CouponRecord, unpackRecord } from '../../store/record.ts'

/** A token is its holder's alone: its beginning is enough to tell it from another. */
const shownToken = (token: string) => (token === '' ? null : `${token.slice(0, 4)}...`)
/** Whatever stands in a record that was written by hand, it is shown as far as it can be. */
const shownTime = (ms: number) => (ms > 0 && ms < 8e15 ? new Date(ms).toISOString() : null)
export const shownLock = (token: string, until: number) => ({
  token: shownToken(token),
  until: shownTime(until),
})

/** A record as both stores give it: lua/include/record.lua says how it is packed. */
export const unpack = (packed: string): CouponRecord => unpackRecord(packed.split('\t'))

const plain = (value: string | number) => value
/** Nobody has a void code. */
const shownUser = (user: string) => user || null
const columns: [keyof CouponRecord, string, (value: never) => unknown][] = [
  ['user', 'user_id', shownUser],
  ['version', 'version', plain],
  ['redemptions', 'redemptions', plain],
  ['book', 'book_id', plain],
  ['max', 'max_redemptions', plain],
  ['lockToken', 'lock_token', shownToken],
  ['lockedUntil', 'locked_until', shownTime],
  ['assignedAt', 'assigned_at', shownTime],
  ['updatedAt', 'updated_at', shownTime],
]
const alwaysShown = 3

/** Two packed records, or none: equal in every field. */
export const isSame = (a: string | null, b: string | null): boolean =>
  a === b || (a !== null && b !== null && differing([unpack(a), unpack(b)]).length === 0)
const differing = (records: CouponRecord[]) =>
  columns.filter(([field]) => new Set(records.map((record) => record[field])).size > 1)

/** Records as a report shows them: who has it, how far it is, and every field that they disagree on. */
export function sides(...packs: (string | null)[]): (object | null)[] {
  const records = packs.map((pack) => (pack === null ? null : unpack(pack)))
  const other = differing(records.filter((record) => record !== null))
  const shown = new Set([...columns.slice(0, alwaysShown), ...other])
  return records.map(
    (record) =>
      record &&
      Object.fromEntries(
        [...shown].map(([field, name, show]) => [name, show(record[field] as never)]),
      ),
  )
}
