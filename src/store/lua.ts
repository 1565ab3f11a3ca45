import { createHash } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'

const folder = new URL('../../lua/', import.meta.url)
const read = (name: string) => readFileSync(new URL(name, folder), 'utf8')

function assemble(name: string): string {
  return read(`${name}.lua`).replace(/^-- @include (\w+)$/gm, (_, part) =>
    read(`include/${part}.lua`),
  )
}

export const scriptNames = readdirSync(folder)
  .filter((file) => file.endsWith('.lua'))
  .map((file) => file.slice(0, -4))

/** Read once: what is loaded must have the SHA that is called, also when files change meanwhile. */
const scripts = new Map(
  scriptNames.map((name) => {
    const text = assemble(name)
    return [name, { text, sha: createHash('sha1').update(text).digest('hex') }]
  }),
)

function script(name: string) {
  const found = scripts.get(name)
  if (!found) throw new Error(`lua/${name}.lua does not exist`)
  return found
}

/** The text that Redis gets: each `-- @include name` line replaced by lua/include/name.lua. */
export const scriptText = (name: string): string => script(name).text
/** The SHA-1 that EVALSHA wants. Throws on a script there is no file of. */
export const scriptSha = (name: string): string => script(name).sha
