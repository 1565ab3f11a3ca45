import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type Certificate, isGenuine } from '../src/ops/certificate.ts'
import { setIntake } from '../src/ops/control.ts'
import { drain } from '../src/ops/drain.ts'
import type { Ops } from '../src/ops/ops.ts'
import { keys } from '../src/store/keys.ts'
import { openWorld, until, type World } from './world.ts'

/** Drains under load: what a certificate says is so, and stays so. */
let world: World
let ops: Ops
let book: string
const by = { actor: 'user:test', reason: 'a test' }

beforeAll(async () => {
  world = await openWorld({ shards: 2 })
  ops = { redis: world.redis, database: world.database }
  book = await world.makeBook({ max_redemptions: 5 }, 9_000)
})
afterAll(() => world.close())

const post = (path: string, body: object) => world.call('POST', path, { as: world.service, body })

/** Buyers that go on whatever they are told; `end` waits for the last of them. */
function crowd() {
  let over = false
  const done = { assigned: 0, refused: 0 }
  const buyers = Array.from({ length: 8 }, async (_, buyer) => {
    while (!over) {
      const user_id = `buyer-${buyer}`
      const given = await post('coupons/assign', { book_id: book, user_id })
      if (given.status !== 200) {
        done.refused++
        await sleep(5)
        continue
      }
      done.assigned++
      const { code } = given.body.coupons[0]
      const lock = await post(`coupons/lock/${code}`, { user_id })
      if (lock.status === 200)
        await post(`coupons/redeem/${code}`, { user_id, lock_token: lock.body.lock_token })
    }
  })
  return {
    done,
    end: async () => {
      over = true
      await Promise.all(buyers)
    },
  }
}

const ends = async ({ shards }: Certificate) =>
  Promise.all(
    shards.map(async ({ shard }) => Number(await world.redis.hget(keys.meta(shard), 'n'))),
  )

describe('drain', () => {
  test('five times under load: level, attested, and nothing comes after it', {
    timeout: 120_000,
  }, async () => {
    const buyers = crowd()
    for (let time = 0; time < 5; time++) {
      const { assigned } = buyers.done
      await until(() => buyers.done.assigned > assigned + 10, 'the sale goes on')
      const drained = await drain(ops, { timeoutMs: 20_000, by })
      if (!('state' in drained) || drained.state !== 'drained')
        throw new Error(JSON.stringify(drained))
      const { certificate, reconciliation } = drained
      expect(reconciliation.differences).toEqual([])
      expect(certificate.verdict).toBe('equal')
      expect(await isGenuine(world.database, certificate)).toBe(true)
      const refused = buyers.done.refused
      await until(() => buyers.done.refused > refused + 8, 'buyers are refused')
      expect(await ends(certificate)).toEqual(certificate.shards.map(({ entry }) => entry))
      const { rows } = await world.database.query(
        'SELECT shard, max(n) AS n FROM ledger l JOIN shards s USING (shard, epoch) GROUP BY shard',
      )
      for (const { shard, n } of rows) expect(n).toBe(certificate.shards[shard]!.entry)
      await setIntake(ops, 'open', by)
    }
    await buyers.end()
    await world.level()
  })

  test('says what it waits for, and ends without a certificate where the ledger does not follow', async () => {
    await world.stopWorker()
    await post('coupons/assign', { book_id: book, user_id: 'late' })
    const waited: string[][] = []
    const onWaiting = (waits: string[]) => void waited.push(waits)
    const drained = await drain(ops, { timeoutMs: 600, by, onWaiting })
    expect(drained).toMatchObject({ state: 'timed-out' })
    expect(waited.at(-1)!.join()).toMatch(/facts wait for the ledger/)
    await world.house.watchGates() // as an API process does once a second
    // It stays as it is: whoever drains does not want the sale to go on by itself.
    const refused = await post('coupons/assign', { book_id: book, user_id: 'later' })
    expect(refused.body.code).toBe('intake-stopped')
    await world.startWorker()
    await world.ready()
    expect(await drain(ops, { timeoutMs: 20_000, by })).toMatchObject({ state: 'drained' })
    await setIntake(ops, 'open', by)
  })

  test('of one book lets the others go on', async () => {
    const other = await world.makeBook({}, 5_000)
    let over = false
    const neighbours = Array.from({ length: 4 }, async (_, n) => {
      while (!over) await post('coupons/assign', { book_id: other, user_id: `neighbour-${n}` })
    })
    const drained = await drain(ops, { book, timeoutMs: 20_000, by })
    over = true
    await Promise.all(neighbours)
    expect(drained).toMatchObject({ state: 'drained', certificate: { book, verdict: 'equal' } })
    expect((await post('coupons/assign', { book_id: book, user_id: 'x' })).body.code).toBe(
      'book-inactive',
    )
    expect((await post('coupons/assign', { book_id: other, user_id: 'x' })).status).toBe(200)
    expect(await drain(ops, { book: crypto.randomUUID(), timeoutMs: 1, by })).toMatchObject({
      problem: 'book-not-found',
    })
  })

  test('a certificate that somebody touched is not genuine', async () => {
    const drained = await drain(ops, { timeoutMs: 20_000, by })
    if (!('state' in drained) || drained.state !== 'drained') throw new Error('not drained')
    const { certificate } = drained
    const copy = JSON.parse(JSON.stringify(certificate)) as Certificate
    expect(await isGenuine(world.database, copy)).toBe(true)
    copy.shards[0]!.entry++
    expect(await isGenuine(world.database, copy)).toBe(false)
    expect(await isGenuine(world.database, { ...certificate, signature: 'x' })).toBe(false)
    await setIntake(ops, 'open', by)
  })
})
