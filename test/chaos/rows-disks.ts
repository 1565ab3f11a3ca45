import { setTimeout as sleep } from 'node:timers/promises'
import { noDisk } from './disk.ts'
import type { Row } from './row.ts'

const redisFull: Row = {
  name: 'disk-full-redis',
  what: "Redis' disk full for 5 s: 503 and no hang, resumes by itself",
  disk: 'redis',
  unable: noDisk,
  async fault({ town, disk }) {
    disk!.fill()
    await sleep(5_000)
    disk!.free()
    const since = Date.now()
    if (!town.memory.alive()) await town.memory.start()
    return { since }
  },
}

const postgresFull: Row = {
  name: 'disk-full-postgres',
  what: "PostgreSQL's disk full for 8 s, started again if it gave up",
  disk: 'postgres',
  unable: noDisk,
  async fault({ town, disk }) {
    disk!.fill()
    await sleep(8_000)
    disk!.free()
    const since = Date.now()
    const gaveUp = !town.cluster.alive()
    if (gaveUp) await town.cluster.start()
    return { since, detail: gaveUp ? 'it gave up' : 'it went on' }
  },
}

export const diskRows = [redisFull, postgresFull]
