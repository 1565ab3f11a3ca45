import { createHash } from 'node:crypto'

/**
 * An entry is what one script call did: one kind of fact, one book, 1..N facts in order. A fact
 * carries the coupon's whole state after it, so that the last fact of a code is its fold. After
 * `release` and `void` nobody has it: they name who had it last, '' where it was in stock.
 *
 * On the wire (fields of one Redis stream entry, made by lua/include/finish.lua):
 *   kind, book, at, op, then per fact a pair
 *     state    code user version assigned_at redemptions max token locked_until redemption
 *              joined by tabs; times in ms since 1970, '' where there is none, max 0 = no limit
 *     context  JSON the API wrote: Redis passes it through unread
 */
export const factKinds = [
  'assign',
  'lock',
  'unlock',
  'redeem',
  'rollback',
  'release',
  'void',
] as const
export type FactKind = (typeof factKinds)[number]

/**
 * Who did it and from where. `metadata` is the redeemer's, `key`/`hash` of an Idempotency-Key,
 * `traceparent` of W3C Trace Context: the span that a trace goes on from.
 */
export type Context = {
  actor: string
  request_id: string
  traceparent?: string
  address?: string
  agent?: string
  metadata?: unknown
  key?: string
  hash?: string
}

export type Fact = {
  i: number
  code: string
  user: string
  version: number
  assignedAt: number
  redemptions: number
  max: number
  lockToken: string | null
  lockedUntil: number | null
  redemption: string | null
  context: string
}

/** When an answer may be given: once Redis decided, or once PostgreSQL holds the fact. */
export type Durability = 'redis' | 'postgres'

export type EntryId = { epoch: number; n: number }

export type Entry = EntryId & {
  kind: FactKind
  book: string
  at: number
  op: string
  facts: Fact[]
}

export const entryId = ({ epoch, n }: EntryId): string => `${epoch}-${n}`

export function parseEntryId(id: string): EntryId {
  const dash = id.indexOf('-')
  return { epoch: Number(id.slice(0, dash)), n: Number(id.slice(dash + 1)) }
}

/** Decodes the fields of stream entry `id`. Throws on a layout that no script of ours writes. */
export function decodeEntry(id: string, fields: readonly string[]): Entry {
  if (fields.length < 8 || fields.length % 2 !== 0 || fields[0] !== 'kind')
    throw new Error(`journal entry ${id} has a layout this version does not know`)
  const facts: Fact[] = []
  for (let f = 8; f < fields.length; f += 2) {
    const state = fields[f]!.split('\t')
    facts.push({
      i: facts.length,
      code: state[0]!,
      user: state[1]!,
      version: Number(state[2]),
      assignedAt: Number(state[3]),
      redemptions: Number(state[4]),
      max: Number(state[5]),
      lockToken: state[6] || null,
      lockedUntil: state[7] ? Number(state[7]) : null,
      redemption: state[8] || null,
      context: fields[f + 1]!,
    })
  }
  const kind = fields[1] as FactKind
  return {
    ...parseEntryId(id),
    kind,
    book: fields[3]!,
    at: Number(fields[5]),
    op: fields[7]!,
    facts,
  }
}

/**
 * Fingerprint of an entry: 128 bits of SHA-256 over its id and fields, length-prefixed so that no
 * two layouts collide. The shard's row keeps the checkpoint's; a Redis that forked has another.
 */
export function entryHash(id: string, fields: readonly string[]): string {
  const hash = createHash('sha256').update(id)
  for (const field of fields) hash.update(`|${field.length}|${field}`)
  return hash.digest('base64url').slice(0, 22)
}
