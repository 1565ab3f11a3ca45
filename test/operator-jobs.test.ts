import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { auditRows } from '../src/ledger/audit.ts'
import { getJob, type Job, startJob } from '../src/ledger/jobs.ts'
import { isGenuine } from '../src/ops/certificate.ts'
import { setIntake } from '../src/ops/control.ts'
import { type Asked, changeJob, requestJob } from '../src/ops/jobs.ts'
import { keys } from '../src/store/keys.ts'
import { operateOnce } from '../workers/operate.ts'
import { openWorld, until, type World } from './world.ts'

/** The long verbs of an operator over HTTP, done by a worker as the ACL user it is in production. */
let world: World
let book: string
let operator: string
let viewer: string
const reason = 'a test'
const by = { actor: 'test', reason }

beforeAll(async () => {
  world = await openWorld({ acl: true })
  book = await world.makeBook({}, 40)
  operator = (await world.signUp('operator')).token
  viewer = (await world.signUp('viewer')).token
})
afterAll(() => world?.close())

const assign = (user: string) =>
  world.call('POST', 'coupons/assign', {
    as: world.service,
    body: { book_id: book, user_id: user },
  })

/** Asks for a job, and what came of it as the one who may only look is told. */
async function done(verb: string, body: object, as = operator) {
  const asked = await world.call('POST', `ops/${verb}`, {
    as,
    body: { reason, ...body },
  })
  expect([asked.status, asked.body.state]).toEqual([202, 'queued'])
  const at = asked.headers.get('location')!
  let job = asked.body
  await until(async () => {
    job = (await world.call('GET', at, { as: viewer })).body
    return job.finished_at !== null
  }, `the job ${verb}`)
  return job
}

describe('drain', () => {
  test('stops intake, and its job holds a certificate that verifies', async () => {
    for (const user of ['ann', 'bob']) await assign(user)
    const job = await done('drain', {})
    expect(job).toMatchObject({ kind: 'drain', state: 'done', result: { differences: [] } })
    const { certificate } = job.result
    expect(certificate).toMatchObject({ verdict: 'equal', book: null })
    expect(await isGenuine(world.database, certificate)).toBe(true)
    const verify = (body: object) =>
      world.call('POST', 'ops/certificates/verify', { as: viewer, body })
    expect((await verify(certificate)).body).toEqual({ genuine: true })
    expect((await verify({ ...certificate, at: 'another time' })).body).toEqual({ genuine: false })
    expect((await assign('cyd')).body.code).toBe('intake-stopped')
    const [stopped, asked] = await auditRows(world.database, { limit: 3 }).then((rows) => [
      rows.find(({ action }) => action === 'drain'),
      rows.find(({ action }) => action === 'drain.request'),
    ])
    for (const deed of [stopped, asked]) {
      expect(deed!.actor).toMatch(/^user:/)
      expect(deed!.reason).toBe(reason)
    }
    const body = { state: 'open', reason }
    await world.call('POST', 'ops/intake', { as: operator, body })
    await until(async () => (await assign('cyd')).status === 200, 'it serves again')
  })

  test('of one book stops that book alone', async () => {
    const other = await world.makeBook({}, 3)
    const job = await done('drain', { book_id: other })
    expect(job.result.certificate).toMatchObject({ book: other, verdict: 'equal' })
    expect((await assign('dan')).status).toBe(200)
    const body = { book_id: other, user_id: 'dan' }
    const refused = await world.call('POST', 'coupons/assign', { as: world.service, body })
    expect(refused.body.code).toBe('intake-stopped')
    const gone = '00000000-0000-4000-8000-000000000000'
    const asked = { as: operator, body: { book_id: gone, reason } }
    expect((await world.call('POST', 'ops/drain', asked)).body.code).toBe('book-not-found')
  })

  test('fails when the ledger does not follow in time, says what it waited for, and leaves intake stopped', async () => {
    const flush = (state: string) =>
      world.call('POST', 'ops/flush', { as: operator, body: { state, reason } })
    await flush('paused')
    await assign('eve')
    // Nor does it help a comparison to be done again and again.
    const compared = await done('reconcile', {})
    expect([compared.state, compared.error]).toEqual([
      'failed',
      expect.stringMatching(/^reconcile failed: shard \d: .*its flush is paused/),
    ])
    const looked = await done(`books/${book}/warm`, {})
    expect(looked.result.ready).toBe(false)
    expect(looked.result.why_not.join()).toMatch(/its codes could not be compared: shard \d/)
    const job = await done('drain', { timeout_seconds: 1 })
    expect(job.state).toBe('failed')
    expect(job.error).toMatch(/^not drained in time, intake stays stopped: .*the flush is paused/)
    expect((await assign('fay')).body.code).toBe('intake-stopped')
    await flush('running')
    await world.call('POST', 'ops/intake', { as: operator, body: { state: 'open', reason } })
    await until(async () => (await assign('fay')).status === 200, 'it serves again')

    // Somebody has seen to both: they are counted no longer, and their errors stay readable.
    const change = (verb: string, job_id: string) =>
      world.call('POST', `ops/jobs/${job_id}/${verb}`, { as: operator, body: { reason } })
    const status = async () => (await world.call('GET', 'ops/status', { as: viewer })).body
    expect((await status()).failed_jobs).toBe(2)
    for (const { job_id, error } of [job, compared])
      expect((await change('cancel', job_id)).body).toMatchObject({ state: 'cancelled', error })
    expect((await status()).failed_jobs).toBe(0)
    const again = await change('cancel', job.job_id)
    expect([again.status, again.body]).toMatchObject([
      ...[409, { code: 'wrong-job-state', state: 'cancelled' }],
    ])
    expect((await change('retry', crypto.randomUUID())).body.code).toBe('job-not-found')
  })
})

test('doctor tells every setting, as the user of Redis that an API is', async () => {
  const { status, body } = await world.call('GET', 'ops/doctor', { as: viewer })
  expect(status).toBe(200)
  expect(body.items.length).toBeGreaterThan(12)
  for (const { verdict, remedy } of body.items) expect(remedy === '').toBe(verdict === 'fine')
  const ofQueue = { of: 'queue', setting: 'maxmemory-policy', value: 'noeviction', verdict: 'fine' }
  expect(body.items).toContainEqual({ ...ofQueue, remedy: '' })
})

test('reconcile: its job holds what the stores do not agree on', async () => {
  await world.level()
  expect((await done('reconcile', {})).result).toMatchObject({ verdict: 'equal', exact: false })
  const { code } = (await assign('gil')).body.coupons[0]
  await world.level()
  await world.database.query("UPDATE coupons SET user_id = 'mallory' WHERE code = $1", [code])
  const exactly = () => done('reconcile', { book_id: book, exact: true })
  expect(await exactly()).toMatchObject({
    ...{ state: 'failed', error: expect.stringMatching(/ and intake is open: drain, or pause/) },
  })
  const intake = (state: string) =>
    world.call('POST', 'ops/intake', { as: operator, body: { state, reason } })
  expect((await intake('stopped')).body.in_force).toBe(true)
  expect((await exactly()).result).toMatchObject({
    ...{ verdict: 'different', totals: { STATE_MISMATCH: 1 } },
    differences: [{ class: 'STATE_MISMATCH', code }],
  })
  await intake('open')
  await world.database.query("UPDATE coupons SET user_id = 'gil' WHERE code = $1", [code])
})

test('replay: its job says what came of every shard', async () => {
  const { code } = (await assign('hal')).body.coupons[0]
  await world.level()
  await world.database.query('DELETE FROM ledger WHERE code = $1', [code])
  const { result } = await done('replay', {})
  expect(result.shards.map(({ applied }: { applied: number }) => applied).sort()).toEqual([0, 1])
})

test('replay of what is no shard, or no entry, is refused; from an entry on it leaves the others', async () => {
  const ask = (body: object) =>
    world.call('POST', 'ops/replay', { as: operator, body: { reason, ...body } })
  expect((await ask({ shard: 40 })).body.code).toBe('shard-not-found')
  expect((await ask({ from: '12' })).status).toBe(422)
  const { result } = await done('replay', { shard: 0, from: '999-1' })
  expect(result.shards).toMatchObject([{ shard: 0, already_there: 0, applied: 0 }])
})

test('rebuild: refuses while the ledger lacks facts, unless they are flushed first', async () => {
  const ask = (body: object) =>
    world.call('POST', 'ops/rebuild', { as: world.admin, body: { reason, ...body } })
  for (const body of [{}, { shard: 0, all: true }]) expect((await ask(body)).status).toBe(422)
  expect((await ask({ shard: 40 })).body.code).toBe('shard-not-found')
  const flush = (state: string) =>
    world.call('POST', 'ops/flush', { as: operator, body: { state, reason } })
  await flush('paused')
  await assign('ira')
  const refused = await done('rebuild', { book_id: book }, world.admin)
  expect(refused).toMatchObject({
    state: 'failed',
    error: expect.stringMatching(/^Redis holds 1 facts that the ledger lacks/),
  })
  const { result } = await done('rebuild', { book_id: book, flush_first: true }, world.admin)
  const [{ shard }] = result.plan
  expect(result).toMatchObject({ plan: [{ lag: 1 }], rebuilt: [{ shard }], late: [] })
  const deeds = await auditRows(world.database, { limit: 1 })
  expect(deeds).toMatchObject([{ action: 'rebuild', target: `shard:${shard}`, reason }])
  await flush('running')
  await until(async () => (await assign('joe')).status === 200, 'it serves again')
  await world.level()
})

test('a job that is done again is the deed of whoever wants it now, who may ask for its kind', async () => {
  const again = (jobId: string, as: string) =>
    world.call('POST', `ops/jobs/${jobId}/retry`, { as, body: { reason: 'once more' } })
  const latest = async (kind: string) =>
    (await auditRows(world.database, { limit: 1_000 })).find(({ action }) => action === kind)!
  const people = {
    rebuild: await world.signUp('admin'),
    ...{ drain: await world.signUp('operator'), replay: await world.signUp('operator') },
  }
  for (const [kind, { id, token }] of Object.entries(people)) {
    const { rows } = await world.database.query<{ job_id: string }>(
      `UPDATE jobs SET state = 'failed' WHERE job_id =
         (SELECT job_id FROM jobs WHERE kind = $1 AND state = 'done' ORDER BY created_at DESC LIMIT 1)
       RETURNING job_id`,
      [kind],
    )
    const jobId = rows[0]!.job_id
    const first = await latest(kind)
    const byOperator = await again(jobId, kind === 'rebuild' ? operator : viewer)
    expect([byOperator.status, byOperator.body.code]).toEqual([403, 'forbidden'])
    expect((await again(jobId, token)).status).toBe(200)
    await until(async () => {
      const { state, error } = (await getJob(world.database, jobId))!
      expect([kind, state, error]).not.toContain('failed')
      return state === 'done'
    }, `${kind} is done again`)
    const deed = await latest(kind)
    expect(deed).toMatchObject({ actor: `user:${id}`, reason: 'once more' })
    expect(deed.audit_id).toBeGreaterThan(first.audit_id)
  }
  // Codes are an administrator's to make.
  const { rows } = await world.database.query(
    `INSERT INTO jobs (job_id, kind, state, created_by)
     VALUES (gen_random_uuid(), 'generate', 'cancelled', 'user:x') RETURNING job_id`,
  )
  expect((await again(rows[0].job_id, operator)).status).toBe(403)
})

describe('a job that somebody else began', () => {
  const ops = () => ({ redis: world.redis, database: world.database })

  test('is done by the next worker when its own was killed', async () => {
    await world.stopWorker()
    const job = await requestJob(ops(), { kind: 'reconcile', exact: false, by })
    if ('problem' in job) throw new Error(job.problem)
    await startJob(world.database, job.job_id)
    await operateOnce(job.job_id, ops())
    expect(await getJob(world.database, job.job_id)).toMatchObject({
      state: 'done',
      result: { verdict: 'equal' },
    })
    await world.startWorker()
  })

  const ask = async (asked: Asked, ago = 0): Promise<string> => {
    const job = await requestJob(ops(), asked)
    if ('problem' in job) throw new Error(job.problem)
    const late = "UPDATE jobs SET asked_at = now() - $2 * interval '1 s' WHERE job_id = $1"
    await world.database.query(late, [job.job_id, ago])
    return job.job_id
  }
  const outcome = async (jobId: string) => {
    await operateOnce(jobId, ops())
    const { state, error } = (await getJob(world.database, jobId))!
    return [state, error]
  }
  const drain = (timeoutMs = 60_000) => ({ kind: 'drain', timeoutMs, by }) as const
  const intake = async () =>
    (await world.database.query('SELECT DISTINCT intake FROM shards')).rows.map((row) => row.intake)

  test('that stops intake stops it once: not again after somebody has resumed, nor long after it was asked for', async () => {
    const resumed = await ask(drain())
    await startJob(world.database, resumed)
    const isOpen = expect.stringMatching(/^no certificate: intake is open: somebody resumed it/)
    expect(await outcome(resumed)).toEqual(['failed', isOpen])
    const late = expect.stringMatching(/^no worker took it up within 60 s, so intake was not stop/)
    expect(await outcome(await ask(drain(), 3_600))).toEqual(['failed', late])
    expect(await intake()).toEqual(['open'])

    // The next worker goes on where intake is stopped still, however late it is.
    await setIntake(ops(), 'stopped', by)
    const killed = await ask(drain(), 100)
    await startJob(world.database, killed)
    expect(await outcome(killed)).toEqual(['done', null])
    await setIntake(ops(), 'open', by)
  })

  test('and that throws, or whose workers die, is not done again for ever', async () => {
    const jobId = await ask({ kind: 'reconcile', exact: false, by })
    const nowhere = `UPDATE jobs SET input = input || '{"book": "nowhere"}' WHERE job_id = $1`
    await world.database.query(nowhere, [jobId])
    await expect(operateOnce(jobId, ops())).rejects.toThrow('There is no book nowhere.')
    expect((await getJob(world.database, jobId))!.state).toBe('running')
    const old = "UPDATE jobs SET state = $2, asked_at = now() - interval '1 day' WHERE job_id = $1"
    await world.database.query(old, [jobId, 'queued'])
    const why = 'reconcile failed: There is no book nowhere.'
    expect(await outcome(jobId)).toEqual(['failed', why])
    await world.database.query(old, [jobId, 'running'])
    const killed = expect.stringMatching(/never came to its end: were its workers killed/)
    expect(await outcome(jobId)).toEqual(['failed', killed])
    // Whoever has it done again asks anew.
    const { asked_at } = (await changeJob(ops(), jobId, 'queued', by)) as Job
    expect(Date.now() - asked_at.getTime()).toBeLessThan(60_000)
    await changeJob(ops(), jobId, 'cancelled', by)
  })

  test('ends where it stands when it is cancelled', async () => {
    await world.stopWorker()
    // Nobody flushes: this drain would wait for its whole hour.
    await assign('ida')
    const asked = { kind: 'drain', timeoutMs: 3_600_000, by } as const
    const job = await requestJob(ops(), asked)
    if ('problem' in job) throw new Error(job.problem)
    const mirror = setInterval(() => void world.house.watchGates(), 100)
    const running = operateOnce(job.job_id, ops())
    await until(
      async () => (await getJob(world.database, job.job_id))!.state === 'running',
      'it runs',
    )
    await changeJob(ops(), job.job_id, 'cancelled', by)
    await running
    clearInterval(mirror)
    expect(await getJob(world.database, job.job_id)).toMatchObject({
      state: 'cancelled',
      result: null,
    })
    await world.startWorker()
    await world.call('POST', 'ops/intake', { as: operator, body: { state: 'open', reason } })
    await until(async () => (await assign('joe')).status === 200, 'it serves again')
  })
})

describe('warm', () => {
  test('looks at every code of a book: ready, or what is missing', async () => {
    const large = await world.makeBook({}, 12)
    await world.level()
    const well = (await done(`books/${large}/warm`, {})).result
    expect(well).toMatchObject({ ready: true, why_not: [], left: 12 })
    expect(well.digest_redis).toBe(well.digest_postgres)
    const { rows } = await world.database.query(
      'SELECT shard, code FROM books JOIN codes USING (book_id) WHERE book_id = $1 LIMIT 1',
      [large],
    )
    const [{ shard, code }] = rows
    await world.redis.srem(keys.stock(shard, large), code)
    await world.redis.sadd(keys.stock(shard, large), 'ANOTHER-ONE')
    // As many as there should be, and not the same.
    const bad = (await done(`books/${large}/warm`, {})).result
    expect(bad.ready).toBe(false)
    expect(bad.why_not).toEqual([expect.stringMatching(/^2 differences between Redis and Postgre/)])
    expect(bad.digest_redis).not.toBe(bad.digest_postgres)
  })
})
