import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
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
  what: 'kill -9 of a worker; lag below 1 s within 5 s',
  async fault({ town }) {
    const since = Date.now()
    const [first, second] = town.workers
    await first.kill()
    const lagged = await fallsBelow(town, 1_000, 5_000)
    first.start()
    await sleep(1_500)
    await second.kill()
    await sleep(1_000)
    second.start()
    return { since, wrong: lagged ? [] : ['5 s after the kill the lag was over 1 s'] }
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
    const since = await failInFlush(town, 'flush.after-begin:freeze:5')
    await sleep(15_000)
    town.workers[0].signal('SIGCONT')
    await sleep(1_000)
    return { since }
  },
}

/**
 * Has the first worker fail at a line of the flush, and returns when it has died or is frozen there,
 * or has gone on. It flushes alone until then, because the other one would leave it nothing to do.
 */
export async function failInFlush({ workers }: Scene['town'], failpoint: string): Promise<number> {
  const [first, second] = workers
  await Promise.all([first.stop(), second.stop()])
  first.start({ FAILPOINT: failpoint })
  if (failpoint.includes(':throw')) await sleep(3_000)
  else await until(() => hasEnded(first.pid()), `a worker ended at ${failpoint}`, 20_000)
  second.start()
  return Date.now()
}

/** Dead, or stopped by a signal. */
export function hasEnded(pid: number): boolean {
  try {
    return /^\d+ \(.*\) [TZX]/s.test(readFileSync(`/proc/${pid}/stat`, 'utf8'))
  } catch {
    return true
  }
}

const flushPoints = [
  ...['flush.after-read', 'flush.after-begin', 'flush.before-commit'],
  ...['flush.after-commit', 'flush.after-announce'],
]
const modes = ['kill', 'throw', 'freeze']

const flushFails: Row = {
  name: 'flush-failpoints',
  what: 'a worker killed, failed or frozen at a line of the flush (each run another)',
  async fault({ town, run }) {
    const point = flushPoints[run % flushPoints.length]!
    const mode = modes[Math.floor(run / flushPoints.length) % modes.length]!
    const [first] = town.workers
    const since = await failInFlush(town, `${point}:${mode}:5`)
    if (mode === 'freeze') await sleep(6_000)
    first.signal('SIGCONT')
    if (!first.alive()) first.start()
    return { since, detail: `${point}:${mode}` }
  },
}

const callPoints = ['batch.before-call', 'batch.after-call']

const callFails: Row = {
  name: 'call-failpoints',
  what: 'an API killed, failed or frozen right before or after a script (each run another)',
  async fault({ town, run }) {
    const point = callPoints[run % callPoints.length]!
    const mode = modes[Math.floor(run / callPoints.length) % modes.length]!
    const [first] = town.apis
    await first.stop()
    const since = Date.now()
    first.start({ FAILPOINT: `${point}:${mode}:200` })
    await sleep(6_000)
    if (mode === 'freeze') first.signal('SIGCONT')
    if (!first.alive()) first.start()
    return { since, detail: `${point}:${mode}` }
  },
}

const pushPoints = ['push.after-postgres', 'push.after-redis']

/** Where codes and policies are brought into Redis: by an API or, of a generation, by a worker. */
const pushFails: Row = {
  name: 'push-failpoints',
  what: 'an upload or a generation of codes killed, failed or frozen right before or after its push (each run another)',
  async fault({ town, load, run }) {
    const point = pushPoints[run % pushPoints.length]!
    const mode = modes[Math.floor(run / pushPoints.length) % modes.length]!
    const whose = run % 4 < 2 ? 'upload' : 'generation'
    const [api, other] = town.apis
    const [worker, second] = town.workers
    const life = whose === 'upload' ? api : worker
    await life.stop()
    // A generation is done by whichever worker takes it first.
    if (whose === 'generation') await second.stop()
    life.start({ FAILPOINT: `${point}:${mode}` })
    const book = load.books[run % town.shards]!
    const upload = Array.from({ length: 2_500 }, (_, i) => `UPLOADED-${run}-${i}`)
    const ask = (base: string) =>
      fetch(`${base}/api/v1/books/${book}/codes/${whose === 'upload' ? 'upload' : 'generate'}`, {
        method: 'POST',
        headers: {
          ...{ authorization: `Bearer ${town.admin}`, 'content-type': 'application/json' },
          'idempotency-key': 'load',
        },
        body: JSON.stringify(whose === 'upload' ? { codes: upload } : { count: 25_000 }),
        signal: AbortSignal.timeout(3_000),
      }).then(
        ({ status }) => status,
        () => 0,
      )
    const through = whose === 'upload' ? api.base : other.base
    await until(
      async () => (await fetch(`${through}/readyz`).catch(() => null))?.ok === true,
      'it serves',
    )
    const first = await ask(through)
    if (mode !== 'throw') await until(() => hasEnded(life.pid()), `it ended at ${point}`, 20_000)
    if (mode === 'kill') await life.exited()
    if (mode === 'freeze') await sleep(6_000)
    life.signal('SIGCONT')
    if (!life.alive()) life.start()
    if (whose === 'generation') second.start()
    const since = Date.now()
    let status = first
    await until(
      async () => {
        status = await ask(other.base)
        return status >= 200 && status < 300
      },
      'the repeat under its key succeeds',
      30_000,
    ).catch((error: Error) => {
      throw new Error(`${error.message}: ${first}, then ${status}`)
    })
    const expected = whose === 'upload' ? upload.length : 25_000
    const wrong: string[] = []
    await until(async () => {
      const { rows } = await town.database.query(
        `SELECT count(*)::int AS n FROM loads WHERE book_id = $1 AND state <> 'pushed'`,
        [book],
      )
      return rows[0].n === 0
    }, 'every load is pushed').catch((error: Error) => void wrong.push(error.message))
    const { rows } = await town.database.query(
      'SELECT total_code_count AS total FROM books WHERE book_id = $1',
      [book],
    )
    const before = await initial(town, book)
    if (rows[0].total !== before + expected)
      wrong.push(`${rows[0].total} codes after ${before} and ${expected} more`)
    return { since, wrong, detail: `${whose} ${point}:${mode}` }
  },
}

/** Of a book's first load. */
async function initial({ database }: Scene['town'], book: string): Promise<number> {
  const { rows } = await database.query<{ n: number }>(
    'SELECT written AS n FROM loads WHERE book_id = $1 ORDER BY load_id LIMIT 1',
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
