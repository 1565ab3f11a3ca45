import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { scratchDir } from '../src/embedded/leftovers.ts'
import { updateBook } from '../src/ledger/books.ts'
import { openDatabase } from '../src/ledger/database.ts'
import { type Certificate, isGenuine, signCertificate } from '../src/ops/certificate.ts'
import { setBook, setFlush, setIntake } from '../src/ops/control.ts'
import { drain } from '../src/ops/drain.ts'
import type { Ops } from '../src/ops/ops.ts'
import { reconcile } from '../src/ops/reconcile/reconcile.ts'
import { keys } from '../src/store/keys.ts'
import { stampede } from './stampede.ts'
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

const given = async (user_id: string, of = book): Promise<string> =>
  (await post('coupons/assign', { book_id: of, user_id })).body.coupons[0].code

/** A drain that is held in the middle of its comparison, and what came of it. `begin`: on this database. */
async function held<T>(begin: (url: string) => Promise<T>, meanwhile: () => Promise<unknown>) {
  const patient = `${world.settings.DATABASE_URL}?options=-c%20lock_timeout%3D15000`
  const holder = await world.database.connect()
  await holder.query('SET idle_in_transaction_session_timeout = 0')
  await holder.query('BEGIN')
  await holder.query('LOCK TABLE parked_facts')
  const drained = begin(patient)
  try {
    await until(async () => {
      const { rows } = await world.database.query(
        `SELECT FROM pg_locks WHERE NOT granted AND relation = 'parked_facts'::regclass
           AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`,
      )
      return rows.length > 0
    }, 'the comparison asks for parked facts')
    await meanwhile()
  } finally {
    await holder.query('COMMIT')
    holder.release(true)
  }
  return drained
}
const heldDrain = (options: { book?: string }, meanwhile: () => Promise<unknown>) =>
  held((url) => {
    const database = openDatabase(url, 6, 'test')
    const drained = drain({ ...ops, database }, { ...options, timeoutMs: 20_000, by })
    return drained.finally(() => database.end())
  }, meanwhile)

const ends = async ({ shards }: Certificate) =>
  Promise.all(
    shards.map(async ({ shard }) => Number(await world.redis.hget(keys.meta(shard), 'n'))),
  )

describe('drain', () => {
  test('five times under load: level, attested, and nothing comes after it', {
    timeout: 120_000,
  }, async () => {
    const key = "FROM settings WHERE name = 'certificate_key'"
    expect(
      (await world.database.query(`SELECT ${key}`)).rows,
      'made by the migrations',
    ).toHaveLength(1)
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
    await world.database.query("UPDATE loads SET state = 'written' WHERE book_id = $1", [book])
    await world.database.query('UPDATE books SET pushed_version = 0 WHERE book_id = $1', [book])
    await post('coupons/assign', { book_id: book, user_id: 'late' })
    const waited: string[][] = []
    const onWaiting = (waits: string[]) => void waited.push(waits)
    const mirror = setInterval(() => void world.house.watchGates(), 100) // as an API process does
    const drained = await drain(ops, { timeoutMs: 600, by, onWaiting })
    clearInterval(mirror)
    expect(drained).toMatchObject({ state: 'timed-out' })
    expect(waited.at(-1)!.join()).toMatch(/facts wait for the ledger/)
    // Of these a comparison would say UNDERSOLD and STATE_MISMATCH.
    expect(waited.at(-1)!.join()).toMatch(`book ${book}: Redis has an older policy`)
    expect(waited.at(-1)!.join()).toMatch(new RegExp(`book ${book}: load \\d+ is not in Redis yet`))
    // It stays as it is: whoever drains does not want the sale to go on by itself.
    const refused = await post('coupons/assign', { book_id: book, user_id: 'later' })
    expect(refused.body.code).toBe('intake-stopped')
    await world.startWorker()
    await world.ready()
    expect(await drain(ops, { timeoutMs: 20_000, by })).toMatchObject({ state: 'drained' })
    await setIntake(ops, 'open', by)
  })

  test('of one book ends what its holders do too, and lets the others go on', async () => {
    const other = await world.makeBook({}, 5_000)
    const held = await given('holder')
    const locked = (await post(`coupons/lock/${held}`, { user_id: 'holder' })).body
    const redeem = (code: string, more = {}) =>
      post(`coupons/redeem/${code}`, { user_id: 'holder', ...more })
    const used = (await redeem(await given('holder'))).body.redemption_id
    let over = false
    const neighbours = Array.from({ length: 4 }, async (_, n) => {
      while (!over) await post('coupons/assign', { book_id: other, user_id: `neighbour-${n}` })
    })
    const drained = await drain(ops, { book, timeoutMs: 20_000, by })
    over = true
    await Promise.all(neighbours)
    expect(drained).toMatchObject({
      state: 'drained',
      certificate: { book, verdict: 'equal', compared: 'live', waiting_jobs: [] },
    })
    const { lock_token } = locked
    const refused = await Promise.all([
      post('coupons/assign', { book_id: book, user_id: 'x' }),
      post(`coupons/assign/${held}`, { user_id: 'x' }),
      post(`coupons/lock/${held}`, { user_id: 'holder', lock_token }),
      post(`coupons/unlock/${held}`, { user_id: 'holder' }),
      redeem(held, { lock_token }),
      ...['release', 'void'].map((verb) =>
        world.call('POST', `coupons/${verb}/${held}`, { as: world.admin }),
      ),
      world.call('POST', `redemptions/${used}/rollback`, { as: world.admin, body: {} }),
    ])
    expect(refused.map(({ body }) => body.code)).toEqual(refused.map(() => 'intake-stopped'))
    const [end] = (drained as { certificate: Certificate }).certificate.shards
    const later = 'SELECT FROM ledger WHERE book_id = $1 AND (epoch, n) > ($2, $3)'
    expect((await world.database.query(later, [book, end!.epoch, end!.entry])).rows).toEqual([])
    const neighbour = () => post('coupons/assign', { book_id: other, user_id: 'x' })
    expect((await neighbour()).status).toBe(200)
    // Nor does a Redis that was made anew take in what is stopped.
    await world.redis.flushall()
    await until(async () => {
      const { status, body } = await post(`coupons/lock/${held}`, { user_id: 'holder', lock_token })
      expect(status).toBe(503)
      return body.code === 'intake-stopped'
    }, 'it serves again')
    await until(async () => (await neighbour()).status === 200, 'so does the other shard')
    // Whoever pauses it lets its holders go on, and whoever sets is_active opens it as well.
    await setBook(ops, book, 'paused', by)
    const assign = () => post('coupons/assign', { book_id: book, user_id: 'x' })
    expect((await assign()).body.code).toBe('book-inactive')
    expect((await redeem(held, { lock_token })).status).toBe(200)
    await setBook(ops, book, 'stopped', by)
    await updateBook(world.database, book, { is_active: true })
    await until(async () => (await assign()).status === 200, 'it is open again')
    expect(await drain(ops, { book: crypto.randomUUID(), timeoutMs: 1, by })).toMatchObject({
      problem: 'book-not-found',
    })
  })

  test('lets a distribution wait that it stops in the middle of, and names it', {
    timeout: 60_000,
  }, async () => {
    const users = 1_500
    const each = 16
    const large = await world.makeBook({ kind: 'counter', units: users * each })
    const user_ids = Array.from({ length: users }, (_, u) => `user-${u}`)
    const pool = (await post('pools', { name: 'Everybody', user_ids })).body.pool_id
    // With the flush held, its run stands still once it is four chunks of six ahead of the ledger.
    await setFlush(ops, 'paused', by)
    const wanted = { book_id: large, mode: 'equal', coupons_per_user: each }
    const { job_id } = (await post(`pools/${pool}/distribute`, wanted)).body
    const counted = 'SELECT shard FROM books WHERE book_id = $1'
    const [{ shard }] = (await world.database.query(counted, [large])).rows
    const held = async () => Number(await world.redis.hget(keys.book(shard, large), 'held'))
    await until(async () => (await held()) > 0, 'it has begun')
    const draining = drain(ops, { timeoutMs: 30_000, by })
    const stopped = async () => (await world.redis.hget(keys.meta(shard), 'intake')) === 'stopped'
    await until(stopped, 'intake is stopped')
    await setFlush(ops, 'running', by)
    const drained = await draining
    const given = await held()
    expect(given).toBeLessThan(users * each)
    expect(drained).toMatchObject({
      state: 'drained',
      certificate: { verdict: 'equal', compared: 'exact', waiting_jobs: [job_id] },
    })
    const { certificate } = drained as { certificate: Certificate }
    expect(await isGenuine(world.database, certificate)).toBe(true)
    const job = async () => (await world.call('GET', `jobs/${job_id}`, { as: world.service })).body
    // What it had given is written down, and no sweep has it begin again.
    await sleep(2_500)
    expect(await job()).toMatchObject({ state: 'queued', done: given / each })
    expect(await ends(certificate)).toEqual(certificate.shards.map(({ entry }) => entry))
    await setIntake(ops, 'open', by)
    await until(async () => (await job()).finished_at !== null, 'the distribution is over', 30_000)
    expect(await job()).toMatchObject({ state: 'done', result: { total_assigned: users * each } })
    const { rows } = await world.database.query(
      `SELECT count(*)::int AS users, min(coupons) AS least, max(coupons) AS most FROM (
         SELECT count(*)::int AS coupons FROM ledger WHERE book_id = $1 GROUP BY user_id) AS each`,
      [large],
    )
    expect(rows).toEqual([{ users, least: each, most: each }])
    expect((await reconcile(ops, { exact: false })).verdict).toBe('equal')
  })

  test('waits for a replay that somebody asked for: it changes what is compared', async () => {
    const { rows } = await world.database.query(
      `INSERT INTO jobs (job_id, kind, total, input, created_by)
       VALUES (gen_random_uuid(), 'replay', 0, '{}', 'a test') RETURNING job_id`,
    )
    const [{ job_id }] = rows
    const waits = await drain(ops, { timeoutMs: 1_500, by })
    await world.database.query("UPDATE jobs SET state = 'cancelled' WHERE job_id = $1", [job_id])
    expect(waits).toEqual({ state: 'timed-out', waits: [`job ${job_id} (replay) is queued`] })
    await setIntake(ops, 'open', by)
  })

  test('attests nothing where somebody resumed while it compared', async () => {
    const sale = async () => {
      await setIntake(ops, 'open', by)
      await given('quick')
      await setIntake(ops, 'stopped', by)
    }
    expect(await heldDrain({}, sale)).toEqual({
      state: 'undone',
      why: expect.arrayContaining([expect.stringMatching(/^shards moved from|facts wait for/)]),
    })
    await setIntake(ops, 'open', by)
    const redemption = async () => {
      await setBook(ops, book, 'paused', by)
      await setBook(ops, book, 'stopped', by)
    }
    expect(await heldDrain({ book }, redemption)).toEqual({
      state: 'undone',
      why: ['the book was changed while both stores were compared'],
    })
    await setBook(ops, book, 'active', by)
  })

  test('a file that cannot be written is refused before anything is stopped', async () => {
    const intake = () => world.database.query("SELECT 1 FROM shards WHERE intake = 'stopped'")
    const file = join(scratchDir('drain'), 'nowhere', 'drained.json')
    const refused = await stampede(world, 'drain', '--certificate', file)
    expect([refused.code, refused.out]).toEqual([2, ''])
    expect(refused.err).toMatch(/nothing was stopped: .*drained.json cannot be written: ENOENT/)
    expect((await intake()).rows).toEqual([])
    // A disk that is full lets itself be opened, and says so at the end.
    const full = await stampede(world, 'drain', '--certificate', '/dev/full')
    expect([full.code, (await intake()).rows.length > 0]).toEqual([1, true])
    const [line, kept] = full.out.trimEnd().split('\n').slice(-2)
    expect(line).toMatch(/^! \/dev\/full could not be written: ENOSPC/)
    expect(await isGenuine(world.database, JSON.parse(kept!))).toBe(true)
    const asked = await stampede(world, 'drain', '--json', '--certificate', '/dev/full')
    const said = JSON.parse(asked.out)
    expect([asked.code, said.unwritten]).toEqual([1, expect.stringMatching(/^ENOSPC/)])
    // As it is kept where the machine of the command has no disk of its own.
    const saved = join(scratchDir('drain'), 'said.json')
    writeFileSync(saved, asked.out)
    expect((await stampede(world, 'verify-certificate', saved)).out).toMatch(/^genuine/)
    await setIntake(ops, 'open', by)
  })

  test('as a command ends with 1 where it was undone, and says by what', async () => {
    const { code, out } = await held(
      (DATABASE_URL) =>
        stampede({ settings: { ...world.settings, DATABASE_URL } }, 'drain', '--book', book),
      () => setBook(ops, book, 'active', by),
    )
    expect([code, out]).toEqual([
      ...[
        1,
        expect.stringMatching(/^No certificate:\n.*somebody resumed it.*\nthe book was changed /),
      ],
    ])
  })

  test('as a command ends with 3 where the stores differ, and certifies just that', async () => {
    const code = await given('victim')
    await world.level()
    const rename = 'UPDATE coupons SET user_id = $2 WHERE code = $1'
    await world.database.query(rename, [code, 'mallory'])
    const file = join(scratchDir('drain'), 'different.json')
    const drained = await stampede(world, 'drain', '--book', book, '--certificate', file)
    await world.database.query(rename, [code, 'victim'])
    await setBook(ops, book, 'active', by)
    expect([drained.code, drained.out]).toEqual([
      3,
      expect.stringMatching(
        new RegExp(
          `, different\n.*\ncompared while other books went on.*\n! STATE_MISMATCH ${code} coupons differs from `,
        ),
      ),
    ])
    const verified = await stampede(world, 'verify-certificate', file, '--json')
    expect([verified.code, verified.said]).toEqual([3, { genuine: true, verdict: 'different' }])
  })

  test('a certificate that somebody touched is not genuine', async () => {
    const file = join(scratchDir('drain'), 'drained.json')
    const done = await stampede(world, '--json', 'drain', '--certificate', file)
    expect([done.code, done.said]).toMatchObject([0, { differences: [], more: 0 }])
    const certificate = JSON.parse(readFileSync(file, 'utf8')) as Certificate
    const copy = JSON.parse(JSON.stringify(certificate)) as Certificate
    expect(await isGenuine(world.database, copy)).toBe(true)
    copy.shards[0]!.entry++
    expect(await isGenuine(world.database, copy)).toBe(false)
    expect(await isGenuine(world.database, { ...certificate, signature: 'x' })).toBe(false)
    await setIntake(ops, 'open', by)
    // Another key would make every older certificate a forgery, so asking makes none.
    const key = "settings WHERE name = 'certificate_key'"
    const [own] = (await world.database.query(`DELETE FROM ${key} RETURNING *`)).rows
    await expect(isGenuine(world.database, certificate)).rejects.toThrow(/run the migrations/)
    await world.database.query('INSERT INTO settings SELECT $1, $2', [own.name, own.value])
    expect(await isGenuine(world.database, certificate)).toBe(true)
    // Genuine, and a reason to look into it.
    const { signature: _, ...what } = certificate
    const bad = await signCertificate(world.database, { ...what, verdict: 'different' })
    writeFileSync(file, JSON.stringify(bad))
    const verified = await stampede(world, 'verify-certificate', file)
    expect([verified.code, verified.out]).toEqual([3, expect.stringMatching(/^genuine.*different/)])
  })
})
