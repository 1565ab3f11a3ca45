import { appendFileSync } from 'node:fs'
import { registerHooks } from 'node:module'

/**
 * Loaded into a process before all else (`--import loads.ts?into=FILE`): writes every file that the
 * process loads, imported or required, into FILE.
 */
const into = new URL(import.meta.url).searchParams.get('into')!

registerHooks({
  load(url, context, next) {
    appendFileSync(into, `${url}\n`)
    return next(url, context)
  },
})
