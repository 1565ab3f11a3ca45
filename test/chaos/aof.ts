import { readdirSync, statSync, truncateSync } from 'node:fs'
import { join } from 'node:path'

/**
 * Cuts bytes off the end of the append-only file of a Redis that is not running: what a machine does
 * that loses its power before the disk had them. Returns how many.
 */
export function truncateTail(files: string, bytes: number): number {
  const parts = readdirSync(files)
    .filter((name) => name.endsWith('.incr.aof'))
    .map((name) => join(files, name))
    .sort((a, b) => Number(/(\d+)\.incr/.exec(a)![1]) - Number(/(\d+)\.incr/.exec(b)![1]))
  const last = parts.at(-1)
  if (!last) return 0
  const { size } = statSync(last)
  const cut = Math.min(bytes, size)
  truncateSync(last, size - cut)
  return cut
}
