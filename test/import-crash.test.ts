import { afterAll, beforeAll, expect, test } from 'vitest'
import { killed, openTown, type Town } from './processes.ts'
import { until } from './world.ts'

/** Worker and API are killed by kill -9 while a file is imported. */
let town: Town
let api: Awaited<ReturnType<Town['startApi']>>
beforeAll(async () => {
  town = await openTown()
  const worker = town.startWorker()
  api = await town.startApi()
  await worker.kill()
})
afterAll(() => town?.close())

const rows = 60_000
const fileOf = (name: string) =>
  `code,max_redemptions\n${Array.from({ length: rows }, (_, i) => `${name}-${i},2\n`).join('')}`

async function makeBook(): Promise<string> {
  return (await town.post(api.base, 'books', { name: 'Files', owner_id: 'o' })).body.book_id
}
async function send(book: string, name: string, query: string, base = api.base) {
  const response = await fetch(`${base}/api/v1/books/${book}/imports?${query}`, {
    method: 'POST',
    headers: { authorization: `Bearer ${town.token}` },
    body: fileOf(name),
  })
  // biome-ignore lint/suspicious/noExplicitAny: tests look into whatever came
  return { status: response.status, body: (await response.json()) as any }
}
const numbers = async (book: string) =>
  (
    await town.database.query(
      `SELECT (SELECT count(*)::int FROM codes WHERE book_id = b.book_id) AS codes, written, shard,
         total_code_count AS total, l.state AS load, j.state AS job, result->'codes_created' AS said
       FROM books b JOIN loads l USING (book_id) JOIN jobs j USING (job_id) WHERE b.book_id = $1`,
      [book],
    )
  ).rows[0]

test('killed in the middle wherever it is, the next worker ends it: counts exact, stores alike', async () => {
  const books: string[] = []
  for (const [query, failpoint] of [
    ['on_error=keep', 'import.after-page:kill:2'],
    ['on_error=refuse', 'import.after-page:kill:5'],
    ['on_error=refuse', 'import.mid-push:kill:2'],
    ['on_error=keep', 'import.before-finish:kill'],
  ] as const) {
    const book = await makeBook()
    books.push(book)
    const name = `K${books.length}`
    expect(await send(book, name, query)).toMatchObject({ status: 202, body: { state: 'queued' } })
    await killed(town.startWorker({ FAILPOINT: failpoint }))
    const then = await numbers(book)
    expect(then.job).toBe('running')
    expect([then.codes, then.total]).toEqual([then.written, then.written])
    const part = [25_000, 50_000, rows, rows][books.length - 1]
    expect(then.written).toBeLessThanOrEqual(part!)
    const next = town.startWorker()
    await until(async () => (await numbers(book)).job === 'done', 'it is done', 25_000)
    const { shard, ...now } = await numbers(book)
    expect(now).toEqual({
      ...{ codes: rows, written: rows, total: rows, load: 'pushed', job: 'done', said: rows },
    })
    expect(await town.redis.scard(`{s${shard}}:stock:${book}`)).toBe(rows)
    expect(await town.redis.hlen(`{s${shard}}:uses:${book}`)).toBe(rows)
    await next.kill()
  }
  const last = town.startWorker()
  await until(async () => (await fetch(`${api.base}/readyz`)).ok, 'it serves')
  const { code, out } = await town.cli(['reconcile'])
  expect(out).toMatch(/no difference/i)
  expect(code).toBe(0)
  await last.kill()
})
