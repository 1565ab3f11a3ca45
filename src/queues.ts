import { type Job, Queue, type QueueOptions, type WorkerOptions } from 'bullmq'
import { inTime } from './deadline.ts'

/**
 * BullMQ is the clock, the journal and the tables are the carriers: a job names a shard or a row
 * and holds nothing of its own. A job that is lost costs time, and a sweep finds its work again.
 */
export const queueNames = { flush: 'flush', jobs: 'jobs' } as const
export type FlushJob = { shard: number }
export type RowJob = { job_id: string }

/** The braces keep all keys of a queue on one node of a Redis Cluster. */
const prefix = '{stampede}'
/** Nobody reads BullMQ's event streams here. */
const eventsMaxLen = 100
/** How long a route waits for BullMQ to take a job; after that the sweep brings it. */
const enqueueMs = 500
const reopenMs = 1_000
/** An operator who looks at the queues waits no longer. */
const answerMs = 1_500
/** Who waits: what is done is not kept, what failed waits for nobody, nothing has children. */
const states = ['waiting', 'active', 'delayed'] as const

/** What failed is kept for whoever asks why; so many of a queue, and so long (in seconds). */
const failedKept = { count: 1_000, age: 7 * 86_400 }

/** What every worker process passes to BullMQ's Worker. */
export function workerOptions(url: string): WorkerOptions {
  return {
    connection: workerConnection(url),
    prefix,
    // With BullMQ's 30 s the work of a killed process would lie still for a minute.
    lockDuration: 3_000,
    stalledInterval: 1_000,
    // A shard's job may outlive any number of workers: it must never end up as failed.
    maxStalledCount: 1_000_000,
    removeOnComplete: { count: 0 },
    removeOnFail: failedKept,
  }
}

/** A worker waits for Redis as long as it takes. */
export function workerConnection(url: string) {
  return { url, maxRetriesPerRequest: null }
}

export type Queues = {
  /** Has the shard's journal flushed soon. Fire and forget: never throws, never blocks. */
  nudge(shard: number): void
  /** Has a worker take up the job of this row; false if BullMQ does not answer now. */
  enqueue(jobId: string): Promise<boolean>
  /** How many jobs there are, by queue and state. Throws if BullMQ does not answer. */
  counts(): Promise<{ queue: string; state: string; count: number }[]>
  /** The queues as BullMQ has them, for whoever shows them; one is replaced when its Redis was away. */
  all(): Queue[]
  /** For an operator's question or two; whoever has it closes it. */
  desk(): QueueDesk
  close(): Promise<void>
}

/** To whom BullMQ tells of its work: src/tracing.ts, where it is loaded. */
export type Telemetry = QueueOptions['telemetry']

/**
 * Nudges are not told of: the job of the first goes on for as long as the sale does, and its span would
 * hold the flushes of everybody's facts. Each flush has a span of its own.
 */
export function openQueues(url: string, telemetry?: Telemetry): Queues {
  const flush = producer<FlushJob>(url, queueNames.flush)
  const jobs = producer<RowJob>(url, queueNames.jobs, telemetry)
  /** Shards whose nudge is on its way; true: once more when it has arrived. */
  const underway = new Map<number, boolean>()

  async function send(shard: number): Promise<void> {
    do {
      underway.set(shard, false)
      // A nudge that fails is made good by the sweep of the workers.
      await flush
        .queue()
        .add(
          'flush',
          { shard },
          { deduplication: { id: `flush-${shard}`, keepLastIfActive: true } },
        )
        .catch(() => {})
    } while (underway.get(shard))
    underway.delete(shard)
  }

  return {
    nudge(shard) {
      if (underway.has(shard)) underway.set(shard, true)
      else void send(shard)
    },

    async enqueue(jobId) {
      const added = add(jobs.queue(), jobId).then(
        () => true,
        () => false,
      )
      return Promise.race([added, after(enqueueMs)])
    },

    async counts() {
      const all = [flush.queue(), jobs.queue()].map(async (queue) => {
        const counts = await queue.getJobCounts(...states)
        return states.map((state) => ({ queue: queue.name, state, count: counts[state] ?? 0 }))
      })
      return (await Promise.all(all)).flat()
    },

    all: () => [flush.queue(), jobs.queue()],

    desk: () => openQueueDesk(url),

    async close() {
      await Promise.allSettled([flush.close(), jobs.close()])
    },
  }
}

/** A job that failed stands there under its id, and would keep the same one from being added. */
async function add(queue: Queue<RowJob>, jobId: string): Promise<void> {
  const old = await queue.getJob(jobId)
  if (old?.finishedOn) await retried(old)
  else await queue.add('job', { job_id: jobId }, { jobId })
}

/** BullMQ's codes for a job that is gone, and for one that somebody else had done again. */
const movedOn = [-1, -3]

/** Has a failed job done again; false: it is not a failed one any more. */
async function retried(job: Job): Promise<boolean> {
  try {
    await job.retry('failed')
    return true
  } catch (error) {
    if (movedOn.includes((error as { code?: number }).code ?? 0)) return false
    throw error
  }
}

function after(ms: number): Promise<false> {
  return new Promise((resolve) => setTimeout(resolve, ms, false).unref())
}

/** A queue that is only written to, so that an outage of its Redis is an error at once. */
function producer<T>(url: string, name: string, telemetry?: Telemetry) {
  const options: QueueOptions = {
    connection: { url, maxRetriesPerRequest: 1, enableOfflineQueue: false },
    prefix,
    streams: { events: { maxLen: eventsMaxLen } },
    defaultJobOptions: { removeOnComplete: true, removeOnFail: failedKept },
    telemetry,
  }
  let closed = false
  let queue = open()

  function open(): Queue<T> {
    const fresh = new Queue<T>(name, options)
    // Said by whoever adds; without a listener it would be fatal.
    fresh.on('error', () => {})
    // BullMQ gives up for good when Redis goes away during its first question: begin again then.
    fresh.waitUntilReady().catch(() => {
      if (closed) return
      void fresh.close().catch(() => {})
      setTimeout(() => {
        if (!closed) queue = open()
      }, reopenMs).unref()
    })
    return fresh
  }

  return {
    queue: () => queue,
    close() {
      closed = true
      return queue.close()
    },
  }
}

export type QueueOverview = {
  queue: string
  paused: boolean
  workers: number
  waiting: number
  active: number
  delayed: number
  failed: number
}
export type FailedJob = { queue: string; id: string; reason: string; attempts: number; at: Date }

export type QueueDesk = ReturnType<typeof openQueueDesk>

/** BullMQ's Redis does not answer. */
export class QueuesAway extends Error {}

/**
 * The queues as an operator looks at them. Nothing here can lose work: jobs hold none, and what is
 * removed by `clean` is over. Throws QueuesAway if BullMQ's Redis does not answer.
 */
export function openQueueDesk(url: string) {
  const all = Object.values(queueNames).map((name) => {
    const queue = new Queue(name, {
      connection: {
        url,
        maxRetriesPerRequest: 0,
        enableOfflineQueue: false,
        retryStrategy: () => null,
        connectTimeout: answerMs,
        socketTimeout: answerMs,
        disconnectTimeout: 100,
      },
      prefix,
    })
    queue.on('error', () => {}) // whoever asks is told
    return queue
  })
  const silence = () => new Error(`no answer in ${answerMs} ms`)
  const isReady = async (queue: Queue) => (await queue.getBackend().client).status === 'ready'
  /** Asks all queues; what goes wrong although Redis answers is no outage. */
  async function each<T>(work: (queue: Queue) => Promise<T>): Promise<T[]> {
    const away = (error: Error) => new QueuesAway(error.message)
    await inTime(Promise.all(all.map((queue) => queue.waitUntilReady())), answerMs, silence).catch(
      (error) => Promise.reject(away(error)),
    )
    return Promise.all(
      all.map((queue) =>
        work(queue).catch(async (error: Error) => {
          throw (await isReady(queue)) ? error : away(error)
        }),
      ),
    )
  }

  return {
    /** What BullMQ's Redis does when it is full: its maxmemory-policy; undefined: it hides it. */
    async policy(): Promise<string | undefined> {
      const [info] = await each(async (queue) => (await queue.getBackend().client).info())
      return /^maxmemory_policy:(\S+)/m.exec(info!)?.[1]
    },

    list: (): Promise<QueueOverview[]> =>
      each(async (queue) => {
        const counts = await queue.getJobCounts('waiting', 'active', 'delayed', 'failed')
        const { waiting = 0, active = 0, delayed = 0, failed = 0 } = counts
        const paused = await queue.isPaused()
        const workers = await queue.getWorkersCount()
        return { queue: queue.name, paused, workers, waiting, active, delayed, failed }
      }),

    async failed(limit: number): Promise<FailedJob[]> {
      const lists = await each((queue) => queue.getFailed(0, limit - 1))
      return lists.flat().map((job) => ({
        ...{ queue: job.queueName, id: job.id!, reason: job.failedReason ?? '' },
        ...{ attempts: job.attemptsMade, at: new Date(job.finishedOn ?? job.timestamp) },
      }))
    },

    /** Has every failed job done again; how many there were. */
    async retry(): Promise<number> {
      const lists = await each(async (queue) => {
        const again: boolean[] = []
        for (const job of await queue.getFailed()) again.push(await retried(job))
        return again
      })
      return lists.flat().filter(Boolean).length
    },

    /** How many jobs are over: what `clean` would remove. */
    async over(): Promise<number> {
      const counts = await each((queue) => queue.getJobCountByTypes('completed', 'failed'))
      return counts.reduce((sum, count) => sum + count, 0)
    },

    /** Removes what is over: jobs that failed or were done; how many there were. */
    async clean(): Promise<number> {
      const gone = await each(async (queue) => [
        ...(await queue.clean(0, 100_000, 'completed')),
        ...(await queue.clean(0, 100_000, 'failed')),
      ])
      return gone.flat().length
    },

    /** BullMQ would wait for a connection that is never made. */
    close: () =>
      inTime(Promise.all(all.map((queue) => queue.disconnect())), 200, silence).catch(() => {}),
  }
}
