import { z } from '@hono/zod-openapi'
import { expect, test } from 'vitest'
import {
  code,
  count,
  dateTime,
  email,
  line,
  looseFlag,
  metadata,
  newCode,
  page,
  prose,
  queryCount,
  queryFlag,
  strict,
  userId,
  userIdOrMe,
  uuid,
} from '../src/http/schemas.ts'

/** What each building block takes, and what it refuses: one line a case, the same for every route. */
const nested = (depth: number): unknown => (depth === 0 ? 1 : { a: nested(depth - 1) })
const own = (key: string) => JSON.parse(`{"${key}":{"a":1}}`)
const id = '0b0e7a2e-6f5c-4c43-9a5e-6a3c1f0a7d11'

const cases: [name: string, schema: z.ZodType, good: unknown[], bad: unknown[]][] = [
  [
    'userId',
    userId,
    ['u', 'user 1', 'Zoë', '用户', '😀', id, 'x'.repeat(128), 'Me', 'a/b?c'],
    [
      '',
      ' u',
      'u ',
      '\u00a0u',
      'x'.repeat(129),
      'a\0',
      'a\tb',
      'a\nb',
      'a\u007f',
      'a\u0085',
      'a\ud800',
      'Zoe\u0308',
      'me',
      7,
      null,
      {},
    ],
  ],
  ['userIdOrMe', userIdOrMe, ['me', 'u'], ['', 'a\0']],
  [
    'code',
    code,
    ['A', 'a-b_c', '!~', '%41', 'a/b', '...', 'x'.repeat(50)],
    ['', '.', '..', 'a b', 'x'.repeat(51), 'é', 'a\n', 'a\0', '\u200b', 1],
  ],
  ['newCode', newCode, ['assigned', 'LOCK-1'], ['assign', 'LOCK', 'Random', 'me', 'user', 'claim']],
  ['uuid', uuid, [id], [id.toUpperCase(), id.slice(1), `{${id}}`, `${id}\n`, '', 1]],
  [
    'email',
    email,
    ['a@example.com', 'A.B+c@ex-ample.org'],
    ['a', 'a@b', '@b.c', `a\0@b.cd`, 'ä@b.cd'],
  ],
  [
    'line',
    line(1, 5),
    ['a', 'a b', 'ä€😀'],
    ['', ' ', '\u3000', 'abcdef', 'a\nb', 'a\0', '\udc00'],
  ],
  ['prose', prose(9), ['', 'a\n\tb\r\n'], ['0123456789', 'a\0', 'a\u001bb', '\ud800']],
  ['count', count(1, 100), [1, 100, 1e2], [0, 101, 1.5, -1, '1', true, null, Number.NaN, Infinity]],
  [
    'dateTime',
    dateTime,
    ['2026-01-01T00:00:00Z', '2026-01-01T00:00:00.123456+05:30', '2028-02-29T23:59:59-11:00'],
    [
      '2026-01-01',
      '2026-01-01T00:00:00',
      '2026-02-29T00:00:00Z',
      '2026-13-01T00:00:00Z',
      '2026-01-01T24:00:00Z',
      '0001-01-01T00:00:00Z',
      '9999-12-31T23:59:59-01:00',
      '+012026-01-01T00:00:00Z',
      'infinity',
      'now',
      1_700_000_000,
    ],
  ],
  [
    'metadata',
    metadata,
    [{}, { a: [1, null, true, 'x', { b: -0.5 }] }, nested(8), { k: 'x'.repeat(4_088) }],
    [
      null,
      [],
      'x',
      nested(9),
      { k: 'x'.repeat(4_089) },
      { k: 'é'.repeat(2_045) },
      { a: '\0' },
      { 'a\0': 1 },
      { a: ['\ud800'] },
      { '\udfff': 1 },
      own('__proto__'),
      { a: own('__proto__') },
      own('constructor'),
      { a: Number.POSITIVE_INFINITY },
    ],
  ],
  [
    'queryCount',
    queryCount(1, 1_000),
    ['1', '1000', '007'],
    ['0', '1001', '', ' 1', '1.0', '1e2', '-1', '٣', '0x1'],
  ],
  [
    'queryFlag',
    queryFlag,
    ['true', 'false', 'True', 'False', '1', '0'],
    ['TRUE', '', 'yes', '2', '01'],
  ],
  [
    'looseFlag',
    looseFlag,
    [true, false, 'true', 'False', '1', 0, 1],
    [2, null, '', 'TRUE', 'yes', [], {}],
  ],
  [
    'strict',
    strict({ a: z.number() }),
    [{ a: 1 }],
    [{}, { a: 1, b: 2 }, { a: '1' }, [], null, own('__proto__')],
  ],
]

test.each(cases)('input  %s takes what is right and refuses the rest', (_, schema, good, bad) => {
  for (const value of good)
    expect(schema.safeParse(value).error?.issues, JSON.stringify(value)).toBeUndefined()
  for (const value of bad) {
    const { error } = schema.safeParse(value)
    expect(error?.issues.length, JSON.stringify(value)).toBeGreaterThan(0)
    for (const { message } of error!.issues) expect(message.length).toBeGreaterThan(5)
  }
})

test('input  is never repaired: what is taken is what was sent', () => {
  for (const [name, schema, good] of cases)
    if (!/^query|Flag$/.test(name))
      for (const value of good) expect(schema.parse(value)).toEqual(value)
})

test('input  has a page of 100 unless it is told otherwise', () => {
  const query = strict(page)
  expect(query.parse({})).toEqual({ limit: 100, skip: 0 })
  const sent = { limit: '7', skip: '3', starting_after: 'abc' }
  expect(query.parse(sent)).toEqual({ limit: 7, skip: 3, starting_after: 'abc' })
  for (const bad of [{ limit: '0' }, { skip: '-1' }, { skip: '100001' }, { starting_after: '' }])
    expect(query.safeParse(bad).success).toBe(false)
})
