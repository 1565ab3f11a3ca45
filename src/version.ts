import { readFileSync } from 'node:fs'

const packageJson = new URL('../package.json', import.meta.url)

/** What this is called and which version of it: as package.json says. */
export const { name, version }: { name: string; version: string } = JSON.parse(
  readFileSync(packageJson, 'utf8'),
)
