import { type Command, InvalidArgumentError } from 'commander'
import { z } from 'zod'
import { type EntryId, parseEntryId } from '../journal/entry.ts'

/** Readers of what is typed: each refuses what it is not, and says what it should be. */
function reader<T>(schema: z.ZodType<T>, must: string) {
  return (text: string): T => {
    const read = schema.safeParse(text)
    if (!read.success) throw new InvalidArgumentError(`must be ${must}`)
    return read.data
  }
}

const whole = z
  .string()
  .regex(/^\d{1,9}$/)
  .transform(Number)

export const id = reader(z.uuid(), 'an id, as lists show it')
export const shard = reader(whole.pipe(z.number().max(63)), 'the number of a shard')
export const count = reader(whole.pipe(z.number().min(1)), 'a whole number from 1 on')
export const reason = reader(z.string().trim().min(1).max(500), 'a reason, up to 500 characters')

/** Of a verb that looks without a reason, and that needs one for what --yes does. */
export function reasonFor(given: string | undefined, command: Command): string {
  if (given) return given
  command.error('error: --yes needs --reason TEXT: it stands in the audit log', { exitCode: 2 })
}

const units = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000 } as const

/** `90s`, `2m`, `500ms`: in milliseconds. */
export const duration = reader(
  z
    .string()
    .regex(/^\d{1,6}(ms|s|m|h)$/)
    .transform((text) => {
      const [, number, unit] = /^(\d+)(.*)$/.exec(text)!
      return Number(number) * units[unit as keyof typeof units]
    }),
  'a time such as 60s, 2m or 500ms',
)

export const entry = reader(
  z
    .string()
    .regex(/^\d{1,15}-\d{1,15}$/)
    .transform((text): EntryId => parseEntryId(text)),
  'an entry such as 1-345',
)
