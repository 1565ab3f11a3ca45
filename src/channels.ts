import { type Channel, channel, tracingChannel } from 'node:diagnostics_channel'
import type { Context } from './http/context.ts'
import type { Entry } from './journal/entry.ts'

/**
 * What the house tells of its work while somebody listens, as ioredis does of its commands (on
 * `ioredis:command`). src/tracing.ts listens where it is loaded; otherwise nobody does, and telling
 * costs a look at a flag.
 */

/** A request that found its route; what it does runs inside. */
export type RequestTold = { c: Context; route: string; path: string }
export const requests = channel('stampede:request') as Channel<unknown, RequestTold>

/** One script call and the requests that share it; the command runs inside. */
export type CallTold = { request: { context?: string } }[]
export const calls = channel('stampede:call') as Channel<unknown, CallTold>

/** The transaction that brings entries into the ledger. */
export type FlushTold = { shard: number; facts: number; entries: Entry[] }
export const flushes = tracingChannel<unknown, FlushTold>('stampede:flush')
