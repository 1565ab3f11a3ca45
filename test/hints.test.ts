import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, test } from 'vitest'
import { Place } from '../src/store/place.ts'
import { Watermarks } from '../src/store/watermark.ts'
import { openProxy, type Wire } from './chaos/proxy.ts'
import { openWorld, until, type World } from './world.ts'

/** The announcements of what PostgreSQL has, over a connection that breaks when it likes. */
let world: World
let wire: Wire
let place: Place
let hints: Watermarks
const heard: number[] = []
const replyMs = 100

beforeAll(async () => {
  world = await openWorld({ shards: 1 })
  wire = await openProxy(Number(new URL(world.settings.REDIS_URL).port))
  place = new Place(`redis://127.0.0.1:${wire.port}`, 1, 'test', 'a test')
  hints = new Watermarks(
    place,
    () => [],
    (_, __, n) => heard.push(n),
  )
})
afterAll(async () => {
  hints.close()
  place.close()
  wire.close()
  await world.close()
})

const listeners = async () => {
  const [, count] = (await world.redis.call('PUBSUB', 'NUMSUB', 'stampede:flushed:a test')) as [
    string,
    number,
  ]
  return count
}

test('a connection that breaks while it subscribes again ends nothing, and is made again', async () => {
  await until(async () => (await listeners()) === 1, 'it listens')
  for (let time = 0; time < 3; time++) {
    // Redis has heard SUBSCRIBE, and its answer is on its way: vitest fails on what nobody catches.
    wire.delay(replyMs)
    wire.cut()
    await until(async () => (await listeners()) === 0, 'nobody listens')
    await until(async () => (await listeners()) === 1, 'it listens again')
    wire.cut()
    await sleep(replyMs)
  }
  wire.delay(0)
  wire.cut()
  await until(async () => (await listeners()) === 1, 'it listens at last')
  await world.redis.publish('stampede:flushed:a test', '0 1 77')
  await until(() => heard.includes(77), 'it hears')
})

test('what was away when the process started is listened to once it is there', async () => {
  wire.cut({ refuse: true })
  const late = new Place(`redis://127.0.0.1:${wire.port}`, 1, 'test', 'another')
  const told: number[] = []
  const its = new Watermarks(
    late,
    () => [],
    (_, __, n) => told.push(n),
  )
  await sleep(100)
  wire.cut()
  const tell = () => world.redis.publish('stampede:flushed:another', '0 1 78')
  await until(async () => (await tell()) === 1, 'somebody listens')
  await until(() => told.includes(78), 'it hears')
  its.close()
  late.close()
})
