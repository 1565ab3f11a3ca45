import { randomBytes } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

/** A random word that this data directory keeps, readable by its owner alone. */
export function secret(dir: string, name: string): string {
  const secrets = join(dir, 'secrets')
  const path = join(secrets, name)
  if (!existsSync(path)) {
    mkdirSync(secrets, { recursive: true, mode: 0o700 })
    writeFileSync(`${path}.new`, randomBytes(32).toString('hex'), { mode: 0o600 })
    renameSync(`${path}.new`, path) // never an empty secret after a kill
  }
  return readFileSync(path, 'utf8').trim()
}
