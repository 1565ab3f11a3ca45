import { afterAll, beforeAll, expect, test } from 'vitest'
import { sweepImportsOnce } from '../src/ledger/imports.ts'
import { killed, openTown, type Town } from './processes.ts'
import { until } from './world.ts'

/** Worker and API are killed by kill -9 while a file is imported or exported. */
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

let whole: string

test('killed in the middle, the next worker ends it: counts exact, stores alike', async () => {
  const book = await makeBook()
  expect(await send(book, 'K', 'on_error=refuse')).toMatchObject({ status: 202 })
  // Three pages are looked through, then three are written.
  await killed(town.startWorker({ FAILPOINT: 'import.after-page:kill:5' }))
  const { shard, ...then } = await numbers(book)
  expect(then).toEqual({
    ...{ codes: 50_000, written: 50_000, total: 50_000, load: 'writing', job: 'running' },
    said: null,
  })
  const last = town.startWorker()
  await until(async () => (await numbers(book)).job === 'done', 'it is done', 25_000)
  const { shard: _, ...now } = await numbers(book)
  expect(now).toEqual({
    ...{ codes: rows, written: rows, total: rows, load: 'pushed', job: 'done', said: rows },
  })
  expect(await town.redis.scard(`{s${shard}}:stock:${book}`)).toBe(rows)
  expect(await town.redis.hlen(`{s${shard}}:uses:${book}`)).toBe(rows)
  await until(async () => (await fetch(`${api.base}/readyz`)).ok, 'it serves')
  const { code, out } = await town.cli(['reconcile', '--json'])
  expect(JSON.parse(out)).toMatchObject({
    differences: [],
    verdict: 'equal',
  })
  expect(code).toBe(0)
  await last.kill()
  whole = book
})

test('an API that is killed while it sends a file breaks off, and another one goes on behind the last whole line', async () => {
  const other = await town.startApi()
  const download = (base: string, query = '') =>
    fetch(`${base}/api/v1/books/${whole}/export/coupons?${query}`, {
      headers: { authorization: `Bearer ${town.token}` },
    })
  let got = ''
  const broken = (await download(other.base)).body!.pipeThrough(new TextDecoderStream()).getReader()
  const take = async () => {
    const { done, value = '' } = await broken.read()
    got += value
    return !done
  }
  await take()
  await other.kill()
  const rest = async () => {
    while (await take());
  }
  await expect(rest()).rejects.toThrow()
  const kept = got.slice(0, got.lastIndexOf('\n') + 1)
  const codesOf = (text: string) =>
    text
      .trimEnd()
      .split('\n')
      .map((line) => line.split(',', 1)[0]!)
  const before = codesOf(kept)
  // Else nothing was broken off, or nothing had come.
  expect(before.length).toBeGreaterThan(1)
  expect(before.length).toBeLessThan(rows)
  const text = kept + (await (await download(api.base, `after=${before.at(-1)}`)).text())
  expect(text).toBe(await (await download(api.base)).text())
  const [head, ...codes] = codesOf(text)
  expect([head, codes.length, new Set(codes).size]).toEqual(['code', rows, rows])
  expect((await town.cli(['reconcile', '--json'])).code).toBe(0)
})

test('an API that is killed while a file arrives leaves nothing of it', async () => {
  const book = await makeBook()
  const other = await town.startApi({ FAILPOINT: 'import.before-close:kill' })
  await expect(send(book, 'A', '', other.base)).rejects.toThrow()
  await killed(other)
  const { rows: found } = await town.database.query(
    'SELECT state, rows FROM imports WHERE book_id = $1',
    [book],
  )
  expect(found).toEqual([{ state: 'uploading', rows }])
  // Nothing is heard of it for a minute.
  await town.database.query("UPDATE imports SET seen_at = now() - interval '61 s'")
  await sweepImportsOnce(town.database)
  const left = await town.database.query(
    'SELECT (SELECT count(*)::int FROM imports WHERE book_id = $1) AS imports, (SELECT count(*)::int FROM import_rows) AS rows, (SELECT count(*)::int FROM jobs WHERE book_id = $1) AS jobs',
    [book],
  )
  expect(left.rows[0]).toMatchObject({ imports: 0, jobs: 0 })
})
