import { execFileSync } from 'node:child_process'
import { chmodSync, closeSync, mkdirSync, openSync, rmSync, writeSync } from 'node:fs'
import { join } from 'node:path'

/** Why no disk of our own can be had here; undefined: it can. */
export function noDisk(): string | undefined {
  if (process.platform !== 'linux') return 'tmpfs needs Linux'
  return process.getuid?.() === 0 ? undefined : 'mounting a tmpfs needs root'
}

/** A small disk that can be filled to its last byte, and given room again. */
export type Disk = ReturnType<typeof mountDisk>

export function mountDisk(path: string, megabytes: number) {
  mkdirSync(path, { recursive: true })
  execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${megabytes}m`, 'stampede-chaos', path])
  chmodSync(path, 0o711)
  const filler = join(path, 'filler')
  return {
    path,
    fill(): void {
      const file = openSync(filler, 'a')
      for (const size of [1 << 20, 4096, 64]) {
        const chunk = Buffer.alloc(size)
        for (let room = true; room; ) {
          try {
            room = writeSync(file, chunk) === size
          } catch {
            room = false // ENOSPC: that is what we want
          }
        }
      }
      closeSync(file)
    },
    free: () => rmSync(filler, { force: true }),
    unmount: () => void execFileSync('umount', ['-l', path]),
  }
}
