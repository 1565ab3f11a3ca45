import { readFileSync } from 'node:fs'
import pg from 'pg'
import { afterAll, beforeAll, expect, test } from 'vitest'
import {
  getTableColumns,
  getTableConfig,
  getTableName,
  is,
  PgTable,
} from '../src/ledger/drizzle.ts'
import * as schema from '../src/ledger/schema.ts'
import { makeDatabase } from './house.ts'

const tables = Object.values(schema).filter((value) => is(value, PgTable)) as PgTable[]
let database: Awaited<ReturnType<typeof makeDatabase>>
let client: pg.Client

beforeAll(async () => {
  database = await makeDatabase()
  client = new pg.Client({ connectionString: database.url })
  await client.connect()
})
afterAll(async () => {
  await client.end()
  await database.drop()
})

const rows = async <T extends pg.QueryResultRow>(sql: string) => (await client.query<T>(sql)).rows

test('schema  declares exactly the tables of the migrations', async () => {
  const made = await rows<{ name: string }>(
    `SELECT table_name AS name FROM information_schema.tables
     WHERE table_schema = 'public' AND table_type = 'BASE TABLE' ORDER BY 1`,
  )
  expect(tables.map(getTableName).sort()).toEqual(made.map(({ name }) => name))
})

test('schema  declares every column with its type, nullability and default', async () => {
  type Column = { t: string; c: string; type: string; required: boolean; filled: boolean }
  const made = await rows<Column>(
    `SELECT table_name AS t, column_name AS c, data_type AS type, is_nullable = 'NO' AS required,
       column_default IS NOT NULL OR is_identity = 'YES' AS filled
     FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, 2`,
  )
  const declared = tables.flatMap((table) =>
    Object.entries(getTableColumns(table)).map(([member, column]) => {
      expect(member, 'a member bears the name of its column').toBe(column.name)
      return {
        t: getTableName(table),
        c: column.name,
        type: column.getSQLType(),
        required: column.notNull,
        filled: column.hasDefault,
      }
    }),
  )
  const key = ({ t, c }: { t: string; c: string }) => `${t}.${c}`
  const sort = <T extends { t: string; c: string }>(list: T[]) =>
    list.sort((a, b) => (key(a) < key(b) ? -1 : 1))
  expect(sort(declared)).toEqual(sort(made))
})

test('schema  declares the primary keys of the migrations', async () => {
  const made = await rows<{ t: string; keys: string }>(
    `SELECT conrelid::regclass::text AS t,
       string_agg(attname, ',' ORDER BY array_position(conkey, attnum)) AS keys
     FROM pg_constraint JOIN pg_attribute ON attrelid = conrelid AND attnum = ANY (conkey)
     WHERE contype = 'p' AND connamespace = 'public'::regnamespace GROUP BY 1 ORDER BY 1`,
  )
  const declared = tables.map((table) => {
    const { columns, primaryKeys } = getTableConfig(table)
    const own = columns.filter((column) => column.primary)
    const keys = [...own, ...primaryKeys.flatMap((key) => key.columns)].map(({ name }) => name)
    return { t: getTableName(table), keys: keys.join(',') }
  })
  expect(declared.sort((a, b) => (a.t < b.t ? -1 : 1))).toEqual(made)
})

test('schema  lists the words that the CHECK constraints allow', async () => {
  const made = await rows<{ t: string; c: string; definition: string }>(
    `SELECT conrelid::regclass::text AS t, attname AS c, pg_get_constraintdef(pg_constraint.oid) AS definition
     FROM pg_constraint JOIN pg_attribute ON attrelid = conrelid AND attnum = conkey[1]
     WHERE contype = 'c' AND connamespace = 'public'::regnamespace`,
  )
  expect(made.length).toBeGreaterThan(0)
  for (const { t, c, definition } of made) {
    const column = getTableConfig(tables.find((table) => getTableName(table) === t)!).columns.find(
      ({ name }) => name === c,
    )
    const words = [...definition.matchAll(/'([a-z]+)'::text/g)].map((found) => found[1])
    expect(column?.enumValues, `${t}.${c}`).toEqual(words)
  }
})

test('schema  leaves facts from before 0008 without a time of record, and where they are', async () => {
  const file = new URL('../src/ledger/migrations/0008_recorded.sql', import.meta.url)
  const insert = (n: number) =>
    client.query(
      `INSERT INTO ledger (shard, epoch, n, i, op, kind, book_id, code, user_id, version, at,
         redemptions, max_redemptions, context)
       VALUES (0, 1, $1, 0, gen_random_uuid(), 'assign', gen_random_uuid(), 'C', 'u', 1, now(), 0, 1, '{}')`,
      [n],
    )
  const place = async () =>
    (await rows<{ at: string }>("SELECT pg_relation_filenode('ledger') AS at"))[0]!.at
  await client.query('BEGIN')
  await client.query('ALTER TABLE ledger DROP COLUMN recorded_at')
  await insert(1)
  const before = await place()
  for (const sql of readFileSync(file, 'utf8').split('--> statement-breakpoint'))
    await client.query(sql)
  expect(await place()).toBe(before)
  await insert(2)
  const recorded = await rows('SELECT n, recorded_at = now() AS now FROM ledger ORDER BY n')
  expect(recorded).toEqual([
    { n: 1, now: null },
    { n: 2, now: true },
  ])
  await client.query('ROLLBACK')
})
