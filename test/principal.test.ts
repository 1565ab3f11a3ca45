import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import type { Principal } from '../src/http/context.ts'
import { createPrincipals } from '../src/http/principal.ts'
import { makeApiKey } from '../src/http/tokens.ts'
import { openAccounts } from '../src/ledger/accounts.ts'
import { type Database, openDatabase } from '../src/ledger/database.ts'
import { type House, openHouse } from './house.ts'
import { makeWire, type Wire } from './wire.ts'

let house: House
let wire: Wire
let database: Database
let time = Date.now()
let questions = 0
let answered: Promise<unknown> = Promise.resolve()
let principals: ReturnType<typeof createPrincipals>

beforeAll(async () => {
  house = await openHouse()
  wire = await makeWire(house.url)
  database = openDatabase(wire.url, 4, 'wire')
})
afterAll(async () => {
  wire.close()
  await database.end()
  await house.close()
})
beforeEach(() => {
  wire.set('up')
  time = Date.now()
  questions = 0
  const accounts = openAccounts(database)
  const standing: typeof accounts.standing = (...ids) => {
    questions++
    const answer = accounts.standing(...ids)
    answered = answer.catch(() => {})
    return answer
  }
  principals = createPrincipals({
    accounts: { standing, noteUse: accounts.noteUse },
    tokens: house.tokens,
    now: () => time,
  })
})

async function service(): Promise<{ header: string; key_id: string }> {
  const { key, ...kept } = makeApiKey()
  await house.accounts.createApiKey({ ...kept, name: 'test', created_by: 'test' })
  return { header: `Bearer ${key}`, key_id: kept.key_id }
}
const of = async (header: string) => {
  const found = await principals.of(header)
  return 'problem' in found ? found.problem : found.kind
}

test('principal  of a credential in use is told at once, with no promise, whatever the age', async () => {
  const { header, key_id } = await service()
  expect(await of(header)).toBe('service')
  const known = principals.of(header) as Principal
  expect(known).toEqual({ kind: 'service', id: key_id, actor: `key:${key_id}` })
  for (let i = 0; i < 20; i++) {
    time += 400
    expect(principals.of(header)).toBeTypeOf('object')
    expect(principals.of(header)).not.toBeInstanceOf(Promise)
    // A busy machine takes its time: this clock stands still until what was asked is answered.
    await sleep(0)
    await answered
    await sleep(0)
  }
  expect(questions).toBeGreaterThan(5)
  expect(questions).toBeLessThan(12)
})

test('principal  of a credential that rested is asked anew before it is trusted', async () => {
  const { header, key_id } = await service()
  expect(await of(header)).toBe('service')
  await house.accounts.revokeApiKey(key_id)
  time += 1_000
  expect(await of(header)).toBe('unauthenticated')
})

test('principal  of a thousand users at once costs PostgreSQL a few questions', async () => {
  const { rows } = await house.database.query<{ user_id: string }>(
    `INSERT INTO users (user_id, name, email, password_hash)
     SELECT gen_random_uuid(), 'x', 'many' || i || '@example.com', '-' FROM generate_series(1, 1000) i
     RETURNING user_id`,
  )
  const row = (await house.accounts.userByEmail('many1@example.com'))!
  const headers = await Promise.all(
    rows.map(async ({ user_id }) => `Bearer ${await house.tokens.issue({ ...row, user_id })}`),
  )
  const first = await Promise.all(headers.map(of))
  expect(first.every((kind) => kind === 'user')).toBe(true)
  questions = 0
  time += 1_000
  await Promise.all(headers.map(of))
  expect(questions).toBeLessThan(5)
})

test('principal  of a flood of invented keys leaves the remembered ones alone', async () => {
  const { header } = await service()
  expect(await of(header)).toBe('service')
  const invented = Array.from({ length: 11_000 }, () => `Bearer ${makeApiKey().key}`)
  const answers = new Set(await Promise.all(invented.map(of)))
  expect(answers).toEqual(new Set(['unauthenticated']))
  expect(principals.of(header)).not.toBeInstanceOf(Promise)
})

test('principal  stays usable for five minutes while PostgreSQL refuses connections', async () => {
  const { header } = await service()
  const other = await service()
  expect(await of(header)).toBe('service')
  wire.set('cut')
  time += 2_000
  expect(await of(header)).toBe('service')
  expect(await of(other.header)).toBe('not-ready')
  time += 4 * 60_000
  expect(principals.of(header)).not.toBeInstanceOf(Promise)
  time += 60_000
  expect(await of(header)).toBe('not-ready')

  wire.set('up')
  await sleep(400)
  expect(await of(header)).toBe('service')
  expect(await of(other.header)).toBe('service')
})

test('principal  waits a second for a PostgreSQL that hangs, then no longer', async () => {
  const { header } = await service()
  expect(await of(header)).toBe('service')
  wire.set('silent')
  time += 2_000
  const started = performance.now()
  expect(await of(header)).toBe('service')
  expect(performance.now() - started).toBeGreaterThan(900)
  expect(performance.now() - started).toBeLessThan(2_000)
  time += 2_000
  expect(principals.of(header)).not.toBeInstanceOf(Promise)
  expect(questions).toBe(2)
})

test('principal  asks about everybody again after PostgreSQL was silent for a while', async () => {
  const { header } = await service()
  const other = await service()
  expect([await of(header), await of(other.header)]).toEqual(['service', 'service'])
  wire.set('silent')
  time += 2_000
  // The second question waits for the first one's answer; a third comes when its patience is over.
  const first = of(header)
  await sleep(50)
  const second = of(other.header)
  await Promise.all([first, second])
  time += 2_000
  await Promise.all([of(header), of(other.header)])
  wire.set('cut')
  await sleep(600)
  wire.set('up')
  await sleep(600)
  time += 6 * 60_000
  expect([await of(header), await of(other.header)]).toEqual(['service', 'service'])
})
