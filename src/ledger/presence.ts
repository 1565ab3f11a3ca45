import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import type { Logger } from 'pino'
import { inTime } from '../deadline.ts'
import { type Database, hangUp } from './database.ts'
import { isOutage } from './outage.ts'

/** Between two questions, and how long PostgreSQL may take for one: together under two seconds. */
const pauseMs = 250
const patienceMs = 1_250

/** PostgreSQL is known to be away; the code is its own "cannot connect now". */
export class PostgresAway extends Error {
  readonly code = '57P03'
}

export type Presence = {
  /** PostgreSQL did not answer when it was last asked. */
  away(): boolean
  close(): void
}

/**
 * Keeps asking PostgreSQL whether it is there, over a connection of its own, so that a pool which is
 * merely busy is no outage. Once it is away nobody waits for it any more: questions under way are
 * broken off, and new ones are refused at once.
 */
export function watchPresence(url: string, database: Database, log: Logger): Presence {
  let isAway = false
  let closed = false
  let client: pg.Client | undefined
  refuseWhile(database, () => isAway)

  async function ask(): Promise<void> {
    if (!client) {
      const fresh = new pg.Client({
        connectionString: url,
        application_name: 'stampede-presence',
        connectionTimeoutMillis: patienceMs,
      })
      fresh.on('error', () => {}) // the next question finds out
      client = fresh
      await fresh.connect()
    }
    await client.query('SELECT 1')
  }

  async function look(): Promise<void> {
    try {
      await inTime(ask(), patienceMs, () => new PostgresAway('PostgreSQL is silent'))
      if (isAway) log.warn('PostgreSQL is there again')
      isAway = false
    } catch (error) {
      forget()
      // One that has no connection left for us, or does not know us any more, is there.
      const { code } = error as { code?: string }
      const isGone = isOutage(error) && code !== '53300'
      if (isGone && !isAway) {
        log.error(`PostgreSQL is away: ${(error as Error).message || code}`)
        hangUp(database)
      }
      isAway = isGone
    }
  }

  function forget(): void {
    const gone = client as (pg.Client & { connection: { stream: { destroy(): void } } }) | undefined
    client = undefined
    // A goodbye would wait for an answer.
    gone?.connection.stream.destroy()
  }

  void (async () => {
    while (!closed) {
      await look()
      await sleep(pauseMs, undefined, { ref: false })
    }
    forget()
  })()

  return {
    away: () => isAway,
    close: () => {
      closed = true
      forget()
    },
  }
}

type Callback = (error: Error, client: undefined, done: () => void) => void

/** Every question to the pool begins with `connect`. */
function refuseWhile(database: Database, isAway: () => boolean): void {
  const connect = database.connect.bind(database) as (callback?: Callback) => unknown
  database.connect = ((callback?: Callback) => {
    if (!isAway()) return connect(callback)
    const error = new PostgresAway('PostgreSQL is away')
    if (!callback) return Promise.reject(error)
    process.nextTick(callback, error, undefined, () => {})
    return undefined
  }) as Database['connect']
}
