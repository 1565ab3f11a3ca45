import { afterAll, beforeAll, expect, test } from 'vitest'
import { discardParked, parkedFacts } from '../src/ops/parked.ts'
import { stampede } from './stampede.ts'
import { openWorld, type World } from './world.ts'

/** Replay brings back what the ledger lost, and nothing that somebody gave up. */
let world: World
let book: string

beforeAll(async () => {
  world = await openWorld({ shards: 1 })
  book = await world.makeBook({}, 10)
})
afterAll(() => world.close())

const ops = () => ({ redis: world.redis, database: world.database })
const assign = async (user_id: string): Promise<string> => {
  const body = { book_id: book, user_id }
  const { body: given } = await world.call('POST', 'coupons/assign', { as: world.service, body })
  return given.coupons[0].code
}
const inLedger = async (code: string) =>
  (await world.database.query('SELECT FROM ledger WHERE code = $1', [code])).rowCount

/** From now on the ledger refuses facts of `user`, as a constraint that is too narrow does. */
const refuse = (user: string) =>
  world.database.query(`ALTER TABLE ledger ADD CONSTRAINT a_test CHECK (user_id <> '${user}')`)
const admit = () => world.database.query('ALTER TABLE ledger DROP CONSTRAINT a_test')
const replayed = async () => {
  const { code, said } = await stampede(world, 'replay', '--json')
  return [code, said.shards[0]]
}

test('replay: what was discarded stays away, whether it would fit by now or not', async () => {
  await refuse('ann')
  const code = await assign('ann')
  await world.level()
  expect(await replayed()).toMatchObject([0, { parked: 1 }])
  const [parked] = await parkedFacts(ops(), 10)
  expect(parked).toMatchObject({ code })
  await discardParked(ops(), parked!.name, { actor: 'test', reason: 'a test' })
  expect(await replayed()).toMatchObject([0, { applied: 0, parked: 0, discarded: 1, refused: 0 }])
  await admit()
  expect(await replayed()).toMatchObject([0, { applied: 0, parked: 0, discarded: 1, refused: 0 }])
  expect(await inLedger(code)).toBe(0)
})

test('replay: ends with 3 where the ledger refuses what it lost, and with 0 once it does not', async () => {
  const code = await assign('zed')
  await world.level()
  await world.database.query('DELETE FROM ledger WHERE code = $1', [code])
  await refuse('zed')
  expect(await replayed()).toMatchObject([3, { applied: 0, refused: 1 }])
  await admit()
  expect(await replayed()).toMatchObject([0, { applied: 1, refused: 0 }])
  expect(await inLedger(code)).toBe(1)
})
