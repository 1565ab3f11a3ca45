import { afterAll, beforeAll, expect, test } from 'vitest'
import { parkedFacts } from '../src/ops/parked.ts'
import { reconcile } from '../src/ops/reconcile/reconcile.ts'
import { keys } from '../src/store/keys.ts'
import { stampede } from './stampede.ts'
import { openWorld, until, type World } from './world.ts'

/** A parked fact that fits at last, and a Redis that was made anew meanwhile or was not. */
let world: World
let book: string
beforeAll(async () => {
  world = await openWorld({ shards: 1 })
})
afterAll(() => world.close())

const ops = () => ({ redis: world.redis, database: world.database })
const assign = (user_id: string) =>
  world.call('POST', 'coupons/assign', { as: world.service, body: { book_id: book, user_id } })
const inStock = (code: string) => world.redis.sismember(keys.stock(0, book), code)
const epoch = async () => (await world.database.query('SELECT epoch FROM shards')).rows[0].epoch

/** Assigns a code of a new book, which the ledger does not take until the cause is gone, as it is then. */
async function parked(): Promise<{ code: string; name: string }> {
  book = await world.makeBook({}, 3)
  await world.level()
  await world.stopWorker()
  const { code } = (await assign('ann')).body.coupons[0]
  await world.database.query(
    `INSERT INTO coupons (code, book_id, user_id, version, redemptions, max_redemptions,
       assigned_at, updated_at) VALUES ($1, $2, 'by hand', 1, 0, 1, now(), now())`,
    [code, book],
  )
  await world.startWorker()
  await world.level()
  await world.database.query("DELETE FROM coupons WHERE user_id = 'by hand'")
  const [fact] = await parkedFacts(ops(), 2)
  expect(fact).toMatchObject({ code })
  return { code, name: fact!.name }
}
const retry = async () => {
  const args = ['parked', 'retry', '--reason', 'a test']
  return [await stampede(world, ...args, '--json'), await stampede(world, ...args)] as const
}

test('a code is not given twice where Redis was made anew before its parked fact fits', async () => {
  const { code, name } = await parked()
  await world.redis.flushall()
  await until(async () => (await inStock(code)) === 1, 'Redis offers it again')
  const [done] = await retry()
  expect([done.code, done.said.retried]).toEqual([
    0,
    [{ name, applied: true, reason: null, rebuilds: true }],
  ])
  await until(async () => (await inStock(code)) === 0, 'it is made anew once more')
  const given: string[] = []
  for (const user of ['ben', 'cyd'])
    await until(async () => {
      const { status, body } = await assign(user)
      if (status === 200) given.push(body.coupons[0].code)
      return status === 200
    }, 'it serves again')
  expect(new Set([code, ...given]).size).toBe(3)
  expect((await assign('dan')).body.code).toBe('sold-out')
  await world.level()
  expect((await reconcile(ops(), { exact: false })).differences).toEqual([])
  const shown = await stampede(world, 'coupon', 'show', code)
  expect(shown.out).toMatch(/^redis {5}\{.*"ann"/m)
})

test('nothing is made anew where Redis knows of the fact all the time', async () => {
  const { code, name } = await parked()
  const before = await epoch()
  const [done, nothing] = await retry()
  expect(done.said.retried).toEqual([{ name, applied: true, reason: null, rebuilds: false }])
  expect(nothing.out).toBe('0 fit now, 0 do not\n')
  await world.level()
  expect([await epoch(), await inStock(code)]).toEqual([before, 0])
  expect((await reconcile(ops(), { exact: false })).differences).toEqual([])
})

test('a parked fact that fits says in words what was done, and what is to be done', async () => {
  await parked()
  const before = await epoch()
  await world.redis.flushall()
  await until(async () => (await epoch()) > before, 'it is made anew')
  await world.ready()
  const { out } = await stampede(world, 'parked', 'retry', '--reason', 'a test')
  expect(out).toMatch(/^1 fit now, 0 do not\nshard 0: Redis was made anew without .*\ncompare /)
})
