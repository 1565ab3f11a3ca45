import { once } from 'node:events'
import { rmSync } from 'node:fs'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import pino from 'pino'
import { expect, type TestContext, test } from 'vitest'
import { startRedis } from '../src/embedded/redis.ts'
import { openHouse } from '../src/house.ts'
import type { Problem } from '../src/problems.ts'
import { openQueues } from '../src/queues.ts'
import { keys } from '../src/store/keys.ts'
import { audit } from './audit.ts'
import { type Act, placeOf, plain, word } from './client.ts'
import { openWorld, until, type World } from './world.ts'

const nothing = /^\b$/
const everything = /^/
/** Replies of coupon verbs; looks at the shards get theirs. */
const decisions = /^done\t/m

/**
 * A wire to Redis on which every command arrives, and replies that `swallows` fits are lost: with all
 * that would follow on that connection, for a stream has no holes. Commands that `delays` fits, and
 * what follows, are on their way until `arrive`, whatever becomes of whoever sent them.
 */
async function makeWire(target: string) {
  const { hostname, port } = new URL(target)
  const sockets = new Set<Socket>()
  const late: (() => void)[] = []
  const holds = () => late.length > 0
  const wire = { url: '', swallows: nothing, delays: nothing, holds, arrive, close }
  const server = createServer((near) => {
    const far = connect(Number(port), hostname)
    let slow = false
    near.on('data', (chunk) => {
      slow ||= wire.delays.test(chunk.toString())
      if (slow) late.push(() => far.write(chunk))
      else far.write(chunk)
    })
    let silent = false
    far.on('data', (chunk) => {
      silent ||= wire.swallows.test(chunk.toString())
      if (!silent) near.write(chunk)
    })
    for (const [one, other] of [
      [near, far],
      [far, near],
    ] as const) {
      sockets.add(one)
      one.on('error', () => {})
      one.on('close', () => (one === near && slow) || other.destroy())
    }
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  wire.url = `redis://127.0.0.1:${(server.address() as AddressInfo).port}`
  function arrive() {
    for (const write of late.splice(0)) write()
  }
  function close() {
    for (const socket of sockets) socket.destroy()
    server.close()
  }
  return wire
}

/** A world, and beside it an API process that speaks with Redis over such a wire. */
async function open({ onTestFinished }: TestContext) {
  const world = await openWorld({ shards: 1 })
  const wire = await makeWire(world.redisServer.url)
  const queues = openQueues(world.redisServer.url)
  const settings = { ...world.settings, REDIS_URL: wire.url }
  const house = await openHouse(settings, queues, pino({ level: 'fatal' }))
  const gate = house.place.gates[0]!
  const serves = () => until(async () => (await house.openGates()) === 0, 'it serves')
  await serves()
  onTestFinished(async () => {
    await queues.close()
    await house.close()
    wire.close()
    await world.close()
  })
  const book = await world.makeBook({}, 9)
  const place = await placeOf(world, book)
  const assign = (user: string) =>
    house.deps.store.assign(place, { ...plain, user, count: '1', codes: '' })
  const entries = async () => Number(await world.redis.hget(keys.meta(0), 'n'))
  return { world, wire, house, gate, serves, book, assign, entries }
}

test.concurrent('lost reply  a refusal of the second copy is not undone by the first one, which arrives late', async (context) => {
  const { world, wire, gate, serves, assign, book, entries } = await open(context)
  const buy = (user: string, count: number) =>
    world.call('POST', 'coupons/assign', {
      as: world.service,
      body: { book_id: book, user_id: user, count },
    })
  wire.delays = /ann/
  const asked = assign('ann')
  await until(() => !gate.open, 'the connection was given up')
  const sold = await buy('ben', 9)
  wire.delays = nothing
  await serves()
  expect(word(await asked)).toBe('sold-out')
  const { code } = sold.body.coupons[0]
  await world.call('POST', `coupons/release/${code}`, { as: world.admin })
  const before = await entries()
  wire.arrive()
  await sleep(200)
  expect(await entries()).toBe(before)
  expect((await buy('cyd', 1)).status).toBe(200)
})

const unknown = (book: string, user: string): Act => ({
  ...{
    verb: 'assign',
    book,
    user,
    outcome: 'unknown',
    codes: [],
    requestId: null,
    fact: undefined,
  },
})

test.concurrent('lost reply  is asked for again under the same id, and nothing happens twice', async (context) => {
  const { world, wire, gate, serves, book, assign, entries } = await open(context)
  const before = await entries()
  wire.swallows = everything
  const asked = [assign('ann'), assign('ben')]
  await until(async () => (await entries()) > before, 'Redis has decided')
  await until(() => !gate.open, 'the connection was given up')
  wire.swallows = nothing
  await serves()
  const outcomes = await Promise.all(asked)
  expect(outcomes.map(word)).toEqual(['done', 'done'])
  expect(await entries()).toBe(before + 1)
  const history = outcomes.map((outcome, i): Act => {
    if (!outcome.ok) throw new Error(outcome.problem)
    const user = ['ann', 'ben'][i]
    const codes = outcome.value.map(({ code }) => code)
    const { fact } = outcome
    return { verb: 'assign', book, user, outcome: 'done', codes, requestId: 'test', fact }
  })
  await audit(world, { book, history })
})

test.concurrent('lost reply  that nobody can ask for again leaves the outcome unknown, and says so', async (context) => {
  const { world, wire, serves, book, assign, entries } = await open(context)
  const before = await entries()
  wire.swallows = everything
  const outcome = await assign('ann')
  expect(outcome).toMatchObject({ ok: false, problem: 'outcome-unknown', retryAfter: 1 })
  expect(await entries()).toBe(before + 1)
  expect(word(await assign('ben'))).toBe('not-ready')
  wire.swallows = nothing
  await serves()
  await audit(world, { book, history: [unknown(book, 'ann')] })
})

test.concurrent('lost reply  that is lost again leaves the outcome unknown', async (context) => {
  const { world, wire, serves, book, assign, entries } = await open(context)
  const before = await entries()
  wire.swallows = decisions
  const asked = assign('ann')
  await until(async () => (await entries()) > before, 'Redis has decided')
  const opened = setInterval(() => void serves().catch(() => {}), 100)
  expect(word(await asked)).toBe('outcome-unknown')
  clearInterval(opened)
  expect(await entries()).toBe(before + 1)
  wire.swallows = nothing
  await serves()
  await audit(world, { book, history: [unknown(book, 'ann')] })
})

/** kill -9 of Redis, and what serves in its place once `change` has been done to its files. */
async function restart({ onTestFinished }: TestContext, world: World, change = (_: string) => {}) {
  const { redis, redisServer } = world
  redis.on('error', () => {})
  const [, dir] = (await redis.config('GET', 'dir')) as [string, string]
  process.kill(redisServer.pid, 'SIGKILL')
  const lives = () => process.kill(redisServer.pid, 0)
  await until(
    async () =>
      Promise.resolve()
        .then(lives)
        .then(
          () => false,
          () => true,
        ),
    'Redis is gone',
  )
  change(dir)
  const again = await startRedis({ dir, port: redisServer.port, durable: true })
  onTestFinished(() => again.stop())
}

test.concurrent('lost reply  of a Redis that was restarted is asked for again under the new epoch', async (context) => {
  const { world, wire, gate, serves, book, assign, entries } = await open(context)
  const before = await entries()
  wire.swallows = decisions
  const early = assign('ann')
  await until(async () => (await entries()) > before, 'Redis has decided')
  wire.delays = /ben/
  const late = assign('ben')
  await until(() => wire.holds(), 'the other one is on its way')
  wire.swallows = nothing
  wire.delays = nothing
  await restart(context, world)
  await serves()
  const outcomes = await Promise.all([early, late])
  expect(outcomes.map(word)).toEqual(['done', 'done'])
  const history = outcomes.map((outcome, i): Act => {
    if (!outcome.ok) throw new Error(outcome.problem)
    const codes = outcome.value.map(({ code }) => code)
    const common = { verb: 'assign', book, outcome: 'done', requestId: 'test' } as const
    return { ...common, user: ['ann', 'ben'][i], codes, fact: outcome.fact }
  })
  // The first one had been done before, the other one never arrived.
  expect(history.map(({ fact }) => fact!.epoch)).toEqual([gate.epoch - 1, gate.epoch])
  await audit(world, { book, history })
})

test.concurrent('lost reply  of a Redis that forgot everything is not asked for again', async (context) => {
  const { world, wire, serves, book, assign, entries } = await open(context)
  const before = await entries()
  wire.swallows = decisions
  const asked = assign('ann')
  await until(async () => (await entries()) > before, 'Redis has decided')
  await world.level()
  wire.swallows = nothing
  await restart(context, world, (dir) => rmSync(`${dir}/appendonlydir`, { recursive: true }))
  await serves()
  expect(word(await asked)).toBe('outcome-unknown')
  await audit(world, { book, history: [unknown(book, 'ann')] })
})

test.concurrent('lost reply  that is waited for keeps nobody waiting who has not been sent yet', async (context) => {
  const { wire, gate, assign } = await open(context)
  wire.swallows = decisions
  let answered = 0
  const asked: Promise<unknown>[] = []
  for (let call = 0; call < 4; call++) {
    asked.push(assign('ann').then(() => answered++))
    // A call of its own: what is asked in one tick goes together.
    await new Promise(setImmediate)
    await new Promise(setImmediate)
  }
  expect(word(await assign('ben'))).toBe('not-ready')
  expect([gate.open, answered]).toEqual([false, 0])
  await Promise.all(asked)
})

test.concurrent('lost reply  of a connection cut before anything was sent is a plain no', async (context) => {
  const { world, wire, gate, book, assign, entries } = await open(context)
  const before = await entries()
  wire.close()
  await until(() => !gate.open, 'the gate is shut')
  expect(word(await assign('ann'))).toBe('not-ready')
  await sleep(50)
  expect(await entries()).toBe(before)
  await audit(world, { book, history: [] })
})

// An unheard rejection would end the process: every one of its questions must be listened to.
test.concurrent('lost reply  of a read is a plain no, however many questions it asked', async (context) => {
  const { house, gate, serves } = await open(context)
  house.place.redis.stream.destroy()
  expect(gate.open).toBe(true) // it has not been told yet
  expect(word((await house.deps.durable.barrier()) as Problem)).toBe('not-ready')
  await serves()
})
