import { cpSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Loss } from './checker.ts'
import { type Failpoint, failpointOf, reached, revive, variantsOf } from './failpoints.ts'
import { epochs, notServing, serving } from './level.ts'
import type { Row, Scene } from './row.ts'
import { until } from './town.ts'

export const recoverPoints = [
  ...['recover.before-begin', 'recover.after-begin', 'recover.after-recovering'],
  ...['recover.after-flush-rest', 'recover.after-clear', 'recover.mid-rebuild'],
  ...['recover.before-answers', 'recover.before-publish', 'recover.after-publish'],
  ...['recover.after-end', 'recover.mid-load-scripts', 'recover.after-load-scripts'],
]

/** Cold starts of one run: so few that ten runs go through every point. */
const startsPerRun = 2
export const coldStarts = (run: number): Failpoint[] =>
  Array.from({ length: startsPerRun }, (_, k) => failpointOf(run * startsPerRun + k, recoverPoints))

const coldStart: Row = {
  name: 'cold-start',
  what: `both APIs and workers start at once on an empty Redis; the recoverer is killed, fails or freezes: ${variantsOf(recoverPoints, startsPerRun)}`,
  mayLose: true,
  async fault({ town, load, run }) {
    const losses: Loss[] = []
    let since = Date.now()
    for (const failpoint of coldStarts(run)) {
      losses.push(...(await startOnNothing(town, failpoint)))
      since = Date.now()
      await serving(town, 30_000)
      await until(() => load.servedSince(since) !== undefined, `it serves after ${failpoint.order}`)
    }
    return {
      since,
      losses,
      detail: coldStarts(run)
        .map(({ order }) => order)
        .join(', '),
    }
  },
}

async function startOnNothing(town: Scene['town'], failpoint: Failpoint): Promise<Loss[]> {
  await Promise.all(town.lives.map((life) => life.kill()))
  const before = await epochs(town)
  await town.memory.kill()
  town.memory.forget()
  const at = Date.now()
  await town.memory.start()
  for (const api of town.apis) api.start()
  for (const worker of town.workers) worker.start({ FAILPOINT: failpoint.order })
  await reached(town, town.workers, failpoint)
  await sleep(failpoint.mode === 'freeze' ? 7_000 : 500)
  revive(town.workers)
  return before.map((epoch, shard) => ({ shard, epoch, at }))
}

const root = resolve(import.meta.dirname, '../..')

/** The same code with other scripts: as after an upgrade that touched every Lua file. */
function nextVersion(dir: string): string {
  const next = join(dir, 'next')
  mkdirSync(next)
  for (const name of ['src', 'workers', 'lua', 'package.json'])
    cpSync(join(root, name), join(next, name), { recursive: true })
  symlinkSync(join(root, 'node_modules'), join(next, 'node_modules'))
  for (const name of readdirSync(join(next, 'lua')).filter((file) => file.endsWith('.lua'))) {
    const path = join(next, 'lua', name)
    writeFileSync(path, `${readFileSync(path, 'utf8')}\n-- another version\n`)
  }
  return next
}

const rolling: Row = {
  name: 'rolling-restart',
  what: 'every process restarted in turn with changed Lua, workers first',
  async fault({ town }) {
    const before = await epochs(town)
    const next = nextVersion(town.dir)
    const wrong: string[] = []
    for (const life of [...town.workers, ...town.apis]) {
      const code = await life.stop()
      if (code !== 0) wrong.push(`${life.name} exited ${code}`)
      life.start({}, next)
      await sleep(1_500)
      if (life.name.startsWith('api'))
        await until(
          async () => !(await notServing(town))?.includes(life.name),
          `${life.name} serves`,
        )
    }
    const after = await epochs(town)
    if (`${after}` !== `${before}`) wrong.push(`epochs ${before} became ${after}`)
    return { since: Date.now(), wrong }
  },
}

export const startRows = [coldStart, rolling]
