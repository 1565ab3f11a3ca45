import type { Database } from './database.ts'
import type { Job } from './jobs.ts'

/** How often the rows of all watched jobs are read, in one statement. */
const pollMs = 500

/**
 * One that watches a job. `next`: its row once it differs from the last one seen; undefined after `ms`
 * without a change, and once the watch is closed.
 */
export type JobFeed = {
  next(ms: number): Promise<Job | undefined>
  readonly closed: boolean
  close(): void
}
export type JobWatch = ReturnType<typeof openJobWatch>

type Watcher = { seen: string; fresh: Job | undefined; wake: () => void; closed: boolean }

/** What those who watch hear of: a sign of life alone is no news. */
const newsOf = ({ state, done, total, error }: Job) => JSON.stringify([state, done, total, error])

/**
 * Tells watchers when their jobs change. PostgreSQL is asked once for all of them, as often for a hundred
 * as for one, and not at all while nobody watches. Where it is away they wait.
 */
export function openJobWatch(database: Database, watchersMax = 200) {
  const watched = new Map<string, Set<Watcher>>()
  let watchers = 0
  let timer: NodeJS.Timeout | undefined
  let closed = false

  async function poll(): Promise<void> {
    if (watchers === 0) return schedule()
    const { rows } = await database
      .query<Job>('SELECT * FROM jobs WHERE job_id = ANY ($1)', [[...watched.keys()]])
      .catch(() => ({ rows: [] as Job[] })) // the next look finds what this one missed
    for (const job of rows) {
      const news = newsOf(job)
      for (const watcher of watched.get(job.job_id) ?? []) {
        if (watcher.seen === news) continue
        watcher.seen = news
        watcher.fresh = job
        watcher.wake()
      }
    }
    schedule()
  }

  function schedule(): void {
    timer = watchers > 0 ? setTimeout(() => void poll(), pollMs) : undefined
    timer?.unref()
  }

  function leave(jobId: string, watcher: Watcher): void {
    if (watcher.closed) return
    watcher.closed = true
    watchers--
    const others = watched.get(jobId)!
    others.delete(watcher)
    if (others.size === 0) watched.delete(jobId)
    watcher.wake()
  }

  return {
    watchersMax,

    /** Watches a job from the row that is known; undefined: there are too many who do. */
    watch(known: Job): JobFeed | undefined {
      if (closed || watchers >= watchersMax) return undefined
      const watcher: Watcher = {
        ...{ seen: newsOf(known), fresh: undefined, closed: false },
        wake: () => {},
      }
      const same = watched.get(known.job_id) ?? new Set()
      watched.set(known.job_id, same.add(watcher))
      watchers++
      if (timer === undefined) schedule()
      return {
        async next(ms) {
          if (watcher.fresh === undefined && !watcher.closed) {
            const { promise, resolve } = Promise.withResolvers<void>()
            const late = setTimeout(resolve, ms)
            watcher.wake = resolve
            await promise
            clearTimeout(late)
          }
          const { fresh } = watcher
          watcher.fresh = undefined
          return fresh
        },
        get closed() {
          return watcher.closed
        },
        close: () => leave(known.job_id, watcher),
      }
    },

    /** Ends all feeds: whoever listens has to ask another process. */
    close(): void {
      closed = true
      for (const [jobId, all] of watched) for (const watcher of [...all]) leave(jobId, watcher)
    },
  }
}
