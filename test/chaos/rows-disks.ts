import { setTimeout as sleep } from 'node:timers/promises'
import { noDisk } from './disk.ts'
import type { Row } from './row.ts'
import type { Town } from './town.ts'

const redisFull: Row = {
  name: 'disk-full-redis',
  what: "Redis' disk full for 5 s: 503 and no hang, resumes by itself",
  disk: 'redis',
  withinMs: 4_500, // as below
  unable: noDisk,
  async fault({ town, load, disk }) {
    const refused = load.refusals['not-ready'] ?? 0
    disk!.fill()
    await sleep(5_000)
    const wrong: string[] = []
    const persistence = await town.redis.info('persistence').catch(() => 'dead')
    if (!/dead|aof_last_write_status:err/.test(persistence)) wrong.push('Redis could write')
    if ((load.refusals['not-ready'] ?? 0) <= refused) wrong.push('nothing was refused')
    disk!.free()
    const since = Date.now()
    if (!town.memory.alive()) await town.memory.start()
    return { since, wrong }
  },
}

/** How far the ledger is, if PostgreSQL says. */
const checkpoints = ({ database }: Town) =>
  database.query<{ checkpoint: number }>('SELECT checkpoint FROM shards ORDER BY shard').then(
    ({ rows }) => rows.map(({ checkpoint }) => checkpoint),
    () => [],
  )

const postgresFull: Row = {
  name: 'disk-full-postgres',
  what: "PostgreSQL's disk full for 8 s, started again if it gave up",
  disk: 'postgres',
  withinMs: 4_500, // a verb waits 2 s for the ledger, and may have waited for a connection before
  unable: noDisk,
  async fault({ town, disk }) {
    disk!.fill()
    await sleep(8_000)
    const wrote = await town.database
      .query('CREATE TABLE probe AS SELECT repeat($1, 9)', ['x'])
      .then(
        () => true,
        () => false,
      )
    const before = await checkpoints(town)
    await sleep(500)
    const wrong =
      wrote && `${await checkpoints(town)}` !== `${before}` ? ['PostgreSQL could write'] : []
    disk!.free()
    const since = Date.now()
    const gaveUp = !town.cluster.alive()
    if (gaveUp) await town.cluster.start()
    return { since, wrong, detail: gaveUp ? 'it gave up' : 'it went on' }
  },
}

export const diskRows = [redisFull, postgresFull]
