import { createHash } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'

const folder = new URL('../../lua/', import.meta.url)
const read = (name: string) => readFileSync(new URL(name, folder), 'utf8')

/** The text that Redis gets: each `-- @include name` line replaced by lua/include/name.lua. */
export function scriptText(name: string): string {
  return read(`${name}.lua`).replace(/^-- @include (\w+)$/gm, (_, part) =>
    read(`include/${part}.lua`),
  )
}

export const scriptNames = readdirSync(folder)
  .filter((file) => file.endsWith('.lua'))
  .map((file) => file.slice(0, -4))

const digests = new Map(
  scriptNames.map((name) => [name, createHash('sha1').update(scriptText(name)).digest('hex')]),
)

/** The SHA-1 that EVALSHA wants. Throws on a script there is no file of. */
export function scriptSha(name: string): string {
  const sha = digests.get(name)
  if (!sha) throw new Error(`lua/${name}.lua does not exist`)
  return sha
}
