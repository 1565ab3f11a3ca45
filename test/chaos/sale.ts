import { rmSync } from 'node:fs'
import { cpus } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { scratchDir } from '../../src/embedded/leftovers.ts'
import type { Lost } from './check-answers.ts'
import { check, missing, type Verdict } from './checker.ts'
import { type Load, startLoad } from './client.ts'
import { type Disk, mountDisk } from './disk.ts'
import type { Kind } from './findings.ts'
import { readDiary } from './history.ts'
import { heads, level, notLevel } from './level.ts'
import { random } from './mind.ts'
import { observe, type Seen } from './observe.ts'
import type { Fault, Row } from './row.ts'
import { type Cluster, openCluster } from './servers.ts'
import { openTown, type Town, until } from './town.ts'

export type SaleOptions = {
  cluster: Cluster
  seed: number
  run: number
  perSecond: number
  codes: number
  /** How long the load goes on before the fault, and after everything is served again. */
  calmMs: number
  /** The fault waits until the load gets through as asked, and this long at most. */
  warmMs: number
  log(line: string): void
}

export type Result = {
  row: string
  seed: number
  detail?: string
  asked: number
  /** Before the fault. */
  assignedPerSecond: number
  acknowledged: number
  atPostgres: number
  /** Always a violation as well. */
  lostAtPostgres: number
  twiceAtPostgres: number
  /** Acknowledged at `redis` level only, and gone. */
  lost: Lost[]
  /** Of the lost: codes that went to somebody else. */
  lostToOthers: number
  twice: number
  unknown: number
  resolved: number
  /** Operations whose URLs were asked what became of them. */
  inquired: number
  /** Until the last book was served again. */
  serveMs: number
  /** The longest that anybody waited for an answer, once the load had got through as asked. */
  longestMs: number
  /** Attempts that hung and happened after a repeat of theirs was refused. */
  afterRefusal: number
  violations: string[]
  refusals: Record<string, number>
}

const diskMegabytes = 400
const readyMs = 60_000
const serveMs = 60_000
const settleMs = 30_000
const levelMs = 45_000
/** Share of the assignments asked for that must get through for the load to count as held. */
export const holds = 0.95
/** Idle share of all cores below which a machine does what it can. */
const idleMax = 0.05

/** One run of one row: an installation, a sale, a fault, the end of it, and the reckoning. */
export async function sale(row: Row, options: SaleOptions): Promise<Result> {
  const dir = scratchDir('sale')
  const disk = row.disk && mountDisk(join(dir, 'disk'), diskMegabytes)
  const ownCluster = row.disk === 'postgres' ? await openCluster(join(dir, 'disk/pg')) : undefined
  try {
    return await onTown(row, { ...options, cluster: ownCluster ?? options.cluster }, disk)
  } finally {
    disk?.free()
    await ownCluster?.close()
    disk?.unmount()
    rmSync(dir, { recursive: true, force: true })
  }
}

async function onTown(row: Row, options: SaleOptions, disk: Disk | undefined): Promise<Result> {
  const wanted = typeof row.town === 'function' ? row.town(options.run) : row.town
  const redisDir = row.disk === 'redis' ? join(disk!.path, 'redis') : undefined
  const town = await openTown({ ...wanted, redisDir, cluster: options.cluster })
  let load: Load | undefined
  try {
    town.startAll()
    await level(town, readyMs)
    const books = await makeBooks(town, options.codes)
    load = startLoad({
      ...{ bases: town.apis.map(({ base }) => base), service: town.service, admin: town.admin },
      ...{ books, perSecond: options.perSecond, connections: 1_500, seed: options.seed },
      diary: join(town.dir, 'history.ndjson'),
    })
    const held = await warm(load, options.warmMs)
    const warmAt = Date.now()
    const assignedPerSecond = await pace(load, options.calmMs)
    const scene = { town, load, random: random(options.seed), run: options.run, disk }
    const fault = await row.fault(scene)
    options.log(`fault over: ${JSON.stringify(load.counts)}`)
    const served = await servedAgain(town, load, fault)
    await sleep(options.calmMs)
    for (const { name } of town.lives) options.log(`--- ${name}\n${notable(town.log(name))}`)
    return await reckon(row, options, {
      ...{ town, load, fault, served, held, warmAt, assignedPerSecond },
    })
  } catch (error) {
    for (const { name } of town.lives) options.log(`--- ${name}\n${notable(town.log(name))}`)
    options.log(JSON.stringify({ ...load?.counts, ...load?.refusals }))
    throw error
  } finally {
    await load?.stop()
    await town.close()
  }
}

/** What a process said that was not routine, its last words. */
const notable = (log: string) =>
  log
    .split('\n')
    .filter((line) => !/^\{"level":30|^$/.test(line))
    .slice(-12)
    .map((line) => line.slice(0, 400))
    .join('\n')

/** Assignments a second over the next `ms`. */
async function pace({ counts }: Load, ms: number): Promise<number> {
  const [begun, before] = [performance.now(), counts.assigned]
  await sleep(ms)
  return ((counts.assigned - before) / (performance.now() - begun)) * 1000
}

/**
 * Processes that just started are slow: a fault among them would hit less load than was asked for. Where
 * the machine has nothing left to give, what gets through is all that it can do, and that is load enough.
 */
async function warm(load: Load, ms: number): Promise<boolean> {
  let left = 1
  for (const end = performance.now() + ms; performance.now() < end; ) {
    const before = cpuTimes()
    if ((await pace(load, 1_000)) >= load.perSecond * holds) return true
    const after = cpuTimes()
    left = (after.idle - before.idle) / (after.all - before.all)
  }
  return ms === 0 || left < idleMax
}

/** What all cores did since the machine started, in ms. */
function cpuTimes(): { idle: number; all: number } {
  const times = cpus().map((core) => core.times)
  const sum = (of: (time: (typeof times)[number]) => number) =>
    times.reduce((total, time) => total + of(time), 0)
  return {
    idle: sum(({ idle }) => idle),
    all: sum(({ user, nice, sys, idle, irq }) => user + nice + sys + idle + irq),
  }
}

/** Waits until every book has acknowledged something that was asked after the fault. */
async function servedAgain(town: Town, load: Load, { since }: Fault): Promise<number> {
  const served = () => load.servedSince(since)
  await until(() => served() !== undefined, 'every book is served again', serveMs).catch(
    async (error: Error) => {
      throw new Error(`${error.message}: ${load.unserved(since)}; ${await notLevel(town)}`)
    },
  )
  return served()! - since
}

type Aftermath = {
  town: Town
  load: Load
  fault: Fault
  served: number
  held: boolean
  /** When the load got through as asked. */
  warmAt: number
  assignedPerSecond: number
}

async function reckon(
  row: Row,
  options: SaleOptions,
  { town, load, fault, served, held, warmAt, assignedPerSecond }: Aftermath,
): Promise<Result> {
  await load.stop()
  await load.settle(settleMs)
  // Whoever asks what became of a call forbids it: what happens afterwards all the same is seen.
  const inquired = await load.inquire(settleMs)
  load.close()
  const seen = await settled(town)
  const history = readDiary(load.path)
  const verdict = check(history, seen, {
    mayLose: row.mayLose,
    losses: fault.losses,
    parked: fault.parked,
  })
  // Too many for arguments of one call.
  // Processes that just started are slow, and that is nothing that the fault did.
  const longestMs = history.reduce(
    (most, { at, answer: { ms = 0 } }) => (at < warmAt ? most : Math.max(most, ms)),
    0,
  )
  const violations = [
    ...(fault.wrong ?? []),
    ...(held ? [] : [`${load.perSecond} assignments a second never held, with cores idle`]),
    ...(row.withinMs && longestMs > row.withinMs ? [`an answer took ${longestMs} ms`] : []),
    ...(load.unresolved() > 0 ? [`${load.unresolved()} unknown ones stayed so`] : []),
    // A sale too small to show something shows nothing; the short form is, now and then.
    ...(options.warmMs > 0 ? missing(history) : []).map((kind) => `the diary holds no ${kind}`),
    ...summary(verdict),
  ]
  return {
    ...{ row: row.name, seed: options.seed, detail: fault.detail, asked: history.length },
    assignedPerSecond,
    ...{ acknowledged: verdict.acknowledged, atPostgres: verdict.atPostgres },
    lostAtPostgres: count(verdict, 'not-in-ledger'),
    twiceAtPostgres: count(verdict, 'two-users'),
    ...{ lost: verdict.lost, twice: verdict.twice, longestMs },
    afterRefusal: count(verdict, 'done-after-refusal'),
    lostToOthers: verdict.lost.filter(
      ({ user, later, verb }) => verb === 'assign' && later.some((one) => one !== user),
    ).length,
    ...{ unknown: verdict.unknown, resolved: verdict.resolved, inquired, serveMs: served },
    ...{ violations, refusals: load.refusals },
  }
}

/**
 * Both stores once they are level. A process that was frozen may still have something to do whose client
 * has long gone: what was written while we looked is looked at again.
 */
async function settled(town: Town): Promise<Seen> {
  for (let look = 0; look < 10; look++) {
    await level(town, levelMs)
    const before = await heads(town)
    const seen = await observe(town.redis, town.database)
    if (`${await heads(town)}` === `${before}`) return seen
  }
  throw new Error('somebody goes on writing')
}

const count = ({ violations }: Verdict, kind: Kind) =>
  violations.filter((one) => one.kind === kind).length

/**
 * A few violations of each kind, and how many there are. That an attempt which hung happens after a
 * repeat of it was refused is none: refusals are decided anew, and are not remembered.
 */
function summary({ violations }: Verdict): string[] {
  const wrong = violations.filter(({ kind }) => kind !== 'done-after-refusal')
  const byKind = Map.groupBy(wrong, ({ kind }) => kind)
  return [...byKind].flatMap(([kind, all]) => [
    ...all.slice(0, 3).map(({ what }) => `${kind}: ${what}`),
    ...(all.length > 3 ? [`${kind}: ${all.length} in all`] : []),
  ])
}

/** A book of each kind of rules on every shard there is, `codes` codes in all. */
async function makeBooks(town: Town, codes: number): Promise<string[]> {
  const rules = { max_assignments_per_user: 3, lock_seconds: 2 }
  const each = Math.floor(codes / (town.shards + 2))
  const books: string[] = []
  for (let shard = 0; shard < town.shards; shard++)
    books.push(await makeBook(town, { ...rules, max_redemptions: 1 + (shard % 2) }, each))
  const strict = { lock_policy: 'required', max_redemptions: 3, max_redemptions_per_user: 2 }
  books.push(await makeBook(town, { ...rules, ...strict }, each))
  books.push(await makeBook(town, { ...rules, kind: 'counter', units: each }, 0))
  return books
}

async function makeBook(town: Town, policy: object, count: number): Promise<string> {
  const book = await ask(town, 'POST', 'books', { name: 'A sale', owner_id: 'owner', ...policy })
  if (count === 0) return book.book_id
  const job = await ask(town, 'POST', `books/${book.book_id}/codes/generate`, { count })
  if (job.job_id)
    await until(
      async () => (await ask(town, 'GET', `jobs/${job.job_id}`)).state === 'done',
      `${count} codes are made`,
      30_000 + count / 5,
    )
  return book.book_id
}

// biome-ignore lint/suspicious/noExplicitAny: answers are looked into where they are used
async function ask(town: Town, method: string, path: string, body?: object): Promise<any> {
  const response = await fetch(`${town.apis[0].base}/api/v1/${path}`, {
    method,
    headers: { authorization: `Bearer ${town.service}`, 'content-type': 'application/json' },
    ...(body ? { body: JSON.stringify(body) } : {}),
  })
  const text = await response.text()
  if (!response.ok) throw new Error(`${method} ${path}: ${text}`)
  return JSON.parse(text)
}
