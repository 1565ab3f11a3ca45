import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { environmentOf } from '../../src/config.ts'
import { keys } from '../../src/store/keys.ts'
import { type Attempt, readDiary } from './history.ts'
import { epochs } from './level.ts'
import type { Row, Scene } from './row.ts'
import { stopped } from './rows-commit.ts'
import { until } from './town.ts'
import { patienceMs } from './wire.ts'

const killed: Row = {
  name: 'postgres-kill',
  what: 'kill -9 of PostgreSQL, restart',
  async fault({ town }) {
    await town.cluster.kill()
    const since = Date.now()
    await town.cluster.start()
    return { since }
  },
}

/** Away for `ms`, with what `redis` level and `postgres` level must not have been like meanwhile. */
async function outage({ town, load }: Scene, ms: number) {
  await town.cluster.kill()
  const from = Date.now() + knownMs
  await sleep(knownMs)
  const before = load.counts.done
  await sleep(ms - knownMs)
  const during = load.counts.done - before
  const to = Date.now()
  await town.cluster.start()
  const wrong = during > 0 ? [] : ['nothing at redis level was served while PostgreSQL was away']
  return { from, to, wrong }
}

/** It is known to be away after at most 1.5 s, and said so within 2 s. */
const knownMs = 2_000
/**
 * A crowd and a service on the same two cores keep single answers back, whatever they say: in rows
 * without any outage the slowest answer took up to 4.5 s, so of a hundred one may take that long.
 */
const promise = { ms: 2_000, share: 0.99, crowdedMs: 4_500 }

/** What was asked for at `postgres` level meanwhile. */
const asksBetween = (diary: string, from: number, to: number) =>
  readDiary(diary).filter(({ level, at }) => level === 'postgres' && at >= from && at < to)

/** What is wrong with how verbs at `postgres` level were answered while PostgreSQL was known to be away. */
function refusedAtOnce(asked: readonly Attempt[]): string[] {
  const answers = asked.map(({ at, answer }) => ({ ms: answer.at - at, ...answer }))
  const prompt = answers.filter(({ status, ms }) => status === 503 && ms <= promise.ms).length
  const wrong = answers.filter(
    ({ ms, status, outcome }) => ms > promise.crowdedMs || (status !== 503 && outcome !== 'unsent'),
  )
  const few = prompt < promise.share * answers.length
  return [
    ...(answers.length === 0 ? ['nobody asked for postgres level while it was away'] : []),
    ...(few
      ? [`${prompt} of ${answers.length} at postgres level were refused within ${promise.ms} ms`]
      : []),
    ...wrong
      .slice(0, 3)
      .map(({ id, status, why, ms }) => `${id} at postgres level: ${status} ${why} in ${ms} ms`),
  ]
}

/** Waits until less than half a second's facts are left; what was flushed, and what came meanwhile. */
async function drain({ town, load }: Scene) {
  const heads = async () => {
    const of = Array.from({ length: town.shards }, (_, shard) => shard)
    const metas = await Promise.all(
      of.map((shard) => town.redis.hmget(keys.meta(shard), 'facts', 'flushed')),
    )
    const sum = (field: 0 | 1) => metas.reduce((all, meta) => all + Number(meta[field]), 0)
    return { came: sum(0), flushed: sum(1) }
  }
  const first = await heads()
  const begun = performance.now()
  let last = first
  await until(
    async () => {
      last = await heads()
      return last.came - last.flushed < load.perSecond / 2
    },
    'the backlog is drained',
    60_000,
  )
  const seconds = (performance.now() - begun) / 1000
  return { facts: last.flushed - first.flushed, intake: last.came - first.came, seconds }
}

const away: Row = {
  name: 'postgres-away',
  what: 'PostgreSQL away for 30 s: redis level goes on, postgres level is refused within 2 s, and the backlog drains at twice the intake',
  async fault(scene) {
    const { from, to, wrong } = await outage(scene, 30_000)
    const since = Date.now()
    const { facts, intake, seconds } = await drain(scene)
    if (intake === 0) wrong.push('nothing came while it drained')
    if (facts < 2 * intake)
      wrong.push(`drained ${facts} facts while ${intake} came: less than twice as fast`)
    // Whoever asked at its very end has an answer or has given up by then.
    await sleep(Math.max(0, to + patienceMs - Date.now()))
    wrong.push(...refusedAtOnce(asksBetween(scene.load.path, from, to)))
    const detail = `${facts} facts drained in ${seconds.toFixed(1)} s, ${intake} came meanwhile`
    return { since, wrong, detail }
  },
}

const main = fileURLToPath(new URL('../../src/cli/main.ts', import.meta.url))

/** A command of the operator's, beside the sale. */
async function stampede({ memory, databaseUrl }: Scene['town'], ...words: string[]) {
  const env = environmentOf({ REDIS_URL: memory.url, DATABASE_URL: databaseUrl })
  const child = spawn(process.execPath, [main, ...words], { env: env as NodeJS.ProcessEnv })
  let out = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (some) => (out += some))
  const [code] = await once(child, 'close')
  return { code, out }
}

/** A backup of before the sale is put back: what was acknowledged since then is only in Redis. */
const restored: Row = {
  name: 'postgres-restored',
  what: 'an older copy of PostgreSQL put back: refused and said, until the loss is accepted',
  mayLose: true,
  async fault({ town, load }) {
    await town.cluster.backUp()
    await until(
      () => load.servedSince(Date.now() - 500) !== undefined,
      'it serves after the backup',
    )
    await sleep(2_000)
    await town.cluster.restore()
    const wrong: string[] = []
    let said = ''
    await until(
      async () => {
        said = await fetch(`${town.apis[0].base}/readyz`).then((answer) => answer.text())
        return /old backup/.test(said)
      },
      '/readyz says that PostgreSQL is an old one',
      20_000,
    ).catch(() => wrong.push(`nothing said that an old backup was restored: ${said}`))
    // What an operator who has no newer backup types.
    const { code, out } = await stampede(town, 'accept-loss', '--yes', '--reason', 'drill')
    if (code !== 0) wrong.push(`accept-loss ended with ${code}: ${out}`)
    return { since: Date.now(), wrong }
  },
}

/** Entries that no script of ours would write, as a bug or a hand would leave them. */
const poison: Row = {
  name: 'poison',
  what: 'facts that cannot fit: parked within 1 s, and nobody waits for them',
  async fault({ town }) {
    const facts = [
      'NOSUCH\tsomebody\t7\t0\t0\t1\t\t\t',
      'NOSUCH-2\tsome\u0000body\t1\t0\t0\t1\t\t\t',
      `NOSUCH-3\tsomebody\t1\t0\t${2 ** 40}\t1\t\t\t`,
    ]
    const { rows } = await town.database.query<{ book: string; shard: number }>(
      'SELECT book_id AS book, shard FROM books ORDER BY shard LIMIT 1',
    )
    const { book, shard } = rows[0]!
    const before = await epochs(town)
    for (const [f, state] of facts.entries())
      await inject(town, shard, ['kind', f === 0 ? 'lock' : 'assign', 'book', book], state)
    const since = Date.now()
    await until(
      async () => {
        const parked = await town.database.query('SELECT count(*)::int AS n FROM parked_facts')
        return parked.rows[0].n === facts.length
      },
      'the facts are parked',
      10_000,
    )
    const ms = Date.now() - since
    const wrong = ms > 1_000 ? [`they were parked after ${ms} ms`] : []
    const after = await epochs(town)
    if (`${after}` !== `${before}`) wrong.push(`epochs ${before} became ${after}`)
    return { since, wrong, parked: facts.length, detail: `parked after ${ms} ms` }
  },
}

/** One entry with one fact, put into the journal as `append` in lua/include/finish.lua does. */
async function inject({ redis }: Scene['town'], shard: number, head: string[], state: string) {
  const script = `
    local meta = redis.call('HMGET', KEYS[1], 'epoch', 'n', 'facts', 'kept')
    redis.call('XADD', KEYS[2], string.format('%s-%d', meta[1], meta[2] + 1), unpack(ARGV))
    redis.call('HSET', KEYS[1], 'n', meta[2] + 1, 'facts', meta[3] + 1,
      'kept', meta[4] + 1)`
  const op = '00000000-0000-4000-8000-000000000000'
  const context = JSON.stringify({ actor: 'poison', request_id: 'poison' })
  const fields = [...head, 'at', String(Date.now()), 'op', op, state, context]
  await redis.eval(script, 2, keys.meta(shard), keys.journal(shard), ...fields)
}

const full: Row = {
  name: 'maxmemory',
  what: 'Redis at maxmemory for 6 s with PostgreSQL away; then it drains and serves by itself',
  async fault({ town, load }) {
    const isFull = () =>
      town.redis.set('probe', '', 'PX', 1).then(
        () => false,
        (error: Error) => error.message.startsWith('OOM'),
      )
    await town.cluster.kill()
    const used = Number(/used_memory:(\d+)/.exec(await town.redis.info('memory'))![1])
    // Little enough for a light load, and looked at until it is used up.
    await town.redis.config('SET', 'maxmemory', String(used + 400_000))
    const wrong: string[] = []
    await until(isFull, 'Redis is full', 20_000).catch(
      () => void wrong.push('Redis was never full'),
    )
    await sleep(6_000)
    const since = Date.now()
    await town.cluster.start()
    await until(() => load.servedSince(since) !== undefined, 'it serves by itself').catch(
      (error: Error) => void wrong.push(error.message),
    )
    // The sale goes on, and what it gives away stays in memory.
    await town.redis.config('SET', 'maxmemory', '0')
    return { since, wrong }
  },
}

export const postgresRows = [killed, away, stopped, restored, poison, full]
