import { expect } from 'vitest'
import { until, type World } from './world.ts'

export type Body = NonNullable<RequestInit['body']>

/** Files to and from a world, as a client sends and takes them. */
export function openFiles(world: World) {
  const bearer = { authorization: `Bearer ${world.admin}` }

  /** Sends a file; `query` as in `on_error=keep`. */
  async function send(book: string, body: Body, query = '', headers: Record<string, string> = {}) {
    const response = await fetch(`${world.base}/api/v1/books/${book}/imports?${query}`, {
      method: 'POST',
      headers: { ...bearer, ...headers },
      body,
      ...(body instanceof ReadableStream ? { duplex: 'half' } : {}),
    } as RequestInit)
    // biome-ignore lint/suspicious/noExplicitAny: tests look into whatever came
    const answer = (await response.json()) as any
    return { status: response.status, headers: response.headers, body: answer }
  }

  async function over(jobId: string) {
    let job: Record<string, unknown> = {}
    await until(async () => {
      job = (await world.call('GET', `jobs/${jobId}`, { as: world.admin })).body
      return job.finished_at !== null
    }, 'the job is over')
    // biome-ignore lint/suspicious/noExplicitAny: tests look into whatever came
    return job as any
  }

  return {
    send,
    over,
    /** Sends a file and waits for its job. */
    async take(book: string, body: Body, query = '', headers: Record<string, string> = {}) {
      const sent = await send(book, body, query, headers)
      expect(sent.body, JSON.stringify(sent.body)).toMatchObject({ kind: 'import' })
      expect(sent.status).toBe(202)
      return over(sent.body.job_id)
    },
    async download(path: string) {
      const response = await fetch(`${world.base}/api/v1/${path}`, { headers: bearer })
      return { status: response.status, headers: response.headers, text: await response.text() }
    },
    /** The rows of a report, without its header. */
    async report(jobId: string): Promise<string[]> {
      const { text } = await this.download(`imports/${jobId}/report`)
      const [head, ...lines] = text.trimEnd().split('\n')
      expect(head).toBe('line,code,kind,reason')
      return lines
    },
    /** Codes of a book: rows, total, load and stock must all say the same number. */
    async expectCodes(book: string, count: number) {
      const { rows } = await world.database.query(
        `SELECT (SELECT count(*) FROM codes c WHERE c.book_id = b.book_id) AS rows, shard,
           total_code_count AS total, (SELECT coalesce(sum(written), 0)::bigint FROM loads l
             WHERE l.book_id = b.book_id AND state = 'pushed') AS pushed
         FROM books b WHERE book_id = $1`,
        [book],
      )
      const { shard, ...found } = rows[0]
      const stock = await world.redis.scard(`{s${shard}}:stock:${book}`)
      const left = Number(await world.redis.hget(`{s${shard}}:book:${book}`, 'left'))
      expect({ ...found, stock, left }).toEqual({
        ...{ rows: count, total: count, pushed: count, stock: count, left: count },
      })
    },
    /** What files of a book left behind: imports, and rows of theirs. */
    async leftovers(book: string): Promise<number> {
      const { rows } = await world.database.query(
        `SELECT (SELECT count(*) FROM imports WHERE book_id = $1)::int +
           (SELECT count(*) FROM import_rows JOIN imports USING (import_id) WHERE book_id = $1)::int
             AS count`,
        [book],
      )
      return rows[0].count
    },
  }
}
