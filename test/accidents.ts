import { setTimeout as sleep } from 'node:timers/promises'
import type { openProcesses } from './processes.ts'
import { until } from './world.ts'

type Town = Awaited<ReturnType<typeof openProcesses>>
/** What the processes say while things die under them is no news. */
const quiet = { LOG_LEVEL: 'fatal' }
/** How long a verb waits for the ledger while no worker lives; then it is answered 202. */
const waits = { DURABILITY_WAIT_MS: '250' }

/**
 * Any number of works at once, or accidents alone: nobody's request is under way then, so that no
 * outcome is unknown. Works that come later wait; accidents that do happen together.
 */
function openTurns() {
  let works = 0
  const accidents: (() => Promise<void>)[] = []
  let pause: Promise<void> | undefined
  async function happenTogether(): Promise<void> {
    while (works > 0) await sleep(1)
    for (let next = accidents.shift(); next; next = accidents.shift()) await next()
    pause = undefined
  }
  return {
    async among<T>(work: () => Promise<T>): Promise<T> {
      while (pause) await pause
      works++
      try {
        return await work()
      } finally {
        works--
      }
    },
    alone(happen: () => Promise<void>): Promise<void> {
      accidents.push(happen)
      pause ??= happenTogether()
      return pause
    },
  }
}

/**
 * API and worker, and what may happen to them and to their Redis, at a price that many sequences can
 * pay: other API processes run already when one is killed. Nobody stands in for the worker.
 */
export async function openAccidents(town: Town) {
  const startApi = () => town.startApi({ ...quiet, ...waits })
  const startWorker = () => town.startWorker(quiet)
  let worker = startWorker()
  let api = await startApi()
  const spares = [startApi(), startApi()]
  const turns = openTurns()
  const happened = { api: 0, worker: 0, redis: 0 }
  const serves = () =>
    until(async () => (await fetch(`${api.base}/readyz`)).ok, 'the API serves', 20_000)
  const accident = (what: keyof typeof happened, happen: () => Promise<void>) => () =>
    turns.alone(async () => {
      happened[what]++
      await happen()
      await serves()
    })

  return {
    base: () => api.base,
    happened,
    count: () => happened.api + happened.worker + happened.redis,
    undisturbed: turns.among,
    crashApi: accident('api', async () => {
      await api.kill()
      api = await spares.shift()!
      spares.push(startApi())
    }),
    crashWorker: accident('worker', async () => {
      await worker.kill()
      worker = startWorker()
    }),
    restartRedis: accident('redis', () => town.restartRedis()),
    /** Before the town closes: an API process that starts would wait for it in vain. */
    settled: async () => void (await Promise.all(spares)),
  }
}
