import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { ofJson } from '../src/http/headers.ts'
import { makeApiKey } from '../src/http/tokens.ts'
import { transaction } from '../src/ledger/database.ts'
import { openJobWatch } from '../src/ledger/job-watch.ts'
import { createJob, finishJob, getJob, progressJob, startJob } from '../src/ledger/jobs.ts'
import { openWorld, until, type World } from './world.ts'

/** Jobs as clients see them. Nobody works here: the tests move the rows themselves. */
let world: World
beforeAll(async () => {
  world = await openWorld()
  await world.stopWorker()
})
afterAll(() => world.close())

const make = (over: { kind?: string; book_id?: string | null; total?: number } = {}) =>
  transaction(world.database, (tx) =>
    createJob(tx, {
      ...{ kind: 'generate', book_id: null, total: 100, input: {}, created_by: 'key:test' },
      ...over,
    }),
  )
const call = (method: string, path: string, as = world.service, body?: unknown) =>
  world.call(method, path, { as, body })
const ids = (body: { data: { job_id: string }[] }) => body.data.map(({ job_id }) => job_id)

describe('the list of jobs', () => {
  test('shows the newest first, page by page, with who, when and how far', async () => {
    const made: string[] = []
    for (let i = 0; i < 5; i++) made.push((await make()).job_id)
    await startJob(world.database, made[4]!)
    await progressJob(world.database, made[4]!, 25)
    const first = (await call('GET', 'jobs?limit=2')).body
    expect(ids(first)).toEqual([made[4], made[3]])
    expect(first).toMatchObject({ has_more: true, next_cursor: made[3] })
    expect(first.data[0]).toMatchObject({
      ...{ state: 'running', done: 25, total: 100, progress: 0.25, created_by: 'key:test' },
    })
    const second = (await call('GET', `jobs?limit=2&starting_after=${made[3]}`)).body
    expect(ids(second)).toEqual([made[2], made[1]])
    const last = (await call('GET', `jobs?starting_after=${made[1]}`)).body
    expect(ids(last)[0]).toBe(made[0])
    expect(last).toMatchObject({ has_more: false, next_cursor: null })
  })

  test('is narrowed by state, kind and book', async () => {
    const book = await world.makeBook()
    const [a, b] = [
      await make({ book_id: book }),
      await make({ book_id: book, kind: 'drain', total: 0 }),
    ]
    await startJob(world.database, a.job_id)
    const of = async (query: string) =>
      ids((await call('GET', `jobs?book_id=${book}${query}`)).body)
    expect(await of('')).toEqual([b.job_id, a.job_id])
    expect(await of('&state=running')).toEqual([a.job_id])
    expect(await of('&kind=drain')).toEqual([b.job_id])
    expect(await of('&kind=drain&state=done')).toEqual([])
    expect((await call('GET', `jobs/${b.job_id}`)).body.progress).toBe(null)
  })

  test('refuses a cursor that is none', async () => {
    const nothing = '00000000-0000-4000-8000-000000000000'
    const { body } = await call('GET', `jobs?starting_after=${nothing}`)
    expect(body.code).toBe('invalid-cursor')
  })
})

describe('cancelling a job', () => {
  test.each([
    ['POST', (id: string) => `jobs/${id}/cancel`],
    ['DELETE', (id: string) => `jobs/${id}`],
  ])('by %s ends it once, on record', async (method, path) => {
    const { job_id } = await make()
    const done = await call(method, path(job_id))
    expect(done.status).toBe(200)
    expect(done.body).toMatchObject({ state: 'cancelled', finished_at: expect.any(String) })
    expect((await call(method, path(job_id))).body).toMatchObject({
      ...{ code: 'wrong-job-state', state: 'cancelled' },
    })
    const { rows } = await world.database.query(
      'SELECT actor, action, reason FROM audit_log WHERE target = $1',
      [`job:${job_id}`],
    )
    expect(rows).toEqual([
      { actor: expect.stringMatching(/^key:/), action: 'jobs.cancel', reason: null },
    ])
  })

  test('keeps the reason that was given', async () => {
    const jobs = [await make(), await make()]
    await call('POST', `jobs/${jobs[0]!.job_id}/cancel`, world.admin, { reason: 'a mistake' })
    await call('DELETE', `jobs/${jobs[1]!.job_id}?reason=a%20mistake`, world.admin)
    const { rows } = await world.database.query(
      `SELECT DISTINCT reason FROM audit_log WHERE target = ANY ($1)`,
      [jobs.map(({ job_id }) => `job:${job_id}`)],
    )
    expect(rows).toEqual([{ reason: 'a mistake' }])
  })

  test('of an operator takes an administrator', async () => {
    const { job_id } = await make({ kind: 'drain' })
    expect((await call('POST', `jobs/${job_id}/cancel`)).body.code).toBe('forbidden')
    expect((await getJob(world.database, job_id))!.state).toBe('queued')
    expect((await call('POST', `jobs/${job_id}/cancel`, world.admin)).status).toBe(200)
  })
})

/** Reads server-sent events; `events` grows while they come. */
function listen(jobId: string, headers: Record<string, string> = {}) {
  const abort = new AbortController()
  const events: { event: string; data: Record<string, unknown>; id: string }[] = []
  const heard = { text: '', over: false, status: 0, type: '' as string | null, headers: {} }
  const done = (async () => {
    const response = await fetch(`${world.base}/api/v1/jobs/${jobId}/events`, {
      headers: { authorization: `Bearer ${world.service}`, ...headers },
      signal: abort.signal,
    })
    Object.assign(heard, { status: response.status, type: response.headers.get('content-type') })
    heard.headers = Object.fromEntries(response.headers)
    let rest = ''
    for await (const chunk of response.body ?? []) {
      const text = new TextDecoder().decode(chunk)
      heard.text += text
      const blocks = (rest + text).split('\n\n')
      rest = blocks.pop()!
      for (const block of blocks) {
        const of = (name: string) => new RegExp(`^${name}: (.*)$`, 'm').exec(block)?.[1] ?? ''
        if (of('event'))
          events.push({ event: of('event'), id: of('id'), data: JSON.parse(of('data')) })
      }
    }
    heard.over = true
  })().catch((error: Error) => {
    if (error.name !== 'AbortError') throw error
  })
  return { events, heard, done, leave: () => abort.abort() }
}

describe('the events of a job', () => {
  test('tell every change, and end with the job', async () => {
    const { job_id } = await make()
    const { events, heard, done } = listen(job_id)
    await until(() => events.length === 1, 'it is told at once')
    expect(heard).toMatchObject({ status: 200, type: 'text/event-stream' })
    const safe = Object.entries(ofJson).map(([name, value]) => [name.toLowerCase(), value])
    expect(heard.headers).toMatchObject(Object.fromEntries(safe))
    expect(events[0]).toMatchObject({
      event: 'job',
      data: { job_id, state: 'queued', progress: 0 },
    })
    await startJob(world.database, job_id)
    await until(() => events.length === 2, 'it has begun')
    await progressJob(world.database, job_id, 60)
    await until(() => events.length === 3, 'it goes on')
    // A sign of life is no news.
    await progressJob(world.database, job_id, 60)
    await sleep(700)
    await finishJob(world.database, job_id, { made: 1 })
    await done
    expect(heard.over).toBe(true)
    expect(events.map(({ data }) => `${data.state} ${data.done}`)).toEqual([
      ...['queued 0', 'running 0', 'running 60', 'done 100'],
    ])
    const shown = (await call('GET', `jobs/${job_id}`)).body
    expect(events.at(-1)!.data).toEqual(shown)
    // An EventSource that comes again with the last event is told to stay away.
    const again = listen(job_id, { 'last-event-id': events.at(-1)!.id })
    await again.done
    expect(again.heard.status).toBe(204)
    const late = listen(job_id)
    await late.done
    expect(late.events).toHaveLength(1)
  })

  test.each([
    [
      'key is revoked',
      async () => {
        const { key, ...kept } = makeApiKey()
        const { accounts } = world.house.deps
        await accounts.createApiKey({ ...kept, name: 'test', created_by: 'test' })
        return { token: key, end: () => accounts.revokeApiKey(kept.key_id) }
      },
    ],
    [
      'account is deactivated',
      async () => {
        const { id, token } = await world.signUp('admin')
        const sql = 'UPDATE users SET is_active = false WHERE user_id = $1'
        return { token, end: () => world.database.query(sql, [id]) }
      },
    ],
  ])('end within about a second once the %s', async (_, signIn) => {
    const { token, end } = await signIn()
    const { job_id } = await make()
    const one = listen(job_id, { authorization: `Bearer ${token}` })
    await until(() => one.events.length === 1, 'it listens')
    await sleep(600)
    expect(one.heard.over).toBe(false)
    await end()
    await until(() => one.heard.over, 'it is over', 2_500)
    await startJob(world.database, job_id)
    await sleep(600)
    expect(one.events).toHaveLength(1)
  })

  test('come again after PostgreSQL was away', async () => {
    const { job_id } = await make()
    const { events, done } = listen(job_id)
    await until(() => events.length === 1, 'it listens')
    const query = vi.spyOn(world.database, 'query')
    query.mockRejectedValueOnce(Object.assign(new Error('gone'), { code: '57P03' }) as never)
    await until(() => query.mock.calls.length > 1, 'it asked twice')
    query.mockRestore()
    await world.database.query(
      "UPDATE jobs SET state = 'failed', error = 'no', finished_at = now() WHERE job_id = $1",
      [job_id],
    )
    await done
    expect(events.at(-1)!.data).toMatchObject({ state: 'failed', error: 'no' })
  })

  test('are asked for once, however many listen, and by nobody once they have left', async () => {
    const jobs = [await make(), await make()]
    const all = Array.from({ length: 12 }, (_, i) => listen(jobs[i % 2]!.job_id))
    await until(() => all.every(({ events }) => events.length === 1), 'all listen')
    const query = vi.spyOn(world.database, 'query')
    const asked = () =>
      query.mock.calls.filter(([text]) => String(text).includes('job_id = ANY')).length
    await sleep(1_600)
    expect(asked()).toBeGreaterThanOrEqual(2)
    expect(asked()).toBeLessThanOrEqual(4)
    for (const one of all) one.leave()
    await Promise.all(all.map(({ done }) => done))
    await sleep(600)
    query.mockClear()
    await sleep(1_200)
    expect(asked()).toBe(0)
    query.mockRestore()
  })

  test('are refused where too many listen, and of a job that nobody made', async () => {
    const { job_id } = await make()
    const all = Array.from({ length: 205 }, () => listen(job_id))
    await until(() => all.every(({ heard }) => heard.status > 0), 'all are answered')
    const refused = all.filter(({ heard }) => heard.status === 503)
    expect(refused).toHaveLength(5)
    await Promise.all(refused.map(({ done }) => done))
    expect(refused[0]!.heard.text).toContain('"code":"too-many-streams"')
    for (const one of all) one.leave()
    await Promise.all(all.map(({ done }) => done))
    const free = async () => {
      const one = listen(job_id)
      await until(() => one.heard.status > 0, 'it is answered')
      one.leave()
      return one.heard.status === 200
    }
    await until(free, 'their places are free')
    const none = await call('GET', 'jobs/00000000-0000-4000-8000-000000000000/events')
    expect(none.body.code).toBe('job-not-found')
  })

  test('take no place for a HEAD', async () => {
    const { job_id } = await make()
    const watch = vi.spyOn(world.house.deps.jobWatch, 'watch')
    const { status } = await call('HEAD', `jobs/${job_id}/events`)
    expect(status).toBe(204)
    expect(watch).not.toHaveBeenCalled()
  })
})

describe('a watch', () => {
  test('that is closed ends all feeds, and takes no more', async () => {
    const watch = openJobWatch(world.database, 2)
    const job = await make()
    const [a, b] = [watch.watch(job)!, watch.watch(job)!]
    expect(watch.watch(job)).toBe(undefined)
    b.close()
    b.close()
    const c = watch.watch(job)!
    expect(await c.next(1)).toBe(undefined)
    const next = a.next(60_000)
    watch.close()
    expect(await next).toBe(undefined)
    expect([a.closed, c.closed]).toEqual([true, true])
    expect(watch.watch(job)).toBe(undefined)
  })
})
