import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { getPriority, setPriority } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { isDeepStrictEqual } from 'node:util'
import { Redis } from 'ioredis'
import pg from 'pg'
import { afterAll, expect, test, vi } from 'vitest'
import { environmentOf } from '../src/config.ts'
import { leash } from '../src/embedded/leash.ts'
import { commandOf, isAlive, readRecord, scratchDir } from '../src/embedded/leftovers.ts'
import { freePort } from '../src/embedded/ports.ts'
import type { Running } from '../src/embedded/running.ts'

/** The real thing: `npm start` without npm, on a directory whose name has a space in it. */
vi.setConfig({ testTimeout: 60_000 }) // each starts and stops everything, some of them twice
const main = fileURLToPath(new URL('../src/embedded/start.ts', import.meta.url))
const command = fileURLToPath(new URL('../src/cli/main.ts', import.meta.url))
const top = scratchDir('start')
const dataDir = join(top, 'my data')
const started: ChildProcess[] = []

interface Start {
  child: ChildProcess
  output(): string
  /** The exit code. */
  exit: Promise<number | null>
}

function start(port = 0): Start {
  const none = { REDIS_URL: '', DATABASE_URL: '', JWT_SECRET: '' }
  const env = environmentOf({ ...none, HOST: '127.0.0.1', PORT: `${port}`, DATA_DIR: dataDir })
  const child = spawn(process.execPath, [main], { env, stdio: ['ignore', 'pipe', 'pipe'] })
  started.push(child)
  leash(child, 'TERM') // a killed test run would leave it serving
  let output = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (text) => (output += text))
  return { child, output: () => output, exit: once(child, 'close').then(([code]) => code) }
}

async function untilReady(one: Start): Promise<Start> {
  const dead = one.exit.then((code) => {
    throw new Error(`exit ${code} before it was ready:\n${one.output()}`)
  })
  const isReady = async () => {
    while (!/^ready .*\n$/m.test(one.output())) await sleep(20)
  }
  await Promise.race([isReady(), dead])
  return one
}

const readRunning = () => JSON.parse(readFileSync(join(dataDir, 'run.json'), 'utf8')) as Running

/** Every process of the installation that is recorded, and whether it is still that process. */
function children(): number[] {
  const records = ['redis', 'postgres', 'run/api', 'run/worker'].map((name) =>
    readRecord(join(dataDir, name)),
  )
  return records.map((found) => found!.pid)
}
const stillRun = (pids: number[]) =>
  pids.filter((pid) => isAlive(pid) && commandOf(pid).includes(dataDir))

async function eventually(what: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await what())) await sleep(50)
}

async function stop(one: Start): Promise<void> {
  one.child.kill('SIGTERM')
  expect(await one.exit).toBe(0)
}

afterAll(async () => {
  for (const child of started.filter(
    ({ exitCode, signalCode }) => exitCode === null && !signalCode,
  )) {
    child.kill('SIGTERM')
    await once(child, 'exit')
  }
  rmSync(top, { recursive: true, force: true })
})

async function json(url: string, init?: RequestInit): Promise<Record<string, unknown>> {
  const response = await fetch(url, init)
  expect(response.status, url).toBe(200)
  return (await response.json()) as Record<string, unknown>
}

async function couponsOfAlice(http: string): Promise<unknown> {
  const login = await json(`${http}/api/v1/auth/login`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ email: 'alice@example.com', password: 'demo123' }),
  })
  const headers = { authorization: `Bearer ${login.access_token}` }
  return (await json(`${http}/api/v1/users/me/coupons`, { headers })).total_count
}

/** From /proc: of a process, and of the session that it has for itself. */
function nicenessOf(pid: number): [number, string] {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
  const own = Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[16])
  const session = readFileSync(`/proc/${pid}/autogroup`, 'utf8')
  return [own, session.trim().split(' ').at(-1)!]
}

function mayTell(pid: number): boolean {
  try {
    setPriority(pid, getPriority(pid))
    writeFileSync(`/proc/${pid}/autogroup`, nicenessOf(pid)[1])
    return true
  } catch {
    return false
  }
}

test('start  serves, names its three URLs, and has demo data', async () => {
  const one = await untilReady(start())
  const running = readRunning()
  expect(running.pid).toBe(one.child.pid)
  expect(statSync(join(dataDir, 'run.json')).mode & 0o777).toBe(0o600)
  expect(one.output().trimEnd().split('\n').at(-1)).toBe(`ready ${running.http}`)
  await json(`${running.http}/readyz`)
  expect(await couponsOfAlice(running.http)).toBe(3)

  const redis = new Redis(running.redis)
  expect(await redis.config('GET', 'maxmemory-policy')).toContain('noeviction')
  await redis.set('survives', 'a restart')
  redis.disconnect()
  const postgres = new pg.Client({ connectionString: running.postgres })
  await postgres.connect()
  expect((await postgres.query('SELECT count(*)::int AS n FROM shards')).rows[0].n).toBeGreaterThan(
    0,
  )
  await postgres.end()
  if (existsSync('/proc/self/autogroup')) {
    const [redis, postgres, api, worker] = children() as [number, number, number, number]
    for (const pid of [redis, api]) expect(nicenessOf(pid)[0]).toBe(nicenessOf(process.pid)[0])
    // Whoever buys at `redis` level does not wait for these. In a container root may not tell other users'.
    for (const pid of [postgres, worker])
      await eventually(() => isDeepStrictEqual(nicenessOf(pid), [5, '5']) || !mayTell(pid))
  }

  // The operators' command finds this installation by its run.json.
  const env = environmentOf({ REDIS_URL: '', DATABASE_URL: '', DATA_DIR: dataDir })
  const verb = spawn(process.execPath, [command, 'status', '--json'], { env })
  let said = ''
  verb.stdout.on('data', (text) => (said += text))
  const [code] = await once(verb, 'close')
  expect([code, JSON.parse(said).problems]).toEqual([0, []])
  await stop(one)
})

test('start  keeps its data over a restart and makes the demo once', async () => {
  const one = await untilReady(start())
  const { http, redis: url } = readRunning()
  const redis = new Redis(url)
  expect(await redis.get('survives')).toBe('a restart')
  redis.disconnect()
  expect(await couponsOfAlice(http)).toBe(3)
  await stop(one)
})

test('start  refuses a directory that another one has, and says where that one is', async () => {
  const one = await untilReady(start())
  const second = start()
  expect(await second.exit).toBe(1)
  expect(second.output()).toContain(
    `already running at ${readRunning().http}, pid ${one.child.pid}`,
  )
  await stop(one)
})

test('start  stops within ten seconds and leaves no process and no run.json', async () => {
  const one = await untilReady(start())
  const pids = children()
  const before = performance.now()
  await stop(one)
  expect(performance.now() - before).toBeLessThan(10_000)
  expect(stillRun(pids)).toEqual([])
  expect(() => readRunning()).toThrow('ENOENT')
})

test('start  brings back whatever dies', async () => {
  const one = await untilReady(start())
  const { http } = readRunning()
  for (const pid of children()) process.kill(pid, 'SIGKILL')
  const names = ['redis', 'postgres', 'api', 'worker']
  await eventually(() => names.every((name) => one.output().includes(`${name} runs again`)))
  await eventually(() =>
    fetch(`${http}/readyz`).then(
      ({ ok }) => ok,
      () => false,
    ),
  )
  expect(await couponsOfAlice(http)).toBe(3)
  await stop(one)
})

test('start  ends what a killed one left before it starts anew', async () => {
  const one = await untilReady(start())
  const left = children()
  one.child.kill('SIGKILL')
  await one.exit
  const next = await untilReady(start())
  expect(stillRun(left)).toEqual([])
  expect(await couponsOfAlice(readRunning().http)).toBe(3)
  await stop(next)
})

test('start  stops everything when it is told to while starting', async () => {
  const one = start()
  await eventually(() => one.output().includes('postgres'))
  const dirs = ['redis', 'postgres'].map((name) => join(dataDir, name))
  const pids = dirs.map((dir) => readRecord(dir)!.pid)
  await stop(one)
  expect(stillRun(pids)).toEqual([])
})

test('start  says who may have the port when it is taken', async () => {
  const port = await freePort()
  const other = createServer().listen(port, '127.0.0.1')
  await once(other, 'listening')
  const one = start(port)
  expect(await one.exit).toBe(1)
  expect(one.output()).toMatch(
    new RegExp(`port ${port} is taken; (\\d+) is free: PORT=\\1 npm start`),
  )
  other.close()
})
