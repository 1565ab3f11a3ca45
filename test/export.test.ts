import { setTimeout as sleep } from 'node:timers/promises'
import { parse } from 'csv-parse/sync'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { openFiles } from './files.ts'
import { openWorld, until, type World } from './world.ts'

let world: World
let files: ReturnType<typeof openFiles>
let book: string
let lockToken: string
beforeAll(async () => {
  // On one shard a fact of one book might be taken for one of another.
  world = await openWorld({ shards: 1 })
  files = openFiles(world)
  book = await world.makeBook({ max_redemptions: 2 })
  const csv = 'code,note\n=cmd,"=HYPERLINK(1)"\n+A,+1\n-B,-1\n@C,@x\nD,plain\nE,\nF,\nG,\n'
  await files.take(book, csv)
  const as = world.service
  for (const [user, code] of [
    ['@ann', '=cmd'],
    ['ben', 'D'],
    ['ben', 'E'],
    ['cyd', 'F'],
  ])
    await world.call('POST', `coupons/assign/${code}`, { as, body: { user_id: user } })
  const locked = await world.call('POST', 'coupons/lock/D', { as, body: { user_id: 'ben' } })
  lockToken = locked.body.lock_token
  const redeem = (code: string, user_id: string, metadata?: object) =>
    world.call('POST', `coupons/redeem/${code}`, { as, body: { user_id, metadata } })
  await redeem('E', 'ben', { till: 4 })
  await redeem('E', 'ben')
  const { body } = await redeem('F', 'cyd')
  await world.call('POST', `redemptions/${body.redemption_id}/rollback`, { as, body: {} })
  await world.call('POST', 'coupons/void/G', { as: world.admin })
})
afterAll(() => world?.close())

const of = (what: string, query = '') => files.download(`books/${book}/export/${what}?${query}`)
async function ndjson(what: string, query = '') {
  const { status, text } = await of(what, `format=ndjson&${query}`)
  expect(status, text).toBe(200)
  const lines = text.split('\n').slice(0, -1)
  // biome-ignore lint/suspicious/noExplicitAny: tests look into whatever came
  return lines.map((line): any => JSON.parse(line))
}
const csv = async (what: string, query = '') =>
  parse((await of(what, query)).text, { columns: true }) as Record<string, string>[]
const codes = (rows: { code: string }[]) => rows.map(({ code }) => code)

describe('an export', () => {
  test('has every coupon as the list has it', async () => {
    const list = await world.call('GET', `books/${book}/coupons`, { as: world.admin })
    const rows = await ndjson('coupons')
    expect(rows).toHaveLength(8)
    for (const [i, row] of rows.entries()) {
      const { metadata: _, ...rest } = row
      expect(list.body.data[i]).toMatchObject(rest)
    }
    expect(rows.find(({ code }) => code === 'D').metadata).toEqual({ note: 'plain' })
    expect((await ndjson('assignments')).map((row) => [row.code, row.assigned_user_id])).toEqual([
      ['=cmd', '@ann'],
      ['D', 'ben'],
      ['E', 'ben'],
      ['F', 'cyd'],
    ])
  })

  test('defuses what a spreadsheet would take for a formula', async () => {
    const rows = await csv('coupons')
    expect(rows.map(({ code }) => code)).toEqual(["'+A", "'-B", "'=cmd", "'@C", 'D', 'E', 'F', 'G'])
    expect(rows.find(({ code }) => code === "'=cmd")!.assigned_user_id).toBe("'@ann")
    expect(JSON.parse(rows[0]!.metadata!)).toEqual({ note: '+1' })
    const { headers } = await of('coupons')
    expect(headers.get('content-type')).toBe('text/csv')
    expect(headers.get('content-disposition')).toBe(`attachment; filename="coupons-${book}.csv"`)
    expect((await files.download(`books/${book}/export/coupons?format=ndjson`)).text).toContain(
      '"=cmd"',
    )
  })

  test('filters by state, user and time', async () => {
    for (const [state, expected] of [
      ['UNASSIGNED', ['+A', '-B', '@C']],
      ['ASSIGNED', ['=cmd', 'F']],
      ['LOCKED', ['D']],
      ['REDEEMED', ['E']],
      ['EXPIRED', []],
      ['VOID', ['G']],
    ] as const)
      expect(codes(await ndjson('coupons', `state=${state}`)), state).toEqual(expected)
    expect(codes(await ndjson('assignments', 'user_id=ben'))).toEqual(['D', 'E'])
    expect(codes(await ndjson('coupons', 'user_id=%40ann'))).toEqual(['=cmd'])
    const past = '2020-01-01T00:00:00Z'
    const future = '2090-01-01T00:00:00%2B01:00'
    expect(await ndjson('assignments', `to=${past}`)).toEqual([])
    expect(await ndjson('assignments', `from=${past}&to=${future}`)).toHaveLength(4)
    expect(await ndjson('facts', `from=${future}`)).toEqual([])
    expect((await of('facts', 'state=LOCKED')).status).toBe(422)
    expect((await of('coupons', 'format=xml')).status).toBe(422)
  })

  test('has expired coupons as such', async () => {
    const soon = new Date(Date.now() + 300).toISOString()
    const old = await world.makeBook({ expiration_date: soon }, ['OLD-1'])
    await until(() => Date.now() > Date.parse(soon), 'it has expired')
    for (const [state, n] of [
      ['EXPIRED', 1],
      ['UNASSIGNED', 0],
    ] as const) {
      const { text } = await files.download(
        `books/${old}/export/coupons?format=ndjson&state=${state}`,
      )
      expect(text.split('\n')).toHaveLength(n + 1)
    }
  })

  test('has redemptions, those that were rolled back, too', async () => {
    const rows = await ndjson('redemptions')
    expect(codes(rows)).toEqual(['F', 'E', 'E'])
    expect(rows[2]).toMatchObject({ user_id: 'ben', metadata: { till: 4 }, rolled_back_at: null })
    const undone = await ndjson('redemptions', 'state=ROLLED_BACK')
    expect(codes(undone)).toEqual(['F'])
    expect(undone[0].rolled_back_by).toMatch(/^key:/)
    expect(codes(await ndjson('redemptions', 'state=REDEEMED&user_id=ben'))).toEqual(['E', 'E'])
  })

  test.each([
    ['redemptions', ['redeemed_at', 'rolled_back_at']],
    ['facts', ['at', 'locked_until', 'recorded_at']],
  ])('tells times of %s in CSV as in NDJSON', async (what, times) => {
    const { text } = await files.download(`books/${book}/export/${what}?format=csv`)
    const told: Record<string, string>[] = parse(text, { columns: true })
    const rows = await ndjson(what)
    expect(Object.keys(rows[0])).toEqual(expect.arrayContaining(times))
    const of = (row: Record<string, unknown>) => times.map((name) => row[name] ?? '')
    expect(told.map(of)).toEqual(rows.map(of))
  })

  test('has facts in their order, and no lock token anywhere', async () => {
    const rows = await ndjson('facts')
    const kinds = rows.map(({ kind }) => kind)
    expect(kinds).toEqual([
      ...['assign', 'assign', 'assign', 'assign', 'lock', 'redeem', 'redeem', 'redeem', 'rollback'],
      'void',
    ])
    expect(codes(await ndjson('facts', 'state=redeem'))).toEqual(['E', 'E', 'F'])
    expect(rows[0]).toMatchObject({ code: '=cmd', user_id: '@ann', version: 1 })
    for (const what of ['coupons', 'assignments', 'redemptions', 'facts'])
      for (const format of ['csv', 'ndjson'])
        expect((await of(what, `format=${format}`)).text).not.toContain(lockToken)
  })

  test.each(['coupons', 'assignments', 'redemptions', 'facts'])(
    'of %s goes on behind any line',
    async (what) => {
      const all = (await of(what, 'format=ndjson')).text.split('\n').slice(0, -1)
      for (const [i, line] of all.entries()) {
        const last = Object.values(JSON.parse(line))[0] as string
        const { text } = await of(what, `format=ndjson&after=${encodeURIComponent(last)}`)
        expect(text.split('\n').slice(0, -1)).toEqual(all.slice(i + 1))
      }
      // Appended to what is there already, it must not have the names of the columns again.
      const first = Object.values(JSON.parse(all[0]!))[0] as string
      const [, , ...lines] = (await of(what)).text.split('\n')
      expect((await of(what, `after=${encodeURIComponent(first)}`)).text.split('\n')).toEqual(lines)
    },
  )

  test('goes on behind nothing that is not of the book', async () => {
    const fact = (await ndjson('facts'))[0].fact as string
    const [shard, rest] = fact.split('/', 2)
    const other = await world.makeBook({}, ['OTHER-1'])
    const as = world.service
    const body = { user_id: 'ben' }
    await world.call('POST', 'coupons/assign/OTHER-1', { as, body })
    const used = (await world.call('POST', 'coupons/redeem/OTHER-1', { as, body })).body
    const { text: theirs } = await files.download(`books/${other}/export/facts?format=ndjson`)
    for (const [what, after] of [
      ['coupons', 'two%20words'],
      ['coupons', 'NOBODYS'],
      ['coupons', 'OTHER-1'],
      ['assignments', 'OTHER-1'],
      ['facts', 'D'],
      ['facts', `${Number(shard) + 1}/${rest}/0`],
      ['facts', `${shard}/${rest}/999999999`],
      ['facts', JSON.parse(theirs.split('\n')[0]!).fact],
      ['redemptions', 'D'],
      ['redemptions', '00000000-0000-4000-8000-000000000000'],
      ['redemptions', used.redemption_id],
    ] as const) {
      const { status, text } = await of(what, `after=${encodeURIComponent(after)}`)
      expect([status, JSON.parse(text).errors?.[0].path], `${what} ${after}`).toEqual([
        422,
        'after',
      ])
    }
  })

  test('of a counter book goes on behind a code that somebody has', async () => {
    const units = await world.makeBook({ kind: 'counter', units: 3 })
    const body = { book_id: units, user_id: 'dan', count: 3 }
    await world.call('POST', 'coupons/assign', { as: world.service, body })
    const of = (query: string) =>
      files.download(`books/${units}/export/coupons?format=ndjson&${query}`)
    const lines = (await of('')).text.split('\n')
    const rest = await of(`after=${JSON.parse(lines[0]!).code}`)
    expect(rest.text.split('\n')).toEqual(lines.slice(1))
    expect((await of('after=D')).status).toBe(422)
  })

  test('has nothing of other books, and 404 for one that does not exist', async () => {
    const empty = await world.makeBook()
    const path = (id: string) => `books/${id}/export/coupons`
    expect((await files.download(path(empty))).text.split('\n')).toHaveLength(2)
    expect((await files.download(path('00000000-0000-4000-8000-000000000000'))).status).toBe(404)
  })
})

describe('a large export', () => {
  let large: string
  beforeAll(async () => {
    large = await world.makeBook()
    await world.database.query(
      `INSERT INTO codes (code, book_id, load_id, metadata)
       SELECT 'L' || lpad(i::text, 7, '0'), $1, 0, jsonb_build_object('x', repeat('x', 400))
       FROM generate_series(1, 50000) i`,
      [large],
    )
  })
  const busy = async () => {
    const { rows } = await world.database.query(
      `SELECT count(*)::int FROM pg_stat_activity
       WHERE application_name = 'stampede-export' AND datname = current_database() AND state <> 'idle'`,
    )
    return rows[0].count as number
  }
  const begin = async (signal?: AbortSignal, token = world.admin) => {
    const response = await fetch(`${world.base}/api/v1/books/${large}/export/coupons`, {
      headers: { authorization: `Bearer ${token}` },
      signal,
    })
    return { response, reader: response.body?.getReader() }
  }

  test('waits for its client, ends with it, and lets in so many at once', async () => {
    const gone = new AbortController()
    const all = await Promise.all([1, 2, 3].map(() => begin(gone.signal)))
    for (const { reader } of all) await reader!.read()
    expect(await busy()).toBe(3)
    const refused = await begin()
    expect(refused.response.status).toBe(503)
    expect(refused.response.headers.get('retry-after')).toBe('5')
    // Whether it is a line of the book is not asked on the connections that are taken.
    const asked = await files.download(`books/${large}/export/coupons?after=NOBODYS`)
    expect(asked.status).toBe(422)
    // Nobody reads: what is sent is what fits into buffers, and the rest waits in PostgreSQL.
    await until(async () => (await busy()) === 3, 'they wait')
    gone.abort()
    await until(async () => (await busy()) === 0, 'their cursors are closed')
    const head = await fetch(`${world.base}/api/v1/books/${large}/export/coupons`, {
      method: 'HEAD',
      headers: { authorization: `Bearer ${world.admin}` },
    })
    expect([head.status, head.headers.get('content-type')]).toEqual([200, 'text/csv'])
    expect(await busy()).toBe(0)
    const { text } = await files.download(`books/${large}/export/coupons`)
    expect(text.split('\n')).toHaveLength(50_002)
  })

  test('that fails in the middle breaks the connection, so that nobody takes it for whole', async () => {
    vi.spyOn(world.house.deps.log, 'warn').mockImplementation(() => {})
    const { reader, response } = await begin()
    expect(response.status).toBe(200)
    await reader!.read()
    await world.database.query(
      `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
       WHERE application_name = 'stampede-export' AND datname = current_database()`,
    )
    const rest = async () => {
      while (!(await reader!.read()).done) {}
    }
    await expect(rest()).rejects.toThrow()
    vi.restoreAllMocks()
    expect((await files.download(`books/${large}/export/coupons`)).status).toBe(200)
  })

  test('is broken off once its client is let in no more', async () => {
    vi.spyOn(world.house.deps.log, 'warn').mockImplementation(() => {})
    const { id, token } = await world.signUp('admin')
    const { reader } = await begin(undefined, token)
    await reader!.read()
    await world.database.query('UPDATE users SET is_active = false WHERE user_id = $1', [id])
    await sleep(1_100)
    const rest = async () => {
      while (!(await reader!.read()).done) {}
    }
    await expect(rest()).rejects.toThrow()
    vi.restoreAllMocks()
    await until(async () => (await busy()) === 0, 'its cursor is closed')
  })

  test('is a problem document where PostgreSQL is away before it begins', async () => {
    world.wire.set('cut')
    const answer = await files.download(`books/${large}/export/coupons`)
    expect([answer.status, JSON.parse(answer.text).code]).toEqual([503, 'not-ready'])
    world.wire.set('up')
    await until(
      async () => (await files.download(`books/${book}/export/coupons`)).status === 200,
      'it is back',
    )
  })
})
