import { setImmediate as turn } from 'node:timers/promises'
import { stringify } from 'csv-stringify/sync'
import type { Logger } from 'pino'
import { deadline } from '../deadline.ts'
import { type Context, requestId } from './context.ts'
import { type Answer, streamed } from './respond.ts'

/** A client that takes nothing for so long is cut: its download holds a snapshot of PostgreSQL. */
const stallMs = 30_000
/** And so is one that takes for ever, a little at a time. */
const wholeMs = 30 * 60_000
/** How often it is asked, between two pages, whether its client is still let in. */
const lookMs = 1_000

export const formats = ['csv', 'ndjson'] as const
export type Format = (typeof formats)[number]
const types = { csv: 'text/csv', ndjson: 'application/x-ndjson' } as const
export const downloadTypes = Object.values(types)

/** A row of a file as JSON has it; all rows of a file have the same members. */
export type Line = Record<string, unknown>

export type Download = {
  format: Format
  name: string
  columns: readonly string[]
  /** It goes on where another one broke off: the names of the columns are there already. */
  isRest?: boolean
  pages: AsyncGenerator<Line[]>
  /** Whether who asked would be let in now: see lasting.ts. */
  isLetIn(): Promise<boolean>
  /** Called once, when nothing is read any more. */
  leave(): void
}

/** A time as JSON has it, but without its quotes. */
const cell = (value: unknown) => {
  if (value instanceof Date) return value.toISOString()
  return typeof value === 'object' && value !== null ? JSON.stringify(value) : value
}

/** What a spreadsheet would take for a formula gets a ' in front of it. */
export function textOf(format: Format, columns: readonly string[], lines: Line[]): string {
  if (format === 'ndjson') return lines.map((line) => `${JSON.stringify(line)}\n`).join('')
  const rows = lines.map((line) => columns.map((name) => cell(line[name])))
  return stringify(rows, { escape_formulas: true })
}

/**
 * Answers with pages while they are read. Nothing is answered before the first one is there, so that an
 * outage is a problem document; what fails later breaks the connection, so that nobody takes a part of
 * a file for all of it.
 */
export async function download(
  c: Context,
  log: Logger,
  { format, name, columns, isRest = false, pages, isLetIn, leave }: Download,
): Promise<Answer<200, null>> {
  const outgoing = c.env?.outgoing
  let ended: Promise<void> | undefined
  const end = () => {
    ended ??= pages.return(undefined).then(leave, leave)
    return ended
  }
  outgoing?.once('close', end)

  async function* texts(first: IteratorResult<Line[]>): AsyncGenerator<string> {
    if (format === 'csv' && !isRest) yield `${columns.join(',')}\n`
    for (let page = first; !page.done; page = await pages.next()) {
      yield textOf(format, columns, page.value)
      // Buyers come first.
      await turn()
    }
  }
  const headers = {
    'Content-Disposition': `attachment; filename="${name}.${format}"`,
    'X-Accel-Buffering': 'no',
  }
  try {
    const first = await pages.next()
    if (c.req.method !== 'HEAD') {
      const body = pulled(texts(first), { end, isLetIn, log, c })
      return streamed(c, body, types[format], headers)
    }
  } catch (error) {
    await end()
    throw error
  }
  await end()
  return streamed(c, null, types[format], headers)
}

type Life = Pick<Download, 'isLetIn'> & { end: () => Promise<void>; log: Logger; c: Context }

/** Texts as a body: one is made whenever the client has taken the last. */
function pulled(
  texts: AsyncGenerator<string>,
  { end, isLetIn, log, c }: Life,
): ReadableStream<Uint8Array> {
  const outgoing = c.env?.outgoing
  const encoder = new TextEncoder()
  const cut = (why: string) => {
    log.warn({ request_id: requestId(c) }, `a download was cut: ${why}`)
    void end()
    outgoing?.destroy()
  }
  const whole = setTimeout(cut, wholeMs, `it took longer than ${wholeMs / 60_000} minutes`)
  let taken = () => {}
  const over = () => {
    clearTimeout(whole)
    taken()
    return end()
  }
  outgoing?.once('close', over)
  let lookedAt = performance.now()
  return new ReadableStream({
    async pull(controller) {
      taken()
      try {
        const next = await texts.next()
        if (next.done) {
          await over()
          return controller.close()
        }
        if (performance.now() - lookedAt >= lookMs) {
          lookedAt = performance.now()
          if (!(await isLetIn())) throw new Error('who asked for it is let in no more')
        }
        controller.enqueue(encoder.encode(next.value))
        taken = deadline(stallMs, () => cut(`nothing was taken for ${stallMs / 1000} s`))
      } catch (error) {
        await over()
        log.warn({ request_id: requestId(c), err: error }, 'a download broke off')
        // No end of the body may ever be written.
        if (outgoing) outgoing.destroy()
        else throw error
      }
    },
    cancel: over,
  })
}
