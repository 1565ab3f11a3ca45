import { randomBytes } from 'node:crypto'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { flusher, flushOnce } from '../workers/flush.ts'
import { placeOf } from './client.ts'
import { type Call, callScript, digest } from './script.ts'
import { openWorld, type World } from './world.ts'

/**
 * The scripts pass a context and the head of an entry on unread. Whatever stands there, the flush gets
 * past it: each fact is in the ledger or parked, and what came after it is in the ledger.
 */
let world: World
let book: string
let used = 0
const codes = Array.from({ length: 100 }, (_, i) => `J-${i}`)
const sane = '{"actor":"user:hostile","request_id":"hostile"}'

beforeAll(async () => {
  world = await openWorld({ shards: 1 })
  book = await world.makeBook({ max_assignments_per_user: 1_000 }, codes)
  await world.level()
  await world.stopWorker()
})
afterAll(() => world.close())

const contexts: [what: string, context: string | Buffer][] = [
  ['nothing', ''],
  ['no JSON', 'no JSON'],
  ['half a JSON', '{"actor":"user:x"'],
  ['two JSONs', `${sane}${sane}`],
  ['a number', '7'],
  ['null', 'null'],
  ['a list', '[[]]'],
  ['an actor that is none', '{"actor":{"toString":1},"request_id":[]}'],
  ['a prototype', '{"__proto__":{"actor":"x"},"constructor":1}'],
  ['a NUL', `{"actor":"a\0b","request_id":"x"}`],
  ['a NUL in disguise', '{"actor":"a\\u0000b","request_id":"x"}'],
  ['half a character', '{"actor":"\\ud800","request_id":"x"}'],
  ['no UTF-8', Buffer.from([0x22, 0xff, 0xfe, 0xc0, 0x80, 0x22])],
  ['a number beyond all', '{"actor":"x","request_id":1e999999}'],
  ['tabs and lines', '\t\t\n\r\tassign\t1'],
  ['a great length', JSON.stringify({ actor: 'x'.repeat(300_000) })],
  // PostgreSQL calls these two a limit of its own (class 54), not an error in the data.
  ['great depth', '['.repeat(20_000) + ']'.repeat(20_000)],
]
const heads: [what: string, its: Call][] = [
  ['op nothing', { op: '' }],
  ['op no UUID', { op: 'op' }],
  ['op with a NUL', { op: '\0' }],
  ['op very long', { op: 'x'.repeat(100_000) }],
  ['op of SQL', { op: `'; DROP TABLE ledger; --` }],
]

async function counts(): Promise<{ ledger: number; parked: number }> {
  const { rows } = await world.database.query(
    'SELECT (SELECT count(*) FROM ledger)::int AS ledger, (SELECT count(*) FROM parked_facts)::int AS parked',
  )
  return rows[0]
}

/** Flushes as a worker would until nothing is left; a flush that stands still would throw here. */
async function flushAll({ house, database } = world): Promise<void> {
  const ours = flusher(house.place, database, 0)
  for (let flushes = 0; ; flushes++) {
    const { facts, more } = await flushOnce(ours)
    if (facts === 0 && !more) return
    expect(flushes).toBeLessThan(100)
  }
}

/** One call with `hostile` between two sane requests, then a sane one of its own. */
async function callWith(hostile: string, its: Call = {}): Promise<void> {
  const place = await placeOf(world, book)
  const assignment = (context: string) => ({ user: 'ann', code: codes[used++]!, context })
  const three = [assignment(sane), assignment(hostile), assignment(sane)]
  const reply = await callScript(world, place, 'assignCode', three, its)
  expect(reply.match(/^assigned\t/gm)).toHaveLength(3)
  await callScript(world, place, 'assignCode', [assignment(sane)])
}

test.each(contexts)('a flush  gets past a context of %s', async (_, hostile) => {
  const before = await counts()
  await callWith(hostile as string)
  await flushAll()
  const after = await counts()
  expect(after.ledger + after.parked - before.ledger - before.parked).toBe(4)
  expect(after.ledger - before.ledger).toBeGreaterThanOrEqual(3)
  const redis = await digest(world)
  await flushAll()
  expect(await digest(world)).toBe(redis)
  expect(await counts()).toEqual(after)
})

test.each(heads)('a flush  gets past an entry with %s', async (_, its) => {
  const before = await counts()
  await callWith(sane, its)
  await flushAll()
  const after = await counts()
  expect(after.ledger + after.parked - before.ledger - before.parked).toBe(4)
  expect(after.ledger - before.ledger).toBeGreaterThanOrEqual(1)
})

test('a flush  gets past a user too long for an index', async () => {
  const before = await counts()
  const place = await placeOf(world, book)
  const user = randomBytes(4_000).toString('hex')
  const reply = await callScript(world, place, 'assignCode', [
    { user: 'ann', code: codes[used++]!, context: sane },
    { user, code: codes[used++]!, context: sane },
  ])
  expect(reply.match(/^assigned\t/gm)).toHaveLength(2)
  await flushAll()
  const after = await counts()
  expect([after.ledger - before.ledger, after.parked - before.parked]).toEqual([2, 1])
})
