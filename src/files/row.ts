import { codeSyntax, isReserved } from '../codes.ts'
import { metadataFault } from '../metadata.ts'

/** A row of a file that may be imported. `max`: null = the book's, 0 = no limit. */
export type Row = { line: number; code: string; max: number | null; metadata: string | null }
/** A row that may not, and why; `code` as far as it can be shown. */
export type Fault = { line: number; code: string; reason: string }
export type Judged = Row | Fault

/** The file as a whole cannot be used: nobody could say any more what its rows are. */
export class UnusableFile extends Error {
  readonly line: number
  constructor(line: number, reason: string) {
    super(reason)
    this.line = line
  }
}

/** What a reader of files tells of them, row by row. */
export type Reader = {
  push(bytes: Buffer): void | Promise<void>
  end(): void | Promise<void>
}

export const linesMax = 10_000_000
/** A row with the longest code and the largest metadata fits, however it is escaped. */
export const lineBytesMax = 32_768

const limitMax = 2_147_483_647
const shownMax = 100
/** Bytes that are not UTF-8 have become U+FFFD: what was meant is lost. */
const replaced = '\uFFFD'

/** Says whether a row may be imported. `max`: as it will be kept; undefined: what stands there is no limit. */
export function judge(
  line: number,
  code: unknown,
  max: number | null | undefined,
  metadata: Record<string, unknown> | null,
): Judged {
  const fault = (reason: string): Fault => ({ line, code: shown(code), reason })
  if (typeof code !== 'string' || code === '') return fault('has no code')
  if (code.includes(replaced)) return fault('is not UTF-8')
  if (!codeSyntax.test(code) || code === '.' || code === '..')
    return fault('the code must be 1 to 50 visible ASCII characters without spaces')
  if (isReserved(code)) return fault('the code is a reserved word')
  if (max === undefined)
    return fault(`max_redemptions must be a whole number from 1 to ${limitMax}, or unlimited`)
  if (metadata === null) return { line, code, max, metadata: null }
  const wrong = metadataFault(metadata)
  if (wrong !== null) return fault(`the metadata ${wrong}`)
  const text = JSON.stringify(metadata)
  return text.includes(replaced)
    ? fault('is not UTF-8')
    : { line, code, max, metadata: text === '{}' ? null : text }
}

/** A code as a report can show it: a bad one may be anything. */
export function shown(code: unknown): string {
  if (typeof code !== 'string') return ''
  return code
    .slice(0, shownMax)
    .toWellFormed()
    .replace(/\p{Cc}/gu, replaced)
}

/** As `max_redemptions` of codes is kept; undefined: it is none. */
export const limitOf = (max: number): number | undefined =>
  Number.isInteger(max) && max >= 1 && max <= limitMax ? max : undefined

export function checkLines(lines: number): void {
  if (lines > linesMax + 1) throw new UnusableFile(lines, `there are more than ${linesMax} lines`)
}
