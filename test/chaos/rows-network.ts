import { setTimeout as sleep } from 'node:timers/promises'
import type { Wire } from './proxy.ts'
import type { Row, Scene } from './row.ts'

const proxied = { proxied: true }
const wires = ({ town }: Scene) => town.proxies!

/** Replies lost one after the other, many times: the script ran, and nobody was told. */
const swallowed: Row = {
  name: 'replies-swallowed',
  what: 'replies of Redis to the API swallowed and the connection cut, twice a second, until 100,000 operations were carried out meanwhile; every answer within 3 s',
  town: proxied,
  // So many operations give more codes away than other rows have.
  codes: 200_000,
  withinMs: 3_000,
  async fault(scene) {
    const { redis } = wires(scene)
    const { counts, perSecond } = scene.load
    // What was refused or never sent executed nothing; what is unknown may have, and is in doubt once.
    const executed = () => counts.done + counts.unknown
    const before = executed()
    const wanted = perSecond < 2_000 ? 3_000 : 100_000
    const begun = Date.now()
    while (executed() - before < wanted && Date.now() - begun < 240_000) {
      redis.swallowReply('EVALSHA')
      await sleep(400 + 200 * scene.random())
    }
    const operations = executed() - before
    const seconds = Math.round((Date.now() - begun) / 1000)
    const wrong = redis.swallowed() > 0 ? [] : ['no reply was swallowed']
    if (operations < wanted) wrong.push(`only ${operations} operations in ${seconds} s`)
    const detail = `${redis.swallowed()} replies in ${operations} operations, ${seconds} s`
    return { since: Date.now(), wrong, detail }
  },
}

const commitsSwallowed: Row = {
  name: 'commits-swallowed',
  what: 'replies of PostgreSQL to COMMIT swallowed and the connection cut, 40 times',
  town: proxied,
  async fault(scene) {
    const { postgres } = wires(scene)
    for (let k = 0; k < 40; k++) {
      postgres.swallowReply('COMMIT')
      await sleep(150 + 100 * scene.random())
    }
    const wrong = postgres.swallowed() > 0 ? [] : ['no reply was swallowed']
    return { since: Date.now(), wrong, detail: `${postgres.swallowed()} replies` }
  },
}

/**
 * A fault of a wire, between API and Redis in even runs, between worker and PostgreSQL in odd ones: any
 * two runs in a row, whatever number they begin at, break both.
 */
function wireRow(name: string, what: string, fault: (wire: Wire) => Promise<number>): Row {
  return {
    ...{
      name,
      what: `${what}, between API and Redis or worker and PostgreSQL: 2 variants, in turn`,
      town: proxied,
    },
    async fault(scene) {
      const which = scene.run % 2 === 0 ? 'redis' : 'postgres'
      if (wires(scene)[which].links() === 0)
        throw new Error(`nobody speaks over the wire to ${which}`)
      return { since: await fault(wires(scene)[which]), detail: which }
    },
  }
}

const blackhole = wireRow(
  'blackhole',
  'nothing passes for 5 s, then all of it, late',
  async (wire) => {
    wire.blackhole()
    await sleep(5_000)
    wire.heal()
    return Date.now()
  },
)

const halfOpen = wireRow('half-open', 'the connections there go silent for good', async (wire) => {
  wire.halfOpen()
  return Date.now()
})

const cut = wireRow('cut', 'reset every 300 ms, ten times, then refused for 2 s', async (wire) => {
  for (let k = 0; k < 10; k++) {
    wire.cut()
    await sleep(300)
  }
  wire.cut({ refuse: true })
  await sleep(2_000)
  wire.heal()
  return Date.now()
})

const delay = wireRow('delay', 'every packet 400 ms late for 4 s', async (wire) => {
  wire.delay(400)
  await sleep(4_000)
  wire.heal()
  return Date.now()
})

export const networkRows = [swallowed, commitsSwallowed, blackhole, halfOpen, cut, delay]
