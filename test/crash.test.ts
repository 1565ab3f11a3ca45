import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { openTown, type Town } from './processes.ts'

let town: Town
beforeAll(async () => {
  town = await openTown()
})
afterAll(() => town.close())

/** Buyers who go on until told to stop; answers what was acknowledged and how often nobody knew. */
function buyers(base: string, book: string, count: number) {
  const acknowledged = new Map<string, string>()
  let unknown = 0
  let stopped = false
  let buyer = 0
  const crowd = Array.from({ length: count }, async () => {
    while (!stopped) {
      const user = `buyer-${++buyer}`
      try {
        const { status, body } = await town.post(base, 'coupons/assign', {
          book_id: book,
          user_id: user,
        })
        if (status === 200) {
          const { code } = body.coupons[0]
          expect(acknowledged.has(code)).toBe(false)
          acknowledged.set(code, user)
        } else if (body.code === 'sold-out') return
        else await sleep(20)
      } catch {
        unknown++ // the connection broke: this one may or may not have happened
        await sleep(20)
      }
    }
  })
  return {
    acknowledged,
    unknown: () => unknown,
    async stop() {
      stopped = true
      await Promise.all(crowd)
    },
  }
}

/** What the client was told, what Redis holds and what PostgreSQL holds are one and the same. */
async function expectConsistent(book: string, sale: ReturnType<typeof buyers>) {
  const { rows } = await town.database.query<{ code: string; user_id: string }>(
    'SELECT code, user_id FROM coupons WHERE book_id = $1',
    [book],
  )
  const held = new Map(rows.map(({ code, user_id }) => [code, user_id]))
  for (const [code, user] of sale.acknowledged) expect(held.get(code)).toBe(user)
  expect(held.size).toBeGreaterThanOrEqual(sale.acknowledged.size)
  expect(held.size).toBeLessThanOrEqual(sale.acknowledged.size + sale.unknown())
  const facts = await town.database.query(
    'SELECT count(*)::int, count(DISTINCT code)::int AS codes FROM ledger WHERE book_id = $1',
    [book],
  )
  expect(facts.rows[0]).toEqual({ count: held.size, codes: held.size })
  const parked = await town.database.query('SELECT * FROM parked_facts')
  expect(parked.rows).toEqual([])
  const gaps = await town.database.query(
    `SELECT shard, epoch FROM (SELECT DISTINCT shard, epoch, n FROM ledger) entries
     GROUP BY shard, epoch HAVING count(*) <> max(n)`,
  )
  expect(gaps.rows).toEqual([])
}

test('a worker killed in mid-sale loses nothing: the next one goes on from the checkpoint', async () => {
  const first = town.startWorker()
  const api = await town.startApi()
  const book = await town.makeBook(api.base, 5_000)
  const sale = buyers(api.base, book, 8)
  await sleep(500)
  await first.kill()
  const whileDown = sale.acknowledged.size
  await sleep(500)
  expect(sale.acknowledged.size).toBeGreaterThan(whileDown) // Redis decides; nobody waits
  const second = town.startWorker()
  await sleep(500)
  await second.kill()
  town.startWorker()
  await sleep(300)
  await sale.stop()
  await town.level()
  await expectConsistent(book, sale)
  await api.stop()
})

test('an API killed in mid-sale loses nothing it acknowledged', async () => {
  const api = await town.startApi()
  const book = await town.makeBook(api.base, 5_000)
  const sale = buyers(api.base, book, 8)
  await sleep(600)
  await api.kill()
  await sale.stop()
  expect(sale.acknowledged.size).toBeGreaterThan(50)
  await town.level()
  await expectConsistent(book, sale)
})

test('every process stops cleanly on SIGTERM in mid-sale, and the next start goes on', async () => {
  const worker = town.startWorker()
  const api = await town.startApi()
  const book = await town.makeBook(api.base, 5_000)
  const sale = buyers(api.base, book, 8)
  await sleep(500)
  expect(await api.stop()).toBe(0)
  expect(await worker.stop()).toBe(0)
  await sale.stop()
  town.startWorker()
  await town.level()
  await expectConsistent(book, sale)
})
