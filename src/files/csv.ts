import { type CsvError, Parser } from 'csv-parse'
import { metadataFault } from '../metadata.ts'
import {
  checkLines,
  type Judged,
  judge,
  limitOf,
  lineBytesMax,
  type Reader,
  shown,
  UnusableFile,
} from './row.ts'

const columnsMax = 100

/** Where the header says that things stand; `others`: what goes into metadata. */
type Header = { width: number; code: number; max: number; others: [name: string, at: number][] }

/**
 * Reads CSV (RFC 4180; commas; lines end with CRLF, LF or CR) with a header row. A row that is wrong is
 * told as a fault; a quote in the wrong place or one that is never closed makes the whole file
 * unusable, because nobody can say then where rows begin and end.
 */
export function csvReader(tell: (row: Judged) => void): Reader {
  let header: Header | undefined
  /** The last line of the row before, and how many CRs inside of quotes were taken for lines. */
  let before = 0
  let surplus = 0

  function onRecord(record: string[], { lines }: { lines: number }): null {
    let line = lines - surplus
    if (line !== before + 1) {
      const crlf = record.reduce((sum, field) => sum + field.split('\r\n').length - 1, 0)
      const breaks = record.reduce((sum, field) => sum + field.split(/\r\n|\n|\r/).length - 1, 0)
      surplus += crlf
      before = lines - surplus
      line = before - breaks
    } else before = line
    checkLines(line)
    if (header === undefined) header = headerOf(line, record)
    else tell(rowOf(line, record, header))
    return null
  }

  const parser = new Parser({
    bom: true,
    on_record: onRecord,
    record_delimiter: ['\r\n', '\n', '\r'],
    relax_column_count: true,
    skip_empty_lines: true,
    max_record_size: lineBytesMax,
  })
  /** Told by whoever is waiting for it; without a listener it would be fatal. */
  parser.on('error', () => {})

  const understood = (error: Error): Error => {
    const reason = reasons[(error as CsvError).code]
    return reason ? new UnusableFile(before + 1, reason) : error
  }
  const done = (work: (callback: (error?: Error | null) => void) => void) =>
    new Promise<void>((resolve, reject) => {
      work((error) => (error ? reject(understood(error)) : resolve()))
    })

  return {
    async push(bytes) {
      await done((callback) => parser.write(bytes, callback))
      checkLines(parser.info.lines)
    },
    async end() {
      await done((callback) => parser.end(callback))
      if (header === undefined) throw new UnusableFile(1, 'the file is empty')
    },
  }
}

const reasons: Partial<Record<string, string>> = {
  CSV_QUOTE_NOT_CLOSED: 'a quote is opened and never closed',
  CSV_INVALID_CLOSING_QUOTE: 'something follows a closing quote that is no comma',
  INVALID_OPENING_QUOTE: 'a quote stands in the middle of a field that does not begin with one',
  CSV_MAX_RECORD_SIZE: `the row is over ${lineBytesMax} bytes, or a quote is never closed`,
}

function headerOf(line: number, names: string[]): Header {
  const unusable = (reason: string) => new UnusableFile(line, reason)
  if (names.length > columnsMax) throw unusable(`there are more than ${columnsMax} columns`)
  const code = names.indexOf('code')
  if (code === -1) {
    const found = names.map(shown).slice(0, 10).join(', ')
    throw unusable(`the header has no column \`code\`, only: ${found}`)
  }
  if (new Set(names).size < names.length) throw unusable('the header names a column twice')
  if (names.includes('')) throw unusable('the header has a column without a name')
  const max = names.indexOf('max_redemptions')
  const others = names
    .map((name, at): [string, number] => [name, at])
    .filter(([, at]) => at !== code && at !== max)
  const wrong = metadataFault(Object.fromEntries(others))
  if (wrong !== null) throw unusable(`the header ${wrong}`)
  if (names.some((name) => name.includes('\uFFFD'))) throw unusable('the header is not UTF-8')
  return { width: names.length, code, max, others }
}

function rowOf(line: number, record: string[], header: Header): Judged {
  const code = record[header.code]
  if (record.length !== header.width) {
    const reason = `has ${record.length} columns where the header has ${header.width}`
    return { line, code: shown(code), reason }
  }
  const filled = header.others.filter(([, at]) => record[at] !== '')
  const metadata =
    filled.length === 0 ? null : Object.fromEntries(filled.map(([name, at]) => [name, record[at]]))
  return judge(line, code, keptLimit(record[header.max]), metadata)
}

/** An empty cell is the book's limit. */
function keptLimit(text: string | undefined): number | null | undefined {
  if (text === undefined || text === '') return null
  if (text === 'unlimited') return 0
  return /^\d{1,10}$/.test(text) ? limitOf(Number(text)) : undefined
}
