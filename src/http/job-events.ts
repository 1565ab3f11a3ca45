import { streamSSE } from 'hono/streaming'
import type { Deps } from '../app.ts'
import type { JobFeed } from '../ledger/job-watch.ts'
import type { Job } from '../ledger/jobs.ts'
import { problem } from '../problems.ts'
import { type Context, requestId } from './context.ts'
import { ofJson } from './headers.ts'
import { jobView } from './jobs.ts'
import { letIn } from './lasting.ts'
import { type Answer, noContent, problemResponse } from './respond.ts'
import { resource } from './route.ts'
import { strict, uuid } from './schemas.ts'

/** A comment so often keeps proxies from closing a stream on which nothing happens. */
const heartbeatMs = 15_000
/** Then the client connects anew: nobody keeps a place for ever. */
const streamMs = 15 * 60_000
/** Whoever is not let in any more hears nothing after a second. */
const lookMs = 250
const whose = ['admin', 'service'] as const

/** Says which news an event told, so that whoever comes again with it is not told twice of the end. */
const eventId = ({ state, done, total }: Job) => `${state}-${done}-${total}`

/** Tells a client of a job until it is over, the client has gone or is let in no more, or this process stops. */
function stream(c: Context, first: Job, feed: JobFeed, isLetIn: () => Promise<boolean>): Response {
  c.header('X-Request-Id', requestId(c))
  for (const [name, value] of Object.entries(ofJson)) c.header(name, value)
  // nginx would keep events back until there are enough of them.
  c.header('X-Accel-Buffering', 'no')
  const response = streamSSE(c, async (events) => {
    events.onAbort(() => feed.close())
    const late = setTimeout(() => feed.close(), streamMs)
    const look = setInterval(async () => {
      if (!(await isLetIn())) feed.close()
    }, lookMs)
    try {
      for (let job: Job | undefined = first; ; job = await feed.next(heartbeatMs)) {
        if (events.aborted || feed.closed) return
        if (job) {
          const data = JSON.stringify(jobView(job))
          await events.writeSSE({ event: 'job', id: eventId(job), data })
        } else await events.write(': still here\n\n')
        if (job?.finished_at) return
      }
    } finally {
      clearTimeout(late)
      clearInterval(look)
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
        '`GET /jobs/{job_id}` answers; a comment every 15 seconds; closed when the job is over, after 15 ' +
        'minutes, and within about a second once the key is revoked, the account inactive or the token ' +
        'over. 204 to whoever comes again (`Last-Event-ID`) and has seen the end.',
      needs: whose,
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
      return stream(c, job, feed, letIn(deps, c, whose)) as Answer<200, null>
    },
  )
}
