import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { environmentOf } from '../src/config.ts'
import { auditRows } from '../src/ledger/audit.ts'
import { keys } from '../src/store/keys.ts'
import { openWorld, until, type World } from './world.ts'

/** A PostgreSQL that was restored from an older copy, as an operator meets it. */
let world: World
let book: string
beforeEach(async () => {
  world = await openWorld({ shards: 2 })
  book = await world.makeBook({}, 20)
})
afterEach(() => world.close())

const why = ['--reason', 'no newer backup']
const main = fileURLToPath(new URL('../src/cli/main.ts', import.meta.url))
async function acceptLoss(...options: string[]) {
  const { REDIS_URL, DATABASE_URL } = world.settings
  const env = environmentOf({ REDIS_URL, DATABASE_URL }) as NodeJS.ProcessEnv
  const child = spawn(process.execPath, [main, 'accept-loss', ...options], { env })
  let out = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (some) => (out += some))
  const [code] = await once(child, 'close')
  return { code, out }
}

const assign = (user: string) =>
  world.call('POST', 'coupons/assign', {
    as: world.service,
    body: { book_id: book, user_id: user },
    headers: { durability: 'postgres' },
  })
const shardOf = async () => {
  const { rows } = await world.database.query('SELECT shard FROM books WHERE book_id = $1', [book])
  return rows[0].shard as number
}

/** As if a backup had been restored that was made before the last two answers. */
async function forget(): Promise<{ shard: number; codes: string[] }> {
  await assign('before')
  await world.level()
  const shard = await shardOf()
  const copy = (await world.database.query('SELECT * FROM shards WHERE shard = $1', [shard]))
    .rows[0]
  const codes = [await assign('u1'), await assign('u2')].map(({ body }) => body.coupons[0].code)
  await world.level()
  await world.stopWorker()
  await world.database.query(
    `UPDATE shards SET checkpoint = $2, checkpoint_hash = $3, facts = $4 WHERE shard = $1`,
    [shard, copy.checkpoint, copy.checkpoint_hash, copy.facts],
  )
  await world.database.query('DELETE FROM ledger WHERE shard = $1 AND n > $2', [
    shard,
    copy.checkpoint,
  ])
  await world.database.query('DELETE FROM coupons WHERE code = ANY($1)', [codes])
  await world.database.query('UPDATE book_counters SET held = held - 2 WHERE book_id = $1', [book])
  return { shard, codes }
}
async function refusesToServe() {
  await world.redis.call('SCRIPT', 'FLUSH')
  await assign('u3')
  await world.startWorker()
  const reason = async () => (await world.call('GET', '/readyz')).body.reason ?? ''
  await until(async () => /old backup.*accept-loss/.test(await reason()), 'it says why')
}

test('accept-loss  says so when nothing is lacking, and changes nothing', async () => {
  await assign('u1')
  await world.level()
  const said = await acceptLoss('--yes', ...why)
  expect(said).toEqual({ code: 0, out: 'PostgreSQL lacks nothing that Redis knows of.\n' })
  const bare = await acceptLoss('--yes')
  expect([bare.code, bare.out]).toEqual([2, expect.stringMatching(/--yes needs --reason TEXT/)])
  const { rows } = await world.database.query('SELECT 1 FROM shards WHERE loss_accepted')
  expect(rows).toEqual([])
})

test('accept-loss  shows what is lacking, waits for --yes, and what the journal has comes back', async () => {
  const { shard, codes } = await forget()
  await refusesToServe()
  const shown = await acceptLoss()
  expect(shown.code).toBe(3)
  expect(shown.out).toMatch(new RegExp(`^shard ${shard}: PostgreSQL has 1 facts .* 2 facts are`))
  expect(shown.out).toMatch(/journal still has 2 entries/)
  expect(shown.out).toMatch(/Nothing was changed/)
  const other = await acceptLoss('--shard', `${1 - shard}`, '--yes', ...why)
  expect(other.out).toMatch(/lacks nothing/)
  const done = await acceptLoss('--shard', `${shard}`, '--yes', ...why)
  expect([done.code, done.out.split('\n').at(-2)]).toEqual([
    0,
    expect.stringMatching(/^The loss is accepted/),
  ])
  const [deed] = await auditRows(world.database, { limit: 1 })
  expect(deed).toMatchObject({ target: `shard:${shard}`, reason: 'no newer backup' })
  await world.ready()
  for (const code of codes) {
    const shownNow = await world.call('GET', `coupons/${code}`, { as: world.admin })
    expect(shownNow.body.state).toBe('ASSIGNED')
  }
  expect((await assign('u4')).status).toBe(200)
})

test('accept-loss  goes on with what PostgreSQL has where the journal is gone', async () => {
  const { shard, codes } = await forget()
  await world.redis.xtrim(keys.journal(shard), 'MAXLEN', 1)
  await refusesToServe()
  const { code, out } = await acceptLoss('--json')
  expect(code).toBe(3)
  expect(JSON.parse(out)).toMatchObject({ accepted: false, losses: [{ shard, retained: 0 }] })
  expect((await acceptLoss('--yes', ...why)).out).toMatch(/codes may be given away again/)
  await world.ready()
  for (const one of codes) {
    const shown = await world.call('GET', `coupons/${one}`, { as: world.admin })
    expect(shown.body.state).toBe('UNASSIGNED')
  }
})

test('accept-loss  over HTTP shows what is lacking to whoever looks, and is an administrator to do', async () => {
  const { shard } = await forget()
  await refusesToServe()
  const viewer = (await world.signUp('viewer')).token
  const shown = await world.call('GET', 'ops/accept-loss', { as: viewer })
  expect(shown.body).toMatchObject({ losses: [{ shard, retained: 2, postgres: { facts: 1 } }] })
  const other = await world.call('GET', `ops/accept-loss?shard=${1 - shard}`, { as: viewer })
  expect(other.body).toEqual({ losses: [] })
  const body = { shard, reason: 'no newer backup' }
  expect((await world.call('POST', 'ops/accept-loss', { as: viewer, body })).status).toBe(403)
  const done = await world.call('POST', 'ops/accept-loss', { as: world.admin, body })
  expect(done.body).toMatchObject({ accepted: true, losses: [{ shard }] })
  const [deed] = await auditRows(world.database, { limit: 1 })
  expect(deed).toMatchObject({
    ...{ actor: `user:${world.adminId}`, action: 'accept-loss', target: `shard:${shard}` },
    reason: 'no newer backup',
  })
  await world.ready()
  const none = { ...body, shard: 63 }
  const missing = await world.call('POST', 'ops/accept-loss', { as: world.admin, body: none })
  expect(missing.body.code).toBe('shard-not-found')
  const level = await world.call('POST', 'ops/accept-loss', { as: world.admin, body })
  expect(level.body).toEqual({ accepted: false, losses: [] })
})

test('accept-loss  names a shard that there is not', async () => {
  expect(await acceptLoss('--shard', '63')).toEqual({ code: 1, out: 'There is no shard 63.\n' })
})
