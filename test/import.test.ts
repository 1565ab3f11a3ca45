import { setTimeout as sleep } from 'node:timers/promises'
import { gzipSync } from 'node:zlib'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { sweepImportsOnce } from '../src/ledger/imports.ts'
import { type Body, openFiles } from './files.ts'
import { openWorld, until, type World } from './world.ts'

let world: World
let files: ReturnType<typeof openFiles>
beforeAll(async () => {
  world = await openWorld()
  files = openFiles(world)
})
afterAll(() => world?.close())

const json = (lines: string) =>
  lines
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line))
async function exported(book: string) {
  const { text } = await files.download(`books/${book}/export/coupons?format=ndjson`)
  return json(text)
}

describe('an import', () => {
  test('takes CSV as spreadsheets write it: BOM, CRLF, quotes, own limits, other columns', async () => {
    const book = await world.makeBook({ max_redemptions: 7 })
    const csv =
      '\uFEFFcode,max_redemptions,note,"a ""b"""\r\n' +
      'CSV-1,,,\r\n"CSV-2",3,"two\r\nlines, and a comma",x\r\n\r\nCSV-3,unlimited,é,\r\n'
    const job = await files.take(book, csv)
    expect(job).toMatchObject({ state: 'done', total: 3, done: 3 })
    expect(job.result).toMatchObject({ codes_created: 3, codes_skipped: 0, bad_rows: 0 })
    await files.expectCodes(book, 3)
    const rows = (await exported(book)).map(({ code, max_redemptions, metadata }) => [
      ...[code, max_redemptions, metadata],
    ])
    expect(rows).toEqual([
      ['CSV-1', 7, null],
      ['CSV-2', 3, { note: 'two\r\nlines, and a comma', 'a "b"': 'x' }],
      ['CSV-3', 'unlimited', { note: 'é' }],
    ])
    // Redis has the limits, too.
    const shown = await world.call('GET', 'coupons/CSV-2', { as: world.admin })
    expect(shown.body).toMatchObject({ state: 'UNASSIGNED', max_redemptions: 3 })
  })

  test('takes NDJSON, and null as no limit', async () => {
    const book = await world.makeBook()
    const lines =
      '{"code":"ND-1","max_redemptions":null,"tags":["a",{"b":1}]}\n\n{"code":"ND-2"}\r\n' +
      '{"code":"ND-3","max_redemptions":2}'
    const job = await files.take(book, lines, '', { 'content-type': 'application/x-ndjson' })
    expect(job.result).toMatchObject({ codes_created: 3 })
    const rows = (await exported(book)).map((row) => [row.max_redemptions, row.metadata])
    expect(rows).toEqual([
      ['unlimited', { tags: ['a', { b: 1 }] }],
      [1, null],
      [2, null],
    ])
  })

  test.each([
    ['a gzipped body', async () => [gzipSync('code\nGZ-1\n'), { 'content-encoding': 'gzip' }]],
    ['a gzip file', async () => [gzipSync('code\nGZ-2\n'), { 'content-type': 'application/gzip' }]],
    ['a form', async () => [form('codes.csv', 'code\nGZ-3\n'), {}]],
    ['a form with a gzip file', async () => [form('codes.csv.gz', gzipSync('code\nGZ-4\n')), {}]],
    ['a form with NDJSON', async () => [form('codes.ndjson', '{"code":"GZ-5"}'), {}]],
  ] as [string, () => Promise<[Body, Record<string, string>]>][])('takes %s', async (_, make) => {
    const book = await world.makeBook()
    const [body, headers] = await make()
    expect((await files.take(book, body, '', headers)).result).toMatchObject({ codes_created: 1 })
    await files.expectCodes(book, 1)
  })

  const bad =
    'code,max_redemptions,note\n' +
    'OK-1,1,fine\nme,,\nOK-2,0,\nwith space,,\n,,\nOK-3,1\n' +
    'OK-1,5,twin\n=1+1,,\nOK-4,,"a\nb"\nTAKEN-1,,\nOK-5,2.5,\nOK-6,,\0\nOK-7,,\uFFFD\nDup-x,,\n'
  const faults = [
    '3,me,bad,the code is a reserved word',
    '4,OK-2,bad,"max_redemptions must be a whole number from 1 to 2147483647, or unlimited"',
    '5,with space,bad,the code must be 1 to 50 visible ASCII characters without spaces',
    '6,,bad,has no code',
    '7,OK-3,bad,has 2 columns where the header has 3',
    '8,OK-1,bad,the code stands in line 2 before',
    '12,TAKEN-1,bad,the code exists already',
    '13,OK-5,bad,"max_redemptions must be a whole number from 1 to 2147483647, or unlimited"',
    '14,OK-6,bad,the metadata must not contain U+0000',
    '15,OK-7,bad,is not UTF-8',
  ]

  test('names bad rows by line and reason, and keeps the good ones if asked to', async () => {
    await world.makeBook({}, ['TAKEN-1'])
    const book = await world.makeBook()
    const job = await files.take(book, bad, 'on_error=keep')
    expect(job).toMatchObject({ state: 'done', result: { codes_created: 4, bad_rows: 10 } })
    await files.expectCodes(book, 4)
    expect((await exported(book)).map(({ code }) => code)).toEqual([
      '=1+1',
      'Dup-x',
      'OK-1',
      'OK-4',
    ])
    const { body } = await world.call('GET', 'coupons/OK-1', { as: world.admin })
    expect(body.max_redemptions).toBe(1)
    expect(await files.report(job.job_id)).toEqual(faults)
    await sweepImportsOnce(world.database)
    // Its import stays for a week, and so does the report.
    expect(await files.leftovers(book)).toBe(1)
    expect(await files.report(job.job_id)).toEqual(faults)
  })

  test('refuses all of it otherwise, says why, and is the same when it is done again', async () => {
    const book = await world.makeBook()
    const other = bad.replaceAll('OK-', 'NO-').replace('=1+1', '=1+2').replace('Dup', 'Dip')
    const sent = await files.send(book, other)
    const job = await files.over(sent.body.job_id)
    expect(job).toMatchObject({
      state: 'failed',
      done: 0,
      error: expect.stringMatching(/^10 rows/),
      result: {
        ...{ codes_created: 0, rows_read: 14, good_rows: 4, bad_rows: 10, codes_skipped: 0 },
        bad_rows_by: { reading: 8, job: 2 },
        report: `/api/v1/imports/${job.job_id}/report`,
      },
    })
    await files.expectCodes(book, 0)
    const expected = faults.map((line) => line.replaceAll('OK-', 'NO-'))
    expect(await files.report(job.job_id)).toEqual(expected)
    const as = world.admin
    const again = await world.call('POST', `ops/jobs/${job.job_id}/retry`, {
      as,
      body: { reason: 'try' },
    })
    expect(again.status).toBe(200)
    const same = await files.over(job.job_id)
    expect(same.error).toBe(job.error)
    expect(await files.report(job.job_id)).toEqual(expected)
    await files.expectCodes(book, 0)
  })

  test('skips codes that exist if asked to, and names them', async () => {
    await world.makeBook({}, ['SKIP-1', 'SKIP-2'])
    const book = await world.makeBook()
    const job = await files.take(book, 'code\nSKIP-1\nSKIP-3\nSKIP-2\n', 'on_duplicate=skip')
    expect(job.result).toMatchObject({ codes_created: 1, codes_skipped: 2, bad_rows: 0 })
    expect(await files.report(job.job_id)).toEqual([
      '2,SKIP-1,skipped,the code exists already',
      '4,SKIP-2,skipped,the code exists already',
    ])
    await files.expectCodes(book, 1)
  })

  test('counts the reserved prefix of a counter book as bad', async () => {
    const counter = await world.makeBook({ kind: 'counter', units: 1 })
    const { rows } = await world.database.query(
      'SELECT code_prefix FROM books WHERE book_id = $1',
      [counter],
    )
    const code = `${rows[0].code_prefix}ABC`
    const job = await files.take(
      await world.makeBook(),
      `code\n${code}\nPREFIX-1\n`,
      'on_error=keep',
    )
    expect(await files.report(job.job_id)).toEqual([
      `2,${code},bad,the code begins with the reserved prefix of a counter book`,
    ])
    const fresh = await world.makeBook()
    expect((await files.send(counter, 'code\nX\n')).body.code).toBe('wrong-book-kind')
    expect((await files.take(fresh, `code\n${code}\n`)).state).toBe('failed')
  })

  test('is made once under an Idempotency-Key, also by two at once', async () => {
    const book = await world.makeBook()
    const key = { 'idempotency-key': 'file-1' }
    const both = await Promise.all([
      files.send(book, 'code\nONCE-1\n', '', key),
      files.send(book, 'code\nONCE-1\n', '', key),
    ])
    const third = await files.send(book, 'code\nONCE-1\n', '', key)
    const ids = [...both, third].map(({ status, body }) => `${status} ${body.job_id}`)
    expect(new Set(ids).size).toBe(1)
    expect(third.headers.get('idempotent-replayed')).toBe('true')
    expect((await files.over(third.body.job_id)).result).toMatchObject({ codes_created: 1 })
    const other = await files.send(book, 'code\nONCE-2\n', 'on_error=keep', key)
    expect(other.body.code).toBe('idempotency-key-reused')
    await files.expectCodes(book, 1)
  })
})

function form(name: string, content: string | Buffer): FormData {
  const body = new FormData()
  body.set('file', new Blob([content as string]), name)
  return body
}

describe('a file that cannot be used', () => {
  const long = 'x'.repeat(40_000)
  const twice = new FormData()
  for (const name of ['a', 'b']) twice.set(name, new Blob(['code\nA\n']), `${name}.csv`)
  const large = `code\n${Array.from({ length: 30_000 }, (_, i) => `FORM-${i}\n`).join('')}`
  const largeFirst = form('large.csv', large)
  largeFirst.set('b', new Blob(['code\nA\n']), 'b.csv')
  test.each([
    ['empty', '', '', 1, 'the file is empty'],
    ['a header alone', 'code,note\n', '', 1, 'the file has no rows'],
    ['empty NDJSON', '\n\n', 'format=ndjson', 1, 'the file has no rows'],
    ['no column code', 'id,note\nA,b\n', '', 1, 'the header has no column `code`, only: id, note'],
    ['a column twice', 'code,x,x\nA,b,c\n', '', 1, 'the header names a column twice'],
    ['an open quote', 'code\nA\n"B\nC\n', '', 3, 'a quote is opened and never closed'],
    ['a stray quote', 'code\nA\nB"C\n', '', 3, /^a quote stands in the middle/],
    ['text behind a quote', 'code\n"A"B\n', '', 2, /^something follows a closing quote/],
    ['a row without end', `code\nA\n${long}\n`, '', 3, /^the row is over 32768 bytes/],
    ['half a gzip file', gzipSync(`code\n${long}`).subarray(0, 60), '', 1, /not whole gzip/],
    ['two files', twice, '', 1, 'the form has more than one file'],
    ['a large file and another', largeFirst, '', 1, 'the form has more than one file'],
    ['a form without a file', new URLSearchParams('a=b'), '', 1, /no column `code`/],
  ] as [string, Body, string, number, string | RegExp][])(
    'is refused by name: %s',
    async (_, body, query, line, reason) => {
      const book = await world.makeBook()
      const sent = await files.send(book, body, query)
      expect(sent.body).toMatchObject({ code: 'unusable-file', line })
      expect(sent.body.reason).toMatch(reason)
      await sweepImportsOnce(world.database)
      await files.expectCodes(book, 0)
    },
  )

  test.each([
    ['before a file', 'code\nA\n', ['on_error', 'file']],
    ['behind a file', 'code\nA\n', ['file', 'on_error']],
    ['behind a large file', large, ['file', 'on_error']],
  ])(
    'for a field in its form says that it belongs into the query: %s',
    async (_, content, parts) => {
      const book = await world.makeBook()
      const body = new FormData()
      for (const part of parts)
        if (part === 'file') body.set(part, new Blob([content]), 'codes.csv')
        else body.set(part, 'keep')
      const sent = await files.send(book, body)
      expect([sent.status, sent.body.code]).toEqual([422, 'invalid-request'])
      const message = expect.stringContaining('put it into the query')
      expect(sent.body.errors).toEqual([{ path: 'on_error', message }])
      await sweepImportsOnce(world.database)
      await files.expectCodes(book, 0)
    },
  )

  /** Sends a form that comes in pieces. */
  async function sendSlowly(...pieces: string[]) {
    const body = new ReadableStream({
      async pull(controller) {
        const piece = pieces.shift()
        if (piece === undefined) return controller.close()
        controller.enqueue(new TextEncoder().encode(piece))
        await sleep(100)
      },
    })
    const type = { 'content-type': 'multipart/form-data; boundary=x' }
    return files.send(await world.makeBook(), body, '', type)
  }
  const ofFile = '--x\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\n'

  test('for a field that comes when the file has been read says the same', async () => {
    const field = 'Content-Disposition: form-data; name="on_error"\r\n\r\nkeep\r\n--x--\r\n'
    const sent = await sendSlowly(`${ofFile}code\nLATE\n\r\n--x\r\n`, field)
    expect([sent.status, sent.body.errors?.[0].path]).toEqual([422, 'on_error'])
  })

  test.each([
    ['at once', [`${ofFile}code\nHALF\n`], /^the form is malformed/],
    ['after a while', [`${ofFile}code\nHALF\n`, 'MORE\n'], /^the form is malformed/],
    ['once its file is refused', [`${ofFile}id\nHALF\n`, 'MORE\n'], /no column `code`/],
    ['before its file', ['--x\r\nContent-Disp'], /^the form is malformed/],
  ])('for a form that breaks off harms nobody: %s', async (_, pieces, reason) => {
    const sent = await sendSlowly(...pieces)
    expect([sent.status, sent.body.code]).toEqual([422, 'unusable-file'])
    expect(sent.body.reason).toMatch(reason)
    // What is thrown where nobody listens would end the process.
    await sleep(250)
  })

  test('of NDJSON is refused line by line', async () => {
    const lines = `{"code":"L-1"}\n{"code":\n[1]\n{"code":"L-2","x":"${long}"}\n{"code":5}\n{"code":"L-3"}`
    const job = await files.take(await world.makeBook(), lines, 'format=ndjson&on_error=keep')
    expect(job.result).toMatchObject({ codes_created: 2, bad_rows: 4 })
    expect(await files.report(job.job_id)).toEqual([
      '2,,bad,is not JSON',
      '3,,bad,is not a JSON object',
      '4,,bad,is over 32768 bytes',
      '5,,bad,has no code',
    ])
  })

  test('in an encoding that nobody knows is refused', async () => {
    const book = await world.makeBook()
    const sent = await files.send(book, 'code\nA\n', '', { 'content-encoding': 'br' })
    expect([sent.status, sent.body.code]).toEqual([415, 'unsupported-file'])
  })

  test('that breaks off leaves nothing', async () => {
    const book = await world.makeBook()
    const gone = new AbortController()
    const sending = fetch(`${world.base}/api/v1/books/${book}/imports`, {
      method: 'POST',
      headers: { authorization: `Bearer ${world.admin}` },
      signal: gone.signal,
      duplex: 'half',
      body: new ReadableStream({
        async pull(controller) {
          const lines = Array.from({ length: 5_000 }, () => `BREAK-${Math.random()}\n`).join('')
          controller.enqueue(new TextEncoder().encode(`code\n${lines}`))
          await sleep(20)
        },
      }),
    } as RequestInit).catch(() => 'gone')
    await until(async () => (await files.leftovers(book)) > 1, 'some of it is staged')
    gone.abort()
    expect(await sending).toBe('gone')
    await until(async () => {
      await sweepImportsOnce(world.database)
      return (await files.leftovers(book)) === 0
    }, 'nothing is left')
    await files.expectCodes(book, 0)
  })
})
