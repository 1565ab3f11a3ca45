import { setTimeout as sleep } from 'node:timers/promises'
import { beforeEach, expect, test } from 'vitest'
import { keys } from '../src/store/keys.ts'
import { auditedWorld } from './audit.ts'
import { assigned, expectProblem, placeOf } from './client.ts'

const { world, client, makeBook } = auditedWorld()
let code: string
let tests = 0
beforeEach(() => {
  code = `SHOW-${++tests}`
})

test('show  tells a service of a code in stock and of a coupon', async () => {
  const book = await makeBook({ max_redemptions: 3 }, [code])
  const limits = { max_redemptions: 3, remaining_redemptions: 3 }
  const { service } = world()
  expect((await client().show(code, service)).body).toEqual({
    ...assigned(code, book, ''),
    ...limits,
    assigned_user_id: null,
    state: 'UNASSIGNED',
    created_at: null,
    updated_at: null,
  })
  await client().assignCode(code, 'ann')
  expect((await client().show(code, service)).body).toEqual({
    ...assigned(code, book, 'ann'),
    ...limits,
  })
})

test('show  follows every verb at once', async () => {
  await makeBook({ max_redemptions: 2 }, [code])
  const seen = async () => {
    const { state, redemption_count, is_locked } = (await client().show(code)).body
    return [state, redemption_count, is_locked]
  }
  expect(await seen()).toEqual(['UNASSIGNED', 0, false])
  await client().assignCode(code, 'ann')
  expect(await seen()).toEqual(['ASSIGNED', 0, false])
  const { body } = await client().lock(code, 'ann')
  expect((await client().show(code)).body.locked_until).toBe(body.locked_until)
  expect(await seen()).toEqual(['LOCKED', 0, true])
  const { lock_token } = body
  const first = await client().redeem(code, 'ann', { lock_token, durability: 'redis' })
  expect(await seen()).toEqual(['ASSIGNED', 1, false])
  await client().redeem(code, 'ann', { durability: 'redis' })
  expect(await seen()).toEqual(['REDEEMED', 2, false])
  await client().rollback(first.body.redemption_id, { durability: 'redis' })
  expect(await seen()).toEqual(['ASSIGNED', 1, false])
})

test('show  lets users see their own coupons and nobody else’s', async () => {
  await makeBook({}, [code, `${code}-FREE`])
  const ann = await world().signUp()
  const ben = await world().signUp()
  await client().assignCode(code, ann.id)
  expect((await client().show(code, ann.token)).body.code).toBe(code)
  const blank = { request_id: '', instance: '' }
  const replies = [
    await client().show(code, ben.token),
    await client().show(`${code}-FREE`, ben.token),
    await client().show('NOSUCH', ben.token),
  ]
  for (const reply of replies) expectProblem(reply, 'coupon-not-found')
  const bodies = replies.map(({ body }) => JSON.stringify({ ...body, ...blank }))
  expect(new Set(bodies).size).toBe(1)
  expectProblem(await world().call('GET', `coupons/${code}`), 'unauthenticated')
})

test('show  derives EXPIRED from the book’s date, and REDEEMED comes before it', async () => {
  const book = await makeBook({}, [code, `${code}-FREE`, `${code}-USED`])
  await client().assignCode(code, 'ann')
  await client().lock(code, 'ann')
  await client().assignCode(`${code}-USED`, 'ann')
  await client().redeem(`${code}-USED`, 'ann')
  const soon = Date.now() + 700
  await client().change(book, { expiration_date: new Date(soon).toISOString() })
  const states = async () =>
    Promise.all(
      [code, `${code}-FREE`, `${code}-USED`].map(
        async (one) => (await client().show(one)).body.state,
      ),
    )
  expect(await states()).toEqual(['LOCKED', 'UNASSIGNED', 'REDEEMED'])
  await sleep(soon - Date.now() + 20)
  expect(await states()).toEqual(['EXPIRED', 'EXPIRED', 'REDEEMED'])
  await client().change(book, { expiration_date: null })
  expect(await states()).toEqual(['LOCKED', 'UNASSIGNED', 'REDEEMED'])
})

test('show  knows a counter book’s coupon and none that it has not made', async () => {
  const book = await makeBook({ kind: 'counter', units: 1 })
  const { body } = await client().assign(book, 'ann')
  const [{ code }] = body.coupons
  expect((await client().show(code)).body).toEqual(assigned(code, book, 'ann'))
  expectProblem(await client().show(`${code.slice(0, 7)}0000000000000000`), 'coupon-not-found')
})

test('show  goes on in an archived book: its history stays readable', async () => {
  const book = await makeBook({}, [code])
  await client().assignCode(code, 'ann')
  await world().call('DELETE', `books/${book}`, { as: world().admin })
  expect((await client().show(code)).body.assigned_user_id).toBe('ann')
})

test('show  tells the own limit of a code in stock', async () => {
  const book = await makeBook()
  const add = (codes: string[], max_redemptions: number | null) =>
    world().call('POST', `books/${book}/codes/upload`, {
      as: world().admin,
      body: { codes, max_redemptions },
    })
  await add([code], 4)
  await add([`${code}-NULL`], null)
  expect((await client().show(code)).body.max_redemptions).toBe(4)
  expect((await client().show(`${code}-NULL`)).body.max_redemptions).toBeNull()
})

test('show  refuses to answer from a Redis that is not the one this process saw', async () => {
  const book = await makeBook({}, [code])
  const { shard } = await placeOf(world(), book)
  await client().assignCode(code, 'ann')
  const meta = keys.meta(shard)
  const n = await world().redis.hget(meta, 'n')
  await world().redis.hset(meta, 'n', 0)
  const reply = await client().show(code)
  await world().redis.hset(meta, 'n', n!)
  expectProblem(reply, 'not-ready')
  expect(reply.headers.get('retry-after')).toBe('1')
  await world().ready()
  expect((await client().show(code)).status).toBe(200)
})
