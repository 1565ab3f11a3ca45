import { z } from '@hono/zod-openapi'
import type { Book } from '../ledger/books.ts'
import {
  bookId,
  count,
  dateTime,
  instant,
  line,
  looseFlag,
  metadata,
  prose,
  userId,
} from './schemas.ts'

const limit = count(1).nullable()
const unlimited = 'null: no limit'

/** What may be changed of a book's policy. Defaults are a new book's: a change has none. */
const policy = {
  name: line(1, 255),
  description: prose(2_000).nullable(),
  owner_id: userId,
  expiration_date: dateTime
    .nullable()
    .openapi({ description: 'From then on its coupons are expired' }),
  allow_multi_redemption: looseFlag.openapi({
    description: 'Left out: true unless max_redemptions is 1',
  }),
  max_redemptions: limit.openapi({ description: `Per code. ${unlimited}` }),
  max_redemptions_per_user: limit.openapi({ description: `Per user and code. ${unlimited}` }),
  max_assignments_per_user: limit.openapi({ description: `Coupons a user may hold. ${unlimited}` }),
  code_pattern: line(0, 50)
    .nullable()
    .openapi({ description: 'Used by generate', example: 'SUMMER-{}' }),
  is_active: looseFlag.openapi({
    description:
      'false: assignments are refused, holders may still redeem. Setting it opens a drained book again',
  }),
  lock_policy: z.enum(['strict', 'holder', 'required']),
  lock_seconds: count(1, 3_600),
  opens_at: dateTime.nullable(),
  closes_at: dateTime.nullable(),
  durability: z
    .enum(['redis', 'postgres'])
    .nullable()
    .openapi({ description: "When its verbs are acknowledged. null: each verb's default" }),
  metadata,
}
export const maxUnits = 1_000_000_000

/** Why: it stands in the audit log. */
const reason = line(1, 500).optional()

export const ChangeBookRequest = z
  .strictObject({ ...policy, reason })
  .partial()
  .openapi('ChangeBookRequest')

export const CreateBookRequest = z
  .strictObject(policy)
  .partial()
  .extend({
    name: policy.name,
    max_redemptions: policy.max_redemptions.optional().openapi({ default: 1 }),
    is_active: policy.is_active.optional().openapi({ default: true }),
    lock_policy: policy.lock_policy.optional().openapi({ default: 'strict' }),
    lock_seconds: policy.lock_seconds.optional().openapi({ default: 300 }),
    kind: z.enum(['codes', 'counter']).optional().openapi({
      description: 'counter: units without codes of their own; a code is made at assignment',
      default: 'codes',
    }),
    reason,
    units: count(0, maxUnits).optional().openapi({ description: 'Of a counter book' }),
  })
  .superRefine((book, ctx) => {
    const only = (path: 'units' | 'code_pattern', kind: string) =>
      ctx.addIssue({ code: 'custom', path: [path], message: `is for books of kind ${kind}` })
    if (book.kind === 'counter' && book.code_pattern) only('code_pattern', 'codes')
    if (book.kind !== 'counter' && book.units) only('units', 'counter')
  })
  .openapi('CreateBookRequest')

/** What a book is unless whoever makes it says otherwise. null: no limit. */
export const usual = {
  description: null,
  kind: 'codes',
  code_pattern: null,
  max_redemptions: 1,
  max_redemptions_per_user: null,
  max_assignments_per_user: null,
  lock_policy: 'strict',
  lock_seconds: 300,
  opens_at: null,
  closes_at: null,
  expiration_date: null,
  is_active: true,
  durability: null,
  metadata: {},
} as const

export const BookResponse = z
  .object({
    book_id: bookId,
    name: z.string(),
    description: z.string().nullable(),
    owner_id: z.string(),
    created_at: instant,
    expiration_date: instant.nullable(),
    allow_multi_redemption: z.boolean(),
    max_redemptions_per_user: z.number().nullable(),
    max_assignments_per_user: z.number().nullable(),
    code_pattern: z.string().nullable(),
    total_code_count: z.number().openapi({ description: 'Codes, or units of a counter book' }),
    is_active: z.boolean(),
    kind: z.enum(['codes', 'counter']),
    max_redemptions: z.number().nullable(),
    lock_policy: z.enum(['strict', 'holder', 'required']),
    lock_seconds: z.number(),
    opens_at: instant.nullable(),
    closes_at: instant.nullable(),
    durability: z.enum(['redis', 'postgres']).nullable(),
    metadata: z.record(z.string(), z.unknown()),
    archived_at: instant.nullable(),
    version: z.number().openapi({ description: 'Rises with every change' }),
    updated_at: instant,
  })
  .openapi('Book')

const iso = (at: Date | null) => at?.toISOString() ?? null

export function bookView(book: Book): z.infer<typeof BookResponse> {
  return {
    book_id: book.book_id,
    name: book.name,
    description: book.description,
    owner_id: book.owner_id,
    created_at: book.created_at.toISOString(),
    expiration_date: iso(book.expiration_date),
    allow_multi_redemption: book.allow_multi_redemption,
    max_redemptions_per_user: book.max_redemptions_per_user,
    max_assignments_per_user: book.max_assignments_per_user,
    code_pattern: book.code_pattern,
    total_code_count: book.total_code_count,
    is_active: book.is_active,
    kind: book.kind,
    max_redemptions: book.max_redemptions,
    lock_policy: book.lock_policy,
    lock_seconds: book.lock_seconds,
    opens_at: iso(book.opens_at),
    closes_at: iso(book.closes_at),
    durability: book.durability,
    metadata: book.metadata,
    archived_at: iso(book.archived_at),
    version: book.version,
    updated_at: book.updated_at.toISOString(),
  }
}

/** Times as PostgreSQL takes them; what was left out stays left out. */
export function readTimes<
  T extends {
    opens_at?: string | null
    closes_at?: string | null
    expiration_date?: string | null
  },
>({ opens_at, closes_at, expiration_date, ...rest }: T) {
  const read = (text: string | null) => (text === null ? null : new Date(text))
  return {
    ...rest,
    ...(opens_at === undefined ? {} : { opens_at: read(opens_at) }),
    ...(closes_at === undefined ? {} : { closes_at: read(closes_at) }),
    ...(expiration_date === undefined ? {} : { expiration_date: read(expiration_date) }),
  }
}
