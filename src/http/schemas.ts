import { z } from '@hono/zod-openapi'
import { metadataFault } from '../metadata.ts'

/**
 * The building blocks of every request. What is wrong is refused, never repaired: a trimmed or
 * truncated name is a different name, and the client would not learn of it.
 */
const controls = /\p{Cc}/u
const controlsButLines = /[^\P{Cc}\t\n\r]/u

/** Unknown fields are refused: a misspelled limit must not turn into no limit. */
export const strict = <S extends z.core.$ZodLooseShape>(shape: S) => z.strictObject(shape)

const wellFormed = (value: string) => value.isWellFormed()
const unpaired = 'must not contain unpaired surrogates'

/** One line of text. */
export const line = (min: number, max: number) =>
  z
    .string()
    .min(min)
    .max(max)
    .refine((value) => !controls.test(value), 'must not contain control characters')
    .refine(wellFormed, unpaired)
    .refine((value) => min === 0 || value.trim() !== '', 'must not be blank')

/** Text that may have several lines. */
export const prose = (max: number) =>
  z
    .string()
    .max(max)
    .refine((value) => !controlsButLines.test(value), 'must not contain control characters')
    .refine(wellFormed, unpaired)

/** A password: any characters at all, so that nobody's keyboard is a problem. */
export const password = (min: number, max: number) =>
  z
    .string()
    .min(min)
    .max(max)
    .refine(wellFormed, unpaired)
    .refine((value) => !value.includes('\0'), 'must not contain U+0000')
    .openapi({ format: 'password' })

const plainId = /^[\x21-\x7e]{1,128}$/
const isUserId = (value: string) =>
  plainId.test(value)
    ? value !== 'me'
    : value.length > 0 &&
      value.length <= 128 &&
      value.isWellFormed() &&
      !controls.test(value) &&
      value.trim() === value &&
      value.normalize('NFC') === value

/** A user: an account's id, or whatever an administrator or a service calls its users. */
export const userId = z
  .string()
  .refine(
    isUserId,
    'must be 1 to 128 characters in NFC, without control characters or outer spaces, and not `me`',
  )
  .openapi({ minLength: 1, maxLength: 128, example: 'user-4711' })

/** The same in a path, where `me` stands for whoever asks. */
export const userIdOrMe = z
  .string()
  .refine((value) => value === 'me' || isUserId(value), 'must be a user id or `me`')
  .openapi({ minLength: 1, maxLength: 128, example: 'me' })

/** A coupon code. `.` and `..` are left out because a path cannot carry them. */
export const code = z
  .string()
  .regex(/^(?!\.{1,2}$)[\x21-\x7e]{1,50}$/, 'must be 1 to 50 visible ASCII characters, no spaces')
  .openapi({ minLength: 1, maxLength: 50, example: 'SUMMER-7QK2M9XD' })

const reserved = /^(?:assign|lock|unlock|redeem|random|user|claim|me)$/i

/** A code that comes into being: one that would collide with a route's name is refused. */
export const newCode = code.refine((value) => !reserved.test(value), 'is a reserved word')

const uuidPattern = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/

/** An id we gave out. Lower case only: Redis compares strings where PostgreSQL compares numbers. */
export const uuid = z
  .string()
  .regex(uuidPattern, 'must be a UUID in lower case')
  .openapi({ format: 'uuid', example: '0b0e7a2e-6f5c-4c43-9a5e-6a3c1f0a7d11' })
export const bookId = uuid

export const email = z
  .email('must be an e-mail address')
  .max(254)
  .openapi({ example: 'alice@example.com' })

/** A whole number. The bound keeps it inside PostgreSQL's integer. */
export const count = (min: number, max = 2_147_483_647) => z.number().int().min(min).max(max)

const earliest = Date.UTC(1970, 0, 1)
const latest = Date.UTC(9999, 11, 31, 23, 59, 59, 999)

/** A point in time with its offset, between 1970 and 9999. */
export const dateTime = z.iso
  .datetime({ offset: true, message: 'must be a date and time with its offset' })
  .refine((value) => {
    const time = Date.parse(value)
    return time >= earliest && time <= latest
  }, 'must lie between the years 1970 and 9999')
  .openapi({ format: 'date-time', example: '2030-12-31T23:59:59Z' })

/** A point in time in an answer: always UTC, always with milliseconds. */
export const instant = z.string().openapi({ format: 'date-time' })

/** A client's own JSON object: kept and given back, never read. */
export const metadata = z
  .custom<Record<string, unknown>>(
    (value) => typeof value === 'object' && value !== null && !Array.isArray(value),
    'must be a JSON object',
  )
  .superRefine((value, ctx) => {
    const fault = metadataFault(value)
    if (fault !== null) ctx.addIssue({ code: 'custom', message: fault })
  })
  .openapi('Metadata', { type: 'object', additionalProperties: true })

/** A whole number in a query string: digits and nothing else. */
export const queryCount = (min: number, max: number) =>
  z
    .string()
    .refine(
      (value) => /^\d{1,9}$/.test(value) && Number(value) >= min && Number(value) <= max,
      `must be a whole number from ${min} to ${max}`,
    )
    .transform(Number)
    .openapi({ type: 'integer', minimum: min, maximum: max })

/** As clients in Python spell them, too. */
const yes = ['true', 'True', '1'] as const
const no = ['false', 'False', '0'] as const

export const queryFlag = z
  .enum([...yes, ...no], 'must be true or false')
  .transform((value) => yes.some((word) => word === value))
  .openapi({ type: 'boolean' })

/** The same in a body, where older clients send text or a number instead. */
export const looseFlag = z
  .union([z.boolean(), z.enum([...yes, ...no]), z.literal([0, 1])], 'must be true or false')
  .transform((value) => value === true || value === 1 || yes.some((word) => word === value))
  .openapi({ type: ['boolean', 'string', 'integer'], enum: [true, false, ...yes, ...no, 1, 0] })

/** How lists are read: by cursor, or by `skip` as older clients do. */
export const page = {
  limit: queryCount(1, 1_000)
    .optional()
    .transform((value) => value ?? 100)
    .openapi({ type: 'integer', minimum: 1, maximum: 1_000, default: 100 }),
  starting_after: z
    .string()
    .regex(/^[\x21-\x7e]{1,300}$/, 'must be a `next_cursor` of this list')
    .optional()
    .openapi({ description: '`next_cursor` of the page before' }),
  skip: queryCount(0, 100_000)
    .optional()
    .transform((value) => value ?? 0)
    .openapi({ type: 'integer', minimum: 0, maximum: 100_000, default: 0 }),
}

/** A list as clients get it. */
export const listOf = <T extends z.ZodType>(item: T) =>
  z.object({ data: z.array(item), has_more: z.boolean(), next_cursor: z.string().nullable() })
