import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { describe, expect, test } from 'vitest'
import { environmentOf } from '../src/config.ts'
import { keys } from '../src/store/keys.ts'
import { aSale, book, held, shard, sql, world } from './sale.ts'
import { main, stampede } from './stampede.ts'
import { makeWire } from './wire.ts'
import { until } from './world.ts'

/** The command, as an operator types it. */
aSale()

describe('stampede reconcile', () => {
  /** Redis has an entry that the ledger has not. */
  async function runAhead() {
    for (const field of ['n', 'facts']) await world.redis.hincrby(keys.meta(shard), field, 1)
  }
  async function stopIntake() {
    await sql("UPDATE shards SET intake = 'stopped'")
    await world.redis.hset(keys.meta(shard), 'intake', 'stopped')
  }
  const compare = (...args: string[]) => stampede(world, 'reconcile', ...args)

  test('says that both stores are equal, and ends with 0', async () => {
    await stopIntake()
    for (const args of [[], ['--exact'], ['--book', book]]) {
      const { code, out, err } = await compare(...args)
      expect([code, err]).toEqual([0, ''])
      const books = args.includes('--book') ? '1 book, 32 codes, 10' : '2 books, 35 codes, 12'
      expect(out).toMatch(new RegExp(`^2\\S+Z equal: ${books} coupons, \\d+\\.\\d s\n$`))
    }
  })

  test('lists differences by class with both sides, fifty at most, and ends with 3', async () => {
    await stopIntake()
    await sql("UPDATE coupons SET user_id = 'mallory' WHERE code = $1", held[0])
    const codes = Array.from({ length: 60 }, (_, c) => `MADE-UP-${c}`)
    await world.redis.sadd(keys.stock(shard, book), ...codes)
    const { code, out } = await compare('--exact')
    expect(code).toBe(3)
    const lines = out.trimEnd().split('\n')
    expect(lines[0]).toMatch(/ different: 2 books/)
    expect(lines[2]).toBe('STATE_MISMATCH (1)')
    expect(lines[3]).toBe(
      `  shard 0  book ${book}  CODE-00  coupons differs from Redis and the ledger`,
    )
    expect(lines[4]).toMatch(/^ {4}redis \{.*"user_id":"u0".*\} {2}postgres \{.*mallory.*u0.*\}$/)
    expect(lines[6]).toBe('STOCK_MISMATCH (60)')
    expect(lines.filter((line) => line.startsWith('  shard'))).toHaveLength(50)
    expect(lines.at(-1)).toBe('11 more: --json lists a thousand')
    const { code: again, out: json } = await compare('--exact', '--json')
    expect([again, JSON.parse(json)]).toMatchObject([3, { verdict: 'different', exact: true }])
    expect(JSON.parse(json).differences).toHaveLength(61)
  })

  test('refuses --exact while something may be written, and ends with 1', async () => {
    const open = await compare('--exact')
    expect([open.code, open.out]).toEqual([1, ''])
    expect(open.err).toMatch(/stand still .* and intake is open: drain, or pause --intake, and ask/)
    await runAhead()
    await stopIntake()
    const ahead = await compare('--exact')
    expect([ahead.code, ahead.err]).toEqual([
      ...[1, expect.stringMatching(/ and shard 0: 1 facts wait for the ledger: drain, /)],
    ])
  })

  test('ends with 4 where the ledger does not follow', async () => {
    await runAhead()
    await sql("UPDATE shards SET flush = 'paused'")
    const { code, out, err } = await compare()
    expect([code, out]).toEqual([4, ''])
    expect(err).toMatch(/^shard 0: Redis is at entry .* its flush is paused\n$/)
  })

  test('goes on comparing with --watch, whatever is away meanwhile', async () => {
    const wire = await makeWire(world.settings.REDIS_URL)
    const env = environmentOf({ REDIS_URL: wire.url, DATABASE_URL: world.settings.DATABASE_URL })
    const child = spawn(process.execPath, [main, 'reconcile', '--watch', '1'], {
      env: env as NodeJS.ProcessEnv,
    })
    let [out, err] = ['', '']
    child.stdout.on('data', (some) => (out += some))
    child.stderr.on('data', (some) => (err += some))
    await until(() => / equal: /.test(out), 'it has looked once')
    wire.set('cut')
    await until(() => /^Redis does not answer: /m.test(err), 'it says that Redis is away')
    wire.set('up')
    world.wire.set('cut')
    await until(() => /^PostgreSQL does not answer: /m.test(err), 'it says that PostgreSQL is away')
    world.wire.set('up')
    await world.redis.hincrby(keys.users(shard, book), 'u0', 3)
    await until(() => / different: .*\n\nCOUNTER_MISMATCH/s.test(out), 'it has looked again')
    child.kill()
    await once(child, 'close')
    wire.close()
  })

  test('refuses what it cannot read with 2', async () => {
    for (const args of [
      ['--book', 'x'],
      ['--watch', '0'],
    ])
      expect((await compare(...args)).code).toBe(2)
    expect((await compare('--help')).out).toMatch(/^Example:\n {2}\$ npm run stampede -- reconcile/)
  })
})
