import { bigint, timestamp } from './drizzle.ts'

/** A point in time, and a number beyond 32 bits, as every table has them. */
export const at = () => timestamp({ withTimezone: true, mode: 'date' })
export const big = () => bigint({ mode: 'number' })
