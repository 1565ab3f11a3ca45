import type { ChildProcess } from 'node:child_process'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect } from 'vitest'
import { operationUrl } from '../src/http/operations.ts'
import { createTokens } from '../src/http/tokens.ts'
import { createDistribution } from '../src/ledger/distributions.ts'
import { sweepImportsOnce } from '../src/ledger/imports.ts'
import { keys } from '../src/store/keys.ts'
import { frozen, killed, type Process, type Town } from './processes.ts'
import { until } from './world.ts'

export const modes = ['kill', 'throw', 'freeze'] as const
export type Mode = (typeof modes)[number]

/** Where a case plays. API and worker are well, and may be replaced; `leaving` are those that failed. */
export type Stage = {
  town: Town
  point: string
  mode: Mode
  /** Of this case alone, with 300 codes. */
  book: string
  worker: Process
  api: Process & { base: string }
  leaving: Process[]
  /** All that processes have printed since the case began. */
  said: () => string
}
type Case = (stage: Stage) => Promise<void>
type Meanwhile = () => Promise<unknown>

const why = ['--reason', 'a test']
const slowMs = 30_000

const order = ({ point, mode }: Stage) => ({ FAILPOINT: `${point}:${mode}` })
const assign = ({ town, api, book }: Stage, user: string, base = api.base) =>
  town.post(base, 'coupons/assign', { book_id: book, user_id: user })
async function given(stage: Stage, user: string): Promise<string> {
  const { status, body } = await assign(stage, user)
  expect(status, JSON.stringify(body)).toBe(200)
  return body.coupons[0].code
}
const refuses = (stage: Stage, code: string) =>
  until(async () => (await assign(stage, 'refused')).body.code === code, code, slowMs)
const serves = (stage: Stage, base?: string) =>
  until(async () => (await assign(stage, 'served', base)).status === 200, 'it serves', slowMs)

async function one<Row>({ town }: Stage, sql: string, ...values: unknown[]): Promise<Row> {
  return (await town.database.query(sql, values)).rows[0]
}
async function count(stage: Stage, of: string, ...values: unknown[]): Promise<number> {
  return (await one<{ n: number }>(stage, `SELECT count(*)::int AS n FROM ${of}`, ...values)).n
}
const shardRow = async (stage: Stage) => {
  const sql = 'SELECT * FROM shards WHERE shard = (SELECT shard FROM books WHERE book_id = $1)'
  type Row = { shard: number; epoch: number; checkpoint: number; checkpoint_hash: string }
  return one<Row & { facts: number; loss_accepted: boolean }>(stage, sql, stage.book)
}
const intakeIs = ({ town }: Stage, wanted: string) =>
  until(
    async () => {
      const told = [0, 1].map((shard) => town.redis.hget(keys.meta(shard), 'intake'))
      return (await Promise.all(told)).every((intake) => intake === wanted)
    },
    `Redis knows that intake is ${wanted}`,
    slowMs,
  )

/**
 * Waits until a process has failed. `mute`: what is thrown there is caught without a word, because the next
 * look makes it good; then it has a moment for it.
 */
async function reached(stage: Stage, { child }: { child: ChildProcess }, mute = false) {
  const { mode, point, said } = stage
  if (mode === 'kill') return killed({ child })
  if (mode === 'freeze') return frozen({ child })
  if (mute) return sleep(1_500)
  await until(() => said().includes(`failpoint ${point}`), 'it threw at its failpoint', 20_000)
}

/** An operator's command that fails there. A frozen one goes on after `meanwhile`. */
async function fails(stage: Stage, args: string[], meanwhile: Meanwhile = async () => {}) {
  const { town, mode, point } = stage
  let child!: ChildProcess
  const ending = town.cli([...args, ...why], order(stage), (begun) => {
    child = begun
  })
  if (mode === 'freeze') {
    await frozen({ child })
    await meanwhile()
    child.kill('SIGCONT')
  }
  const { code, signal, out } = await ending
  if (mode === 'kill') expect(signal, out).toBe('SIGKILL')
  if (mode === 'throw') expect([code, out]).toEqual([1, expect.stringContaining(point)])
  if (mode !== 'freeze') await meanwhile()
}
async function types({ town }: Stage, ...args: string[]): Promise<void> {
  const { code, out } = await town.cli(args)
  expect(code, out).toBe(0)
}

/**
 * A worker that fails: alone until then, beside another one from then on. `begin`: what is there for it to
 * do; `after`: what its successor needs; `mute`: see `reached`.
 */
async function workerFails(
  stage: Stage,
  { begin, after, mute }: { begin?: Meanwhile; after?: Meanwhile; mute?: boolean } = {},
): Promise<void> {
  await stage.worker.kill()
  await begin?.()
  const doomed = stage.town.startWorker(order(stage))
  stage.leaving.push(doomed)
  await reached(stage, doomed, mute)
  await after?.()
  stage.worker = stage.town.startWorker()
}
/** Those that stood still find that others have gone on. */
function goOn({ leaving, mode }: Stage): void {
  if (mode === 'freeze') for (const { child } of leaving) child.kill('SIGCONT')
}

/** An API that serves until it fails. */
async function apiFails(stage: Stage): Promise<Process & { base: string }> {
  const doomed = await stage.town.startApi(order(stage))
  stage.leaving.push(doomed)
  return doomed
}

/** Has a job taken for silent and its worker for dead now, not in some seconds. */
async function hurry({ town }: Stage, jobId: string): Promise<void> {
  await town.redis.del(...(await town.redis.keys(`*${jobId}:lock`)), 'none')
  const silent =
    "UPDATE jobs SET updated_at = to_timestamp(0) WHERE job_id = $1 AND state <> 'done'"
  await town.database.query(silent, [jobId])
}
const done = (stage: Stage, jobId: string) =>
  until(
    async () => (await count(stage, "jobs WHERE job_id = $1 AND state = 'done'", jobId)) === 1,
    'the job is done',
    slowMs,
  )

/** A fact that stands aside: neither in the ledger nor in the fold, as if it had not fit. */
async function park(stage: Stage, code: string): Promise<void> {
  const { town, book } = stage
  await town.level()
  const [fact] = (
    await town.database.query('DELETE FROM ledger WHERE code = $1 RETURNING *', [code])
  ).rows
  const { shard, epoch, n, i, op, context } = fact
  const at = fact.at.getTime()
  const its = {
    ...{ i, code, user: fact.user_id, version: 1, assignedAt: at, redemptions: 0 },
    ...{ max: fact.max_redemptions, lockToken: null, lockedUntil: null, redemption: null },
    context: JSON.stringify(context),
  }
  await town.database.query(
    `WITH gone AS (DELETE FROM coupons WHERE code = $6), counted AS (
       UPDATE book_counters SET held = held - 1 WHERE book_id = $7)
     INSERT INTO parked_facts (shard, epoch, n, i, reason, fact) VALUES ($1, $2, $3, $4, 'a test', $5)`,
    [shard, epoch, n, i, { epoch, n, kind: 'assign', book, at, op, fact: its }, code, book],
  )
}

/** PostgreSQL as of before its last fact, restored while no worker runs. */
async function losing(stage: Stage): Promise<void> {
  const { town, book } = stage
  await town.level()
  const before = await shardRow(stage)
  const code = await given(stage, 'lost')
  await town.level()
  await stage.worker.kill()
  await town.database.query(
    `WITH gone AS (DELETE FROM ledger WHERE code = $1), too AS (DELETE FROM coupons WHERE code = $1),
       and_counted AS (UPDATE book_counters SET held = held - 1 WHERE book_id = $2)
     UPDATE shards SET checkpoint = $4, checkpoint_hash = $5, facts = $6 WHERE shard = $3`,
    [code, book, before.shard, before.checkpoint, before.checkpoint_hash, before.facts],
  )
  await fails(stage, ['accept-loss', '--yes'])
  // What was accepted already need not be accepted again.
  await town.cli(['accept-loss', '--yes', ...why])
  stage.worker = town.startWorker()
  await until(
    async () => !(await shardRow(stage)).loss_accepted,
    'a worker has made it anew',
    slowMs,
  )
  await serves(stage)
  expect(await count(stage, "coupons WHERE code = $1 AND user_id = 'lost'", code)).toBe(1)
}

const pausing: Case = async (stage) => {
  await fails(stage, ['pause', '--book', stage.book])
  await types(stage, 'pause', '--book', stage.book, ...why)
  await refuses(stage, 'book-inactive')
  await types(stage, 'resume', '--book', stage.book, ...why)
  await serves(stage)
}

/** `before`: only then does PostgreSQL not know yet. */
const suspecting =
  (before: boolean): Case =>
  async (stage) => {
    const doomed = await apiFails(stage)
    const { shard, epoch } = await shardRow(stage)
    const codes = [await given(stage, 'ann')]
    await stage.town.level()
    await stage.town.redis.del(keys.stock(shard, stage.book))
    void assign(stage, 'who notices', doomed.base).catch(() => {})
    await reached(stage, doomed)
    if (before) await assign(stage, 'who tells')
    const recovered = async () => (await shardRow(stage)).epoch > epoch
    await until(recovered, 'a worker recovers it', slowMs)
    await serves(stage)
    goOn(stage)
    if (stage.mode !== 'kill') await serves(stage, doomed.base)
    codes.push(await given(stage, 'ben'))
    expect(new Set(codes).size).toBe(2)
  }

const mirroring: Case = async (stage) => {
  const stop = () => stage.town.database.query("UPDATE shards SET intake = 'stopped'")
  // Whoever looks first tells Redis, and that must be the one that fails.
  await stage.api.kill()
  await workerFails(stage, { begin: stop, mute: true })
  stage.api = await stage.town.startApi()
  await intakeIs(stage, 'stopped')
  goOn(stage)
  expect((await assign(stage, 'late')).body.code).toBe('intake-stopped')
  await types(stage, 'resume', '--intake', ...why)
  await serves(stage)
}

const rows = 60
const lines = Array.from({ length: rows }, (_, row) => `,${(row % 3) + 1}\n`)
async function send({ town, api, book, point }: Stage, base = api.base): Promise<string> {
  const prefix = `${point.replace('.', '-')}-${book.slice(0, 8)}`
  const response = await fetch(`${base}/api/v1/books/${book}/imports`, {
    method: 'POST',
    headers: { authorization: `Bearer ${town.token}` },
    body: `code,max_redemptions\n${lines.map((line, row) => `${prefix}-${row}${line}`).join('')}`,
  })
  if (response.status !== 202) throw new Error(`no job: ${await response.text()}`)
  return ((await response.json()) as { job_id: string }).job_id
}
async function imported(stage: Stage, jobId: string): Promise<void> {
  await done(stage, jobId)
  const shard = await stage.town.shardOf(stage.book)
  expect(await count(stage, 'codes WHERE book_id = $1', stage.book)).toBe(300 + rows)
  expect(await stage.town.redis.scard(keys.stock(shard, stage.book))).toBe(300 + rows)
}
const importing: Case = async (stage) => {
  let jobId = ''
  await workerFails(stage, {
    begin: async () => {
      jobId = await send(stage)
    },
    after: () => hurry(stage, jobId),
  })
  await imported(stage, jobId)
  goOn(stage)
  await imported(stage, jobId)
}

const people = 60
/** `again`: of a run that was there before, so that this one looks for what that has given. */
const distributing =
  (again = false): Case =>
  async (stage) => {
    const { town, book } = stage
    const user_ids = Array.from({ length: people }, (_, user) => `user-${user}`)
    const pool = await town.post(stage.api.base, 'pools', { name: book, user_ids })
    let jobId = ''
    await workerFails(stage, {
      begin: async () => {
        const wanted = { mode: 'equal' as const, amount: 2, all: false, request_id: 'a-request' }
        const of = { pool_id: pool.body.pool_id, book_id: book, users: people, created_by: 'test' }
        jobId = (await createDistribution(town.database, { ...wanted, ...of })).job_id
        if (again)
          await town.database.query(
            'UPDATE distributions SET asked_epoch = 1, asked_n = 0, asked_at = now() WHERE job_id = $1',
            [jobId],
          )
        await hurry(stage, jobId)
      },
      after: () => hurry(stage, jobId),
    })
    const look = async () => {
      await done(stage, jobId)
      await town.level()
      expect(
        await one(
          stage,
          `SELECT count(DISTINCT user_id)::int AS users, count(*)::int AS coupons,
             (SELECT sum(cardinality(string_to_array(codes, ' ')))::int
              FROM distribution_results WHERE job_id = $2) AS told
           FROM ledger WHERE book_id = $1 AND kind = 'assign'`,
          ...[book, jobId],
        ),
      ).toEqual({ users: people, coupons: 2 * people, told: 2 * people })
    }
    await look()
    goOn(stage)
    await sleep(500)
    await look()
  }

const squeezing: Case = async (stage) => {
  const { town, book } = stage
  const { shard } = await shardRow(stage)
  await town.post(stage.api.base, `books/${book}/codes/generate`, { count: 1_000 })
  await town.assignMany(book, 1_100)
  await town.level()
  await workerFails(stage, { begin: () => fillUp(town), after: () => town.assignMany(book, 50) })
  goOn(stage)
  await town.level()
  const kept = await town.redis.hget(keys.meta(shard), 'kept')
  expect(Number(kept)).toBe(await town.redis.xlen(keys.journal(shard)))
  expect(await count(stage, "ledger WHERE book_id = $1 AND kind = 'assign'", book)).toBe(1_150)
  await town.redis.config('SET', 'maxmemory', '0')
  await town.redis.del('filler')
  // Until it looks again, the worker keeps journals too short for the next case to squeeze.
  await sleep(2_500)
}
/** Leaves some 5 % of Redis' memory free, with room for what a test writes. */
async function fillUp({ redis }: Town): Promise<void> {
  await redis.setrange('filler', 60_000_000, 'x')
  const used = /^used_memory:(\d+)/m.exec(await redis.info('memory'))![1]
  await redis.config('SET', 'maxmemory', Math.round(Number(used) / 0.95))
}

/**
 * Failpoints that no row of `npm run chaos` goes through, and what is done there so that a process dies,
 * throws or stands still. Each case ends with everything as it should be.
 */
export const cases: Record<string, Case> = {
  'book.before-audit': pausing,
  'book.after-postgres': pausing,
  async 'intake.after-postgres'(stage) {
    await fails(stage, ['pause', '--intake'])
    await intakeIs(stage, 'stopped')
    await refuses(stage, 'intake-stopped')
    await types(stage, 'resume', '--intake', ...why)
    await serves(stage)
  },
  async 'drain.before-attest'(stage) {
    await fails(stage, ['drain'], () => refuses(stage, 'intake-stopped'))
    await types(stage, 'drain', ...why)
    await types(stage, 'resume', '--intake', ...why)
    await serves(stage)
  },
  async 'rebuild.after-request'(stage) {
    const { shard, epoch } = await shardRow(stage)
    await fails(stage, ['rebuild', '--shard', `${shard}`, '--flush-first', '--yes'])
    await until(async () => (await shardRow(stage)).epoch > epoch, 'a worker makes it anew', slowMs)
    await serves(stage)
  },
  async 'replay.after-entry'(stage) {
    const code = await given(stage, 'ann')
    await stage.town.level()
    await stage.town.database.query('DELETE FROM ledger WHERE code = $1', [code])
    await fails(stage, ['replay'])
    await types(stage, 'replay', ...why)
    expect(await count(stage, 'ledger WHERE code = $1', code)).toBe(1)
  },
  async 'coupon.after-redis'(stage) {
    const code = await given(stage, 'ann')
    await fails(stage, ['coupon', 'void', code, '--yes'])
    await stage.town.level()
    expect(await count(stage, "ledger WHERE code = $1 AND kind = 'void'", code)).toBe(1)
    expect((await stage.town.cli(['coupon', 'void', code, '--yes', ...why])).out).toMatch(/void/i)
  },
  async 'parked.after-apply'(stage) {
    const code = await given(stage, 'ann')
    await park(stage, code)
    await fails(stage, ['parked', 'retry'])
    await types(stage, 'parked', 'retry', ...why)
    expect(await count(stage, 'parked_facts')).toBe(0)
    expect(await count(stage, "coupons WHERE code = $1 AND user_id = 'ann'", code)).toBe(1)
  },
  'loss.before-audit': losing,
  'loss.after-postgres': losing,

  async 'jobs.before-enqueue'(stage) {
    const { town, book } = stage
    const doomed = await apiFails(stage)
    const ask = (base: string) =>
      town.post(base, `books/${book}/codes/generate`, { count: 10_001 }, { 'idempotency-key': 'g' })
    const first = ask(doomed.base).catch(() => undefined)
    await reached(stage, doomed)
    const { status, body } = await ask(stage.api.base)
    expect(status).toBe(202)
    goOn(stage)
    const answer = await first
    if (stage.mode === 'freeze') expect(answer!.body.job_id).toBe(body.job_id)
    await hurry(stage, body.job_id)
    await done(stage, body.job_id)
    expect(await count(stage, 'codes WHERE book_id = $1', book)).toBe(10_301)
  },
  async 'operation.after-forbid'(stage) {
    const { town } = stage
    const doomed = await apiFails(stage)
    await town.level()
    const { shard, epoch, checkpoint: n } = await shardRow(stage)
    const { user_id } = await one<{ user_id: string }>(stage, 'SELECT user_id FROM users')
    const op = crypto.randomUUID()
    const call = { shard, epoch, n, i: undefined, op, at: Date.now(), request: 'a-request' }
    const path = operationUrl(createTokens(town.secret), call, `user:${user_id}`)
    const ask = async (base: string) =>
      (await fetch(base + path, { headers: { authorization: `Bearer ${town.token}` } })).json()
    const first = ask(doomed.base).catch(() => undefined)
    await reached(stage, doomed, true)
    expect(await ask(stage.api.base)).toMatchObject({ state: 'absent', facts: [] })
    goOn(stage)
    await first
    if (stage.mode !== 'kill') expect(await ask(doomed.base)).toMatchObject({ state: 'absent' })
  },
  'suspect.before-postgres': suspecting(true),
  'suspect.after-postgres': suspecting(false),
  async 'import.before-close'(stage) {
    const doomed = await apiFails(stage)
    const first = send(stage, doomed.base).catch(() => undefined)
    await reached(stage, doomed)
    await imported(stage, await send(stage))
    goOn(stage)
    // The same codes once more: all of them are bad rows by now, and so it is refused.
    const late = await first
    const ended = 'jobs WHERE job_id = $1 AND finished_at IS NOT NULL'
    if (late) await until(async () => (await count(stage, ended, late)) === 1, 'it ends', slowMs)
    expect(await count(stage, 'codes WHERE book_id = $1', stage.book)).toBe(300 + rows)
    await stage.town.database.query("UPDATE imports SET seen_at = now() - interval '61 s'")
    await sweepImportsOnce(stage.town.database)
    expect(await count(stage, "imports WHERE state = 'uploading'")).toBe(0)
  },

  async 'recover.mid-flush-rest'(stage) {
    const { town, book } = stage
    const { shard, epoch } = await shardRow(stage)
    await workerFails(stage, {
      begin: async () => {
        // One entry each, and more than a recovery flushes at once.
        await town.assignMany(book, 210)
        await town.redis.del(keys.stock(shard, book))
        await assign(stage, 'who notices')
      },
    })
    await until(async () => (await shardRow(stage)).epoch > epoch, 'it is recovered', slowMs)
    await serves(stage)
    goOn(stage)
    await town.level()
    expect(await count(stage, "ledger WHERE book_id = $1 AND user_id LIKE 'user-%'", book)).toBe(
      210,
    )
  },
  async 'flush.after-park'(stage) {
    const { town, book } = stage
    await town.level()
    let codes: string[] = []
    await workerFails(stage, {
      begin: async () => {
        codes = [await given(stage, 'ann'), await given(stage, 'ben'), await given(stage, 'cyd')]
        await town.database.query(
          `INSERT INTO coupons (code, book_id, user_id, version, redemptions, max_redemptions,
             assigned_at, updated_at) VALUES ($1, $2, 'by hand', 1, 0, 1, now(), now())`,
          [codes[1], book],
        )
      },
    })
    goOn(stage)
    await until(async () => (await count(stage, 'parked_facts')) === 1, 'it is parked', slowMs)
    await town.level()
    expect(await count(stage, 'ledger WHERE book_id = $1', book)).toBe(3)
    await town.database.query("DELETE FROM coupons WHERE user_id = 'by hand'")
    await types(stage, 'parked', 'retry', ...why)
  },
  'squeeze.after-read': squeezing,
  'squeeze.after-trim': squeezing,
  'intake.before-redis': mirroring,
  'intake.after-redis': mirroring,
  'import.after-page': importing,
  'import.mid-push': importing,
  'import.before-finish': importing,
  'distribute.before-plan': distributing(),
  'distribute.after-plan': distributing(),
  'distribute.after-unseen': distributing(true),
  'distribute.after-claim': distributing(),
  'distribute.after-ask': distributing(),
  'distribute.before-results': distributing(),
  'distribute.after-results': distributing(),
  'distribute.before-end': distributing(),
}
