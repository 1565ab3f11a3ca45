import { setTimeout as sleep } from 'node:timers/promises'
import { keys } from '../../src/store/keys.ts'
import { truncateTail } from './aof.ts'
import type { Loss } from './checker.ts'
import { activeEpochs, epochs, lose, notServing, serving } from './level.ts'
import type { Row, Scene } from './row.ts'
import { type Town, until } from './town.ts'

const all = (town: Town) => Array.from({ length: town.shards }, (_, shard) => shard)

async function killAndStart({ town }: Scene) {
  await town.memory.kill()
  const since = Date.now()
  await town.memory.start()
  return { since }
}

const killEverysec: Row = {
  name: 'redis-kill-everysec',
  what: 'kill -9 of Redis (appendfsync everysec), restart',
  fault: killAndStart,
}
const killAlways: Row = {
  name: 'redis-kill-always',
  what: 'kill -9 of Redis (appendfsync always), restart',
  town: { appendfsync: 'always' },
  fault: killAndStart,
}

const deleted: Row = {
  name: 'redis-deleted',
  what: 'kill -9 of Redis and deletion of its data',
  mayLose: true,
  async fault({ town }) {
    const before = await epochs(town)
    await town.memory.kill()
    town.memory.forget()
    const since = Date.now()
    await town.memory.start()
    return {
      since,
      losses: all(town).map((shard) => ({ shard, epoch: before[shard]!, at: since })),
    }
  },
}

const flushall: Row = {
  name: 'flushall',
  what: 'FLUSHALL while running',
  mayLose: true,
  async fault({ town }) {
    const since = Date.now()
    const losses = await lose(town, all(town), () => town.redis.flushall())
    return { since, losses }
  },
}

/** What is deleted, and what of `books` it belongs to; on another shard each time. */
const deletions: [string, (shard: number, book: string) => string][] = [
  ['meta', keys.meta],
  ['journal', keys.journal],
  ['coupons', keys.coupons],
  ['redemptions', keys.redemptions],
  ['stock', keys.stock],
  ['users', keys.users],
  ['book', keys.book],
  ['answers', (shard) => keys.answers(shard, Math.floor(Date.now() / 86_400_000))],
]
/** What coupon records say as well, and what only a reply that is lost at that moment would need. */
const unmissed = ['lock', 'op']

const isOfBook = new Set(['stock', 'users', 'book'])

const del: Row = {
  name: 'del',
  what: 'DEL of meta, journal, coupons, redemptions, stock, users, book, answers, one after the other; of all lock and op keys',
  mayLose: true,
  async fault({ town, load }) {
    const losses: Loss[] = []
    let since = Date.now()
    const { rows } = await town.database.query<{ book: string; shard: number }>(
      "SELECT book_id AS book, shard FROM books WHERE kind = 'codes' ORDER BY shard",
    )
    for (const name of unmissed) {
      const found = await town.redis.keys(`{s*}:${name}:*`)
      if (found.length > 0) await town.redis.del(found)
    }
    for (const [d, [what, key]] of deletions.entries()) {
      const { book, shard } = rows[d % rows.length]!
      since = Date.now()
      const [loss] = await lose(town, [shard], () => town.redis.del(key(shard, book)))
      // Other books of the shard go on until somebody asks for this one.
      losses.push(isOfBook.has(what) ? { ...loss!, book } : loss!)
      await until(
        async () => (await activeEpochs(town))[shard]! > loss!.epoch,
        `a new epoch after DEL of ${what}`,
        20_000,
      )
      await until(() => load.servedSince(since) !== undefined, `it serves after DEL of ${what}`)
    }
    return { since, losses }
  },
}

const scriptFlush: Row = {
  name: 'script-flush',
  what: 'SCRIPT FLUSH while running: no recovery, no new epoch',
  async fault({ town, load }) {
    const before = await epochs(town)
    const since = Date.now()
    await town.redis.script('FLUSH')
    await until(() => load.servedSince(since) !== undefined, 'it serves after SCRIPT FLUSH', 20_000)
    const after = await epochs(town)
    const wrong = `${after}` === `${before}` ? [] : [`epochs ${before} became ${after}`]
    return { since, wrong }
  },
}

const swapdb: Row = {
  name: 'swapdb',
  what: 'SWAPDB with an empty database while running',
  mayLose: true,
  async fault({ town }) {
    const since = Date.now()
    const losses = await lose(town, all(town), () => town.redis.swapdb(0, 1))
    return { since, losses }
  },
}

/** Waits until it serves; the shards that are in a new epoch by then have lost something. */
async function lostIn(town: Town, before: number[], at: number): Promise<Loss[]> {
  await serving(town, 30_000)
  const after = await epochs(town)
  return all(town)
    .filter((shard) => after[shard] !== before[shard])
    .map((shard) => ({ shard, epoch: before[shard]!, at }))
}

const aofCut: Row = {
  name: 'aof-cut',
  what: 'kill -9 of Redis and 1 B to 64 kB cut off the end of its append-only file',
  mayLose: true,
  async fault({ town, random }) {
    const before = await epochs(town)
    await town.memory.kill()
    const bytes = truncateTail(town.memory.files, 1 + Math.floor(65_536 * random() ** 3))
    const since = Date.now()
    await town.memory.start()
    const wrong = bytes > 0 ? [] : ['nothing was cut off']
    return { since, wrong, losses: await lostIn(town, before, since), detail: `${bytes} B` }
  },
}

const promote: Row = {
  name: 'promote',
  what: 'Redis is made a copy of an older replica of itself, and master again',
  mayLose: true,
  async fault({ town }) {
    const { openMemory } = await import('./servers.ts')
    const other = await openMemory({ dir: `${town.dir}/replica` })
    const { Redis } = await import('ioredis')
    const replica = new Redis(other.url)
    const before = await epochs(town)
    try {
      await replica.call('REPLICAOF', '127.0.0.1', String(town.memory.port))
      await until(
        async () => /master_link_status:up/.test(await replica.info('replication')),
        'the replica has caught up',
      )
      const wrong = `${await epochs(town)}` === `${before}` ? [] : ['a replica made an epoch new']
      await sleep(500)
      await replica.call('REPLICAOF', 'NO', 'ONE')
      await sleep(300) // what is written in this time is lost
      await town.redis.call('REPLICAOF', '127.0.0.1', String(other.port))
      await until(
        async () => /master_link_status:up/.test(await town.redis.info('replication')),
        'the old master is a copy',
      )
      const since = Date.now()
      await town.redis.call('REPLICAOF', 'NO', 'ONE')
      const losses = await lostIn(town, before, since)
      if (losses.length === 0) wrong.push('nobody noticed that entries are gone')
      return { since, wrong, losses }
    } finally {
      replica.disconnect()
      await other.close()
    }
  },
}

const apiFreeze: Row = {
  name: 'api-freeze',
  what: 'SIGSTOP of an API across a recovery (FLUSHALL), then SIGCONT',
  mayLose: true,
  async fault({ town }) {
    const [first] = town.apis
    first.signal('SIGSTOP')
    await sleep(200)
    const before = await epochs(town)
    const losses = await lose(town, all(town), () => town.redis.flushall())
    await until(
      async () => (await epochs(town)).every((epoch, s) => epoch > before[s]!),
      'a new epoch everywhere',
    )
    await sleep(3_000)
    const since = Date.now()
    first.signal('SIGCONT')
    await until(async () => !(await notServing(town))?.includes(first.name), 'it serves again')
    return { since, losses }
  },
}

export const memoryRows = [
  ...[killEverysec, killAlways, deleted, flushall, del, scriptFlush, swapdb, aofCut, promote],
  apiFreeze,
]
