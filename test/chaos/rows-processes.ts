import { setTimeout as sleep } from 'node:timers/promises'
import { keys } from '../../src/store/keys.ts'
import { type Failpoint, failpointOf, reached, revive, variantsOf } from './failpoints.ts'
import type { Row, Scene } from './row.ts'
import { until } from './town.ts'

const apiKills: Row = {
  name: 'api-kill',
  what: 'kill -9 of an API every 2 s, in turn',
  async fault({ town }) {
    let since = Date.now()
    for (let k = 0; k < 4; k++) {
      const api = town.apis[k % 2]!
      since = Date.now()
      await api.kill()
      await sleep(500)
      api.start()
      await sleep(1_500)
    }
    return { since }
  },
}

const workerKill: Row = {
  name: 'worker-kill',
  what: 'kill -9 of one worker and then of the other; lag below 1 s within 5 s of each',
  async fault({ town }) {
    const wrong: string[] = []
    let since = Date.now()
    for (const worker of town.workers) {
      since = Date.now()
      await worker.kill()
      const caughtUp = await fallsBelow(town, 1_000, 5_000)
      if (!caughtUp) wrong.push(`5 s after the kill of ${worker.name} the lag was over 1 s`)
      worker.start()
      await sleep(1_500)
    }
    return { since, wrong }
  },
}

/** Whether facts as old as `ageMs` are all in the ledger, `withinMs` from now. */
async function fallsBelow(
  { redis, database, shards }: Scene['town'],
  ageMs: number,
  withinMs: number,
): Promise<boolean> {
  const heads = async () =>
    Promise.all(
      Array.from({ length: shards }, async (_, s) => Number(await redis.hget(`{s${s}}:meta`, 'n'))),
    )
  await sleep(withinMs - ageMs)
  const before = await heads()
  await sleep(ageMs)
  const { rows } = await database.query<{ checkpoint: number }>(
    'SELECT checkpoint FROM shards ORDER BY shard',
  )
  return rows.every(({ checkpoint }, s) => checkpoint >= before[s]!)
}

const workerFreeze: Row = {
  name: 'worker-freeze',
  what: 'SIGSTOP of a worker inside a transaction for 15 s, then SIGCONT',
  async fault({ town }) {
    const since = await failInFlush(town, freezeAt('flush.after-begin'))
    await sleep(15_000)
    town.workers[0].signal('SIGCONT')
    await sleep(1_000)
    return { since }
  },
}

export const freezeAt = (point: string): Failpoint => ({
  point,
  mode: 'freeze',
  order: `${point}:freeze:5`,
})

/**
 * Has the first worker fail at a line of the flush, and returns when it has. It flushes alone until
 * then, because the other one would leave it nothing to do.
 */
export async function failInFlush(town: Scene['town'], failpoint: Failpoint): Promise<number> {
  const [first, second] = town.workers
  await Promise.all([first.stop(), second.stop()])
  first.start({ FAILPOINT: failpoint.order })
  await reached(town, [first], failpoint)
  second.start()
  return Date.now()
}

export const flushPoints = [
  ...['flush.after-read', 'flush.after-begin', 'flush.before-commit'],
  ...['flush.after-commit', 'flush.before-publish', 'flush.after-announce'],
]

const flushFails: Row = {
  name: 'flush-failpoints',
  what: `a worker killed, failed or frozen at a line of the flush: ${variantsOf(flushPoints)}`,
  async fault({ town, run }) {
    const failpoint = failpointOf(run, flushPoints, 5)
    const since = await failInFlush(town, failpoint)
    if (failpoint.mode === 'freeze') await sleep(6_000)
    revive([town.workers[0]])
    return { since, detail: failpoint.order }
  },
}

export const callPoints = ['batch.before-call', 'batch.after-call', 'batch.before-again']

const callFails: Row = {
  name: 'call-failpoints',
  what: `an API killed, failed or frozen before or after a script, or before it asks again: ${variantsOf(callPoints)}`,
  town: { proxied: true },
  async fault({ town, run }) {
    const failpoint = failpointOf(run, callPoints)
    const again = failpoint.point === 'batch.before-again'
    const [first] = town.apis
    await first.stop()
    const since = Date.now()
    first.start({ FAILPOINT: again ? failpoint.order : `${failpoint.order}00` })
    // Only whoever lost a reply asks again.
    for (let k = 0; again && k < 30; k++) {
      town.proxies!.redis.swallowReply('EVALSHA')
      await sleep(150)
    }
    await reached(town, [first], failpoint)
    if (failpoint.mode === 'freeze') await sleep(5_000)
    revive([first])
    return { since, detail: failpoint.order }
  },
}

/**
 * Where codes and policies are brought into Redis: by an API, or of a generation by a worker. Only a
 * load is counted before it is said to be there.
 */
export const pushes = (['upload', 'policy', 'generation'] as const).flatMap((what) =>
  [
    ...(what === 'generation' ? ['generate.after-chunk'] : []),
    ...['push.after-postgres', 'push.after-call', 'push.after-redis'],
    ...(what === 'policy' ? [] : ['push.before-settled']),
  ].map((point) => ({ what, point })),
)

const pushFails: Row = {
  name: 'push-failpoints',
  what: `an upload, a change of policy or a generation of codes killed, failed or frozen around its push: ${variantsOf(pushes)}`,
  async fault({ town, load, run }) {
    const points = pushes.map(({ point }) => point)
    const failpoint = failpointOf(run, points)
    const { what } = pushes[run % pushes.length]!
    const works = what === 'generation'
    const [api, other] = town.apis
    const [worker, second] = town.workers
    const life = works ? worker : api
    await life.stop()
    // A generation is done by whichever worker takes it first.
    if (works) await second.stop()
    const book = load.books[run % town.shards]!
    const before = await codesOf(town, book)
    life.start({ FAILPOINT: failpoint.order })
    const through = works ? other.base : api.base
    await until(
      async () => (await fetch(`${through}/readyz`).catch(() => null))?.ok === true,
      'it serves',
    )
    const change = changes(run)[what]
    const ask = (base: string) => send(town, `${base}/api/v1/books/${book}${change.path}`, change)
    const first = ask(through)
    await reached(town, [life], failpoint)
    if (failpoint.mode === 'freeze') await sleep(6_000)
    revive([life])
    if (works) second.start()
    const since = Date.now()
    const heard = [await first]
    await until(async () => {
      heard.push(await ask(other.base))
      return heard.at(-1)! >= 200 && heard.at(-1)! < 300
    }, 'the repeat under its key succeeds').catch((error: Error) => {
      throw new Error(`${error.message}: ${heard}`)
    })
    const wrong: string[] = []
    await until(async () => (await unpushed(town, book)) === 0, 'everything is pushed').catch(
      (error: Error) => void wrong.push(error.message),
    )
    const codes = await codesOf(town, book)
    if (codes !== before + change.codes)
      wrong.push(`${codes} codes after ${before} and ${change.codes} more`)
    const limit = await town.redis.hget(keys.book(await shardOf(town, book), book), 'max_held')
    if (what === 'policy' && limit !== '4') wrong.push(`Redis limits users to ${limit}, not to 4`)
    return { since, wrong, detail: `${what} ${failpoint.order}` }
  },
}

type Change = { method: string; path: string; body: object; codes: number }

const changes = (run: number): Record<'upload' | 'policy' | 'generation', Change> => ({
  upload: {
    ...{ method: 'POST', path: '/codes/upload', codes: 2_500 },
    body: { codes: Array.from({ length: 2_500 }, (_, i) => `UPLOADED-${run}-${i}`) },
  },
  policy: { method: 'PATCH', path: '', body: { max_assignments_per_user: 4 }, codes: 0 },
  generation: {
    ...{ method: 'POST', path: '/codes/generate', codes: 25_000 },
    body: { count: 25_000 },
  },
})

/** The status of the answer; 0: there was none. */
const send = ({ admin }: Scene['town'], url: string, { method, body }: Change): Promise<number> =>
  fetch(url, {
    method,
    headers: {
      ...{ authorization: `Bearer ${admin}`, 'content-type': 'application/json' },
      ...(method === 'POST' ? { 'idempotency-key': 'a-change' } : {}),
    },
    body: JSON.stringify(body),
    signal: AbortSignal.timeout(8_000),
  }).then(
    ({ status }) => status,
    () => 0,
  )

/** Policies and loads of a book that Redis may not have. */
async function unpushed({ database }: Scene['town'], book: string): Promise<number> {
  const { rows } = await database.query<{ n: number }>(
    `SELECT (SELECT count(*) FROM loads WHERE book_id = $1 AND state <> 'pushed')::int +
       (SELECT count(*) FROM books WHERE book_id = $1 AND pushed_version < version)::int AS n`,
    [book],
  )
  return rows[0]!.n
}

async function shardOf({ database }: Scene['town'], book: string): Promise<number> {
  const { rows } = await database.query<{ shard: number }>(
    'SELECT shard FROM books WHERE book_id = $1',
    [book],
  )
  return rows[0]!.shard
}

async function codesOf({ database }: Scene['town'], book: string): Promise<number> {
  const { rows } = await database.query<{ n: number }>(
    'SELECT total_code_count AS n FROM books WHERE book_id = $1',
    [book],
  )
  return rows[0]!.n
}

const sigterm: Row = {
  name: 'sigterm',
  what: 'SIGTERM of every process at once: each exits 0 within 10 s',
  async fault({ town }) {
    const begun = performance.now()
    const exits = await Promise.all(town.lives.map(async (life) => [life.name, await life.stop()]))
    const ms = performance.now() - begun
    const wrong = exits
      .filter(([, code]) => code !== 0)
      .map(([name, code]) => `${name} exited ${code}`)
    if (ms > 10_000) wrong.push(`the stop took ${Math.round(ms)} ms`)
    const since = Date.now()
    town.startAll()
    return { since, wrong, detail: `stopped in ${Math.round(ms)} ms` }
  },
}

export const processRows = [
  ...[apiKills, workerKill, workerFreeze, flushFails, callFails, pushFails, sigterm],
]
