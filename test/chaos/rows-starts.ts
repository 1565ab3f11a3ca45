import { cpSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { failpointOf, reached, revive } from './failpoints.ts'
import { epochs, notServing, serving } from './level.ts'
import type { Row } from './row.ts'
import { until } from './town.ts'

const recoverPoints = [
  ...['recover.before-begin', 'recover.after-begin', 'recover.after-recovering'],
  ...['recover.after-flush-rest', 'recover.after-clear', 'recover.mid-rebuild'],
  ...['recover.before-answers', 'recover.before-publish', 'recover.after-publish'],
  ...['recover.after-end', 'recover.mid-load-scripts', 'recover.after-load-scripts'],
]

const coldStart: Row = {
  name: 'cold-start',
  what: 'both APIs and workers start at once on an empty Redis; the recoverer is killed, fails or freezes (each run elsewhere)',
  mayLose: true,
  async fault({ town, run }) {
    const failpoint = failpointOf(run, recoverPoints)
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
    const since = Date.now()
    await serving(town, 30_000)
    const losses = before.map((epoch, shard) => ({ shard, epoch, at }))
    return { since, losses, detail: failpoint.order }
  },
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
