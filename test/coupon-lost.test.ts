import { afterAll, beforeAll, expect, test } from 'vitest'
import { auditRows } from '../src/ledger/audit.ts'
import { keys } from '../src/store/keys.ts'
import { stampede } from './stampede.ts'
import { openWorld, until, type World } from './world.ts'

/** An operator's deed that Redis loses before the ledger has it: nobody may take it for done. */
let world: World
let book: string
beforeAll(async () => {
  world = await openWorld({ shards: 1, waitMs: 10_000 })
  book = await world.makeBook({}, ['LOST-1', 'LOST-2'])
})
afterAll(() => world.close())

/** What `act` comes to where Redis forgets it just after it was done. */
async function lost<T>(act: () => Promise<T>): Promise<T> {
  await world.level()
  await world.stopWorker()
  const last = () => world.redis.hget(keys.meta(0), 'n')
  const before = await last()
  const acting = act()
  await until(async () => (await last()) !== before, 'it is done in Redis')
  await world.redis.flushall()
  await world.startWorker()
  return acting
}

const over = (code: string) => async () => {
  const path = `ops/coupons/${code}/void`
  const { status, body } = await world.call('POST', path, {
    as: world.admin,
    body: { reason: 'a test' },
  })
  return { failed: status !== 200, status: body.code ?? status, said: `${body.detail}` }
}
const typed = (code: string) => async () => {
  const deed = await stampede(world, 'coupon', 'void', code, '--reason', 'a test', '--yes')
  return { failed: deed.code !== 0, status: deed.code, said: deed.err }
}

test.each([
  ['over HTTP', 'LOST-1', over, 'not-durable'],
  ['as a command', 'LOST-2', typed, 1],
])('a void %s that Redis lost did not happen, and says so', async (_, code, verb, status) => {
  const found = await lost(verb(code))
  expect(found).toMatchObject({ status, said: expect.stringMatching(/did not happen/) })
  const deeds = (await auditRows(world.database, { limit: 3 })).toReversed()
  expect(deeds.map(({ action }) => action)).toEqual([
    ...['coupon.void.request', 'coupon.void', 'coupon.void.lost'],
  ])
  expect(deeds.map(({ target }) => target)).toEqual(deeds.map(() => `coupon:${code}`))
  expect(deeds[2]!.detail!.entry).toBe(deeds[1]!.detail!.entry)
  world.house.place.shut(0, 'a test')
  await world.ready()
  expect(await world.redis.sismember(keys.stock(0, book), code)).toBe(1)
  expect((await verb(code)()).failed).toBe(false)
})
