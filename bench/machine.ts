import { spawnSync } from 'node:child_process'
import { cpus, loadavg, release, totalmem, type } from 'node:os'

/** Where and of what a number was measured: without this it says nothing. */
export type Machine = {
  cpu: string
  cores: number
  memoryGb: number
  system: string
  node: string
  commit: string
  load: number
}

export function machine(): Machine {
  const processors = cpus()
  return {
    cpu: processors[0]?.model.trim() ?? 'unknown',
    cores: processors.length,
    memoryGb: Math.round(totalmem() / 2 ** 30),
    system: `${type()} ${release()}`,
    node: process.version,
    commit: commit(),
    load: loadavg()[0]!,
  }
}

function git(...args: string[]): string | undefined {
  const run = spawnSync('git', args, { cwd: import.meta.dirname, encoding: 'utf8' })
  return run.status === 0 ? run.stdout.trim() : undefined
}

function commit(): string {
  const id = git('rev-parse', '--short', 'HEAD')
  if (id === undefined) return 'unknown'
  const changed = git('status', '--porcelain', '--', ':/src', ':/workers', ':/lua', ':/bench')
  return changed ? `${id} with changes` : id
}
