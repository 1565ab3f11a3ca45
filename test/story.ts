import { factKinds } from '../src/journal/entry.ts'
import { factName } from '../src/recovery/durable.ts'
import type { Act } from './client.ts'
import type { World } from './world.ts'

/** Gathers differences, so that one failure shows all of them. */
export class Findings {
  readonly found: string[] = []

  equal(what: string, actual: unknown, expected: unknown): void {
    const [a, e] = [JSON.stringify(actual), JSON.stringify(expected)]
    if (a !== e) this.found.push(`${what}: ${a}, expected ${e}`)
  }

  /** Two maps with the same keys and values; says which key differs. */
  same(what: string, actual: Map<string, unknown>, expected: Map<string, unknown>): void {
    for (const key of new Set([...actual.keys(), ...expected.keys()]))
      this.equal(`${what} of ${key}`, actual.get(key), expected.get(key))
  }
}

/** A coupon as all three tell of it: Redis, the `coupons` table, and the ledger read as a story. */
export type Held = {
  user: string
  version: number
  redemptions: number
  max: number
  token: string
  lockedUntil: number
  assignedAt: number
  updatedAt: number
}
export type Fact = Held & { id: string; kind: string; code: string; requestId: string }

export const heldColumns = `code, user_id AS "user", version, redemptions, max_redemptions AS max,
  coalesce(lock_token, '') AS token,
  coalesce(round(extract(epoch FROM locked_until) * 1000), 0)::float AS "lockedUntil"`
export const ms = (column: string) => `round(extract(epoch FROM ${column}) * 1000)::float`

/** The fields that are compared, in one order. A void code is nobody's, and Redis keeps no more of it. */
export const heldOf = (row: Held): Held =>
  row.user === ''
    ? nobodys
    : {
        user: row.user,
        version: row.version,
        redemptions: row.redemptions,
        max: row.max,
        token: row.token,
        lockedUntil: row.lockedUntil,
        assignedAt: row.assignedAt,
        updatedAt: row.updatedAt,
      }
const nobodys: Held = {
  ...{ user: '', version: 0, redemptions: 0, max: 0 },
  ...{ token: '', lockedUntil: 0, assignedAt: 0, updatedAt: 0 },
}

/** What the ledger holds of a book, in order. */
export async function readFacts(world: World, book: string): Promise<Fact[]> {
  const { rows } = await world.database.query<Fact>(
    `SELECT shard || '/' || epoch || '-' || n || '/' || i AS id, kind, ${heldColumns},
       ${ms('at')} AS "updatedAt", context->>'request_id' AS "requestId"
     FROM ledger WHERE book_id = $1 ORDER BY epoch, n, i`,
    [book],
  )
  return rows
}

/** What the ledger comes to, told fact by fact; each must continue the one before. */
export function readStory(facts: readonly Fact[], findings: Findings): Map<string, Held> {
  const story = new Map<string, Held>()
  for (const { id, kind, code, requestId, updatedAt, ...fact } of facts) {
    const before = story.get(code)
    const expected = { version: (before?.version ?? 0) + 1, user: before?.user ?? fact.user }
    findings.equal(`${kind} ${code} ${id}`, { version: fact.version, user: fact.user }, expected)
    const mayBegin = kind === 'assign' || (kind === 'void' && fact.user === '')
    findings.equal(`${kind} ${code} ${id} begins`, mayBegin, before === undefined)
    findings.equal(`${kind} ${code} ${id} comes after void`, before?.user === '', false)
    findings.equal(`${kind} is a kind`, factKinds.includes(kind as never), true)
    const assignedAt = before?.assignedAt ?? updatedAt
    if (kind === 'release') story.delete(code)
    else if (kind === 'void') story.set(code, nobodys)
    else story.set(code, heldOf({ ...fact, assignedAt, updatedAt }))
  }
  return story
}

/** Every answer is a fact and every fact was answered: no lost one, no invented one, none twice. */
export function auditHistory(
  book: string,
  facts: readonly Fact[],
  all: readonly Act[],
  findings: Findings,
): void {
  // A call whose answer was lost may have been for this book, too.
  const history = all.filter((act) => act.book === book || act.outcome === 'unknown')
  const ledger = new Map(facts.map((fact) => [fact.id, fact]))
  const claimed = new Set<string>()
  const holders = new Map<string, number>()
  for (const { verb, user, outcome, codes, requestId, fact } of history) {
    if (!fact) continue
    codes.forEach((code, k) => {
      const id = factName({ ...fact, i: fact.i + k })
      const there = ledger.get(id)
      const from = outcome === 'again' ? there?.requestId : requestId
      const said = { kind: verb, code, user: user ?? there?.user, from }
      const { kind, requestId: by } = there ?? {}
      const found = there && { kind, code: there.code, user: there.user, from: by }
      findings.equal(`the answer ${id}`, found, said)
      if (outcome === 'again') return
      if (claimed.has(id)) findings.found.push(`two answers claim ${id}`)
      claimed.add(id)
      const change = verb === 'assign' ? 1 : verb === 'release' ? -1 : 0
      holders.set(code, (holders.get(code) ?? 0) + change)
    })
  }
  for (const [code, count] of holders)
    if (count > 1) findings.found.push(`${code} was acknowledged to ${count} users`)
  const unknown = history.filter(({ outcome }) => outcome === 'unknown')
  for (const { id, kind, user } of facts) {
    if (claimed.has(id)) continue
    const lost = unknown.findIndex((act) => act.verb === kind && (act.user ?? user) === user)
    if (lost < 0) findings.found.push(`nobody was told of ${kind} ${id} for ${user}`)
    else if (kind !== 'assign') unknown.splice(lost, 1)
  }
}
