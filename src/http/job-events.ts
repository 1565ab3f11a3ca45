import { streamSSE } from 'hono/streaming'
import type { Deps } from '../app.ts'
import type { JobFeed } from '../ledger/job-watch.ts'
import type { Job } from '../ledger/jobs.ts'
import { problem } from '../problems.ts'
import { type Context, requestId } from './context.ts'
import { jobView } from './jobs.ts'
import { type Answer, noContent, problemResponse } from './respond.ts'
import { resource } from './route.ts'
import { strict, uuid } from './schemas.ts'

/** A comment so often keeps proxies from closing a stream on which nothing happens. */
const heartbeatMs = 15_000
/** Then the client connects anew: its credential is looked at again, and nobody keeps a place for ever. */
const streamMs = 15 * 60_000

/** Says which news an event told, so that whoever comes again with it is not told twice of the end. */
const eventId = ({ state, done, total }: Job) => `${state}-${done}-${total}`

/** Tells a client of a job until it is over, the client has gone, or this process stops. */
function stream(c: Context, first: Job, feed: JobFeed): Response {
  c.header('X-Request-Id', requestId(c))
  c.header('X-Content-Type-Options', 'nosniff')
  // nginx would keep events back until there are enough of them.
  c.header('X-Accel-Buffering', 'no')
  const ends = Date.now() + streamMs
  const response = streamSSE(c, async (events) => {
    events.onAbort(() => feed.close())
    const late = setTimeout(() => feed.close(), streamMs)
    try {
      for (let job: Job | undefined = first; ; job = await feed.next(heartbeatMs)) {
        if (events.aborted) return
        if (job) {
          const data = JSON.stringify(jobView(job))
          await events.writeSSE({ event: 'job', id: eventId(job), data })
        } else await events.write(': still here\n\n')
        if (job?.finished_at || feed.closed || Date.now() > ends) return
      }
    } finally {
      clearTimeout(late)
      feed.close()
    }
  })
  response.headers.set('Cache-Control', 'no-store')
  return response
}

/** Jobs as they happen: server-sent events. */
export function jobEventRoutes(deps: Deps) {
  const { books, jobWatch } = deps

  return resource(deps, 'Jobs').route(
    {
      method: 'get',
      path: '/jobs/{job_id}/events',
      summary: 'A job as it happens: server-sent events, until it is over',
      description:
        'text/event-stream: an event `job` at once and at every change, whose data is what ' +
        '`GET /jobs/{job_id}` answers; a comment every 15 seconds; closed when the job is over, and after ' +
        '15 minutes. 204 to whoever comes again (`Last-Event-ID`) and has seen the end.',
      needs: ['admin', 'service'],
      params: strict({ job_id: uuid }),
      answers: { 200: null, 204: null },
      problems: ['job-not-found', 'too-many-streams'],
    },
    async (c, { params }) => {
      const job = await books.job(params.job_id)
      if ('problem' in job) return problemResponse(c, job)
      const seen = c.req.raw.headers.get('last-event-id')
      // Hono answers HEAD through here too: nobody would ever read or end that stream.
      if ((job.finished_at && seen === eventId(job)) || c.req.method === 'HEAD') return noContent(c)
      const feed = jobWatch.watch(job)
      if (!feed)
        return problemResponse(c, {
          ...problem('too-many-streams', { limit: jobWatch.watchersMax, job_id: job.job_id }),
          retryAfter: 10,
        })
      return stream(c, job, feed) as Answer<200, null>
    },
  )
}
