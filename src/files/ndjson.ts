import { checkLines, type Judged, judge, limitOf, lineBytesMax, type Reader } from './row.ts'

const newline = 10
const bom = Buffer.from([0xef, 0xbb, 0xbf])
const tooLong = `is over ${lineBytesMax} bytes`

/** Reads a JSON object a line. Of a line that is too long no more is kept than what may be there. */
export function ndjsonReader(tell: (row: Judged) => void): Reader {
  let line = 1
  let rest: Buffer[] = []
  let size = 0

  /** `isLent`: whoever gave the bytes may use them again. */
  function keep(bytes: Buffer, isLent: boolean): void {
    size += bytes.length
    if (size <= lineBytesMax) rest.push(isLent ? Buffer.from(bytes) : bytes)
  }

  function finish(): void {
    if (size > lineBytesMax) tell({ line, code: '', reason: tooLong })
    else if (size > 0) {
      let bytes = rest.length === 1 ? rest[0]! : Buffer.concat(rest)
      if (line === 1 && bytes.indexOf(bom) === 0) bytes = bytes.subarray(bom.length)
      const text = bytes.toString('utf8').trim()
      if (text !== '') tell(rowOf(line, text))
    }
    rest = []
    size = 0
  }

  return {
    push(bytes) {
      for (let from = 0; ; ) {
        const to = bytes.indexOf(newline, from)
        if (to === -1) {
          if (from < bytes.length) keep(bytes.subarray(from), true)
          return
        }
        keep(bytes.subarray(from, to), false)
        finish()
        checkLines(++line)
        from = to + 1
      }
    },
    end: finish,
  }
}

function rowOf(line: number, text: string): Judged {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    return { line, code: '', reason: text.includes('\uFFFD') ? 'is not UTF-8' : 'is not JSON' }
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    return { line, code: '', reason: 'is not a JSON object' }
  const { code, max_redemptions: max, ...others } = value as Record<string, unknown>
  return judge(line, code, keptLimit(max), others)
}

/** As in the API: left out it is the book's, null is no limit. */
function keptLimit(max: unknown): number | null | undefined {
  if (max === undefined) return null
  if (max === null || max === 'unlimited') return 0
  return typeof max === 'number' ? limitOf(max) : undefined
}
