import { randomUUID } from 'node:crypto'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type Database, openDatabase } from '../src/ledger/database.ts'
import type { ShardRow } from '../src/ledger/shards.ts'
import { readSequence } from '../src/ops/reconcile/ledger.ts'
import type { Run } from '../src/ops/reconcile/settle.ts'
import { makeDatabase } from './house.ts'

/** What is missing between the places of the ledger's facts. */
let database: Database
let drop: () => Promise<void>
beforeAll(async () => {
  const made = await makeDatabase()
  drop = made.drop
  database = openDatabase(made.url, 2, 'test')
})
afterAll(async () => {
  await database.end()
  await drop()
})

type Fact = [epoch: number, n: number, i: number]

/** What is read of a ledger that has these facts alone; the last one is where its checkpoint is. */
async function sequenceOf(facts: Fact[], [checkpointEpoch, checkpoint]: number[]) {
  await database.query('DELETE FROM ledger')
  await database.query(
    `INSERT INTO ledger (shard, epoch, n, i, op, kind, book_id, code, user_id, version, at,
       redemptions, max_redemptions, context)
     SELECT 0, epoch, n, i, gen_random_uuid(), 'assign', $4, 'C' || epoch || n || i, 'u', 1, now(), 0, 1, '{}'
     FROM unnest($1::int[], $2::int[], $3::int[]) AS f(epoch, n, i)`,
    [...[0, 1, 2].map((part) => facts.map((fact) => fact[part])), randomUUID()],
  )
  const row = { shard: 0, checkpointEpoch, checkpoint } as ShardRow
  const { facts: count, gaps } = await readSequence(
    { database, breathe: async () => {} } as unknown as Run,
    row,
  )
  const place = (at: { epoch: number; n: number; i: number } | null) =>
    at && `${at.epoch}-${at.n}/${at.i}`
  return { count, gaps: gaps.map(({ after, before }) => `${place(after)} ${place(before)}`) }
}

test.each<[string, Fact[], number[], { count: number; gaps: string[] }]>([
  ['nothing', [], [0, 0], { count: 0, gaps: [] }],
  [
    'entries of one fact',
    [
      [1, 1, 0],
      [1, 2, 0],
      [1, 3, 0],
    ],
    [1, 3],
    { count: 3, gaps: [] },
  ],
  [
    'one of them lacking',
    [
      [1, 1, 0],
      [1, 3, 0],
    ],
    [1, 3],
    { count: 2, gaps: ['1-1/0 1-3/0'] },
  ],
  [
    'the first lacking',
    [
      [1, 2, 0],
      [1, 3, 0],
    ],
    [1, 3],
    { count: 2, gaps: ['null 1-2/0'] },
  ],
  ['the last lacking', [[1, 1, 0]], [1, 2], { count: 1, gaps: ['1-1/0 null'] }],
  [
    'as many facts as entries, and one entry lacking',
    [
      [1, 1, 0],
      [1, 3, 0],
      [1, 3, 1],
    ],
    [1, 3],
    { count: 3, gaps: ['1-1/0 1-3/0'] },
  ],
  [
    'the beginning of an entry lacking',
    [
      [1, 1, 0],
      [1, 2, 1],
    ],
    [1, 2],
    { count: 2, gaps: ['1-1/0 1-2/1'] },
  ],
  [
    'another epoch',
    [
      [1, 1, 0],
      [1, 2, 0],
      [4, 1, 0],
      [4, 2, 0],
    ],
    [4, 2],
    { count: 4, gaps: [] },
  ],
  [
    'an epoch that lacks its first entry',
    [
      [1, 1, 0],
      [4, 2, 0],
    ],
    [4, 2],
    { count: 2, gaps: ['1-1/0 4-2/0'] },
  ],
  [
    'a fact beyond the checkpoint',
    [
      [1, 1, 0],
      [1, 2, 0],
    ],
    [1, 1],
    { count: 1, gaps: [] },
  ],
])('the sequence of %s', async (_, facts, checkpoint, told) => {
  expect(await sequenceOf(facts, checkpoint)).toEqual(told)
})

test('the sequence of more entries than a page has, whole and with one lacking', async () => {
  const facts = Array.from({ length: 120_000 }, (_, n): Fact => [1, n + 1, 0])
  expect(await sequenceOf(facts, [1, 120_000])).toEqual({ count: 120_000, gaps: [] })
  const less = facts.filter(([, n]) => n !== 70_000)
  const gaps = ['1-69999/0 1-70001/0']
  expect(await sequenceOf(less, [1, 120_000])).toEqual({ count: 119_999, gaps })
})
