import { gzipSync } from 'node:zlib'
import fc from 'fast-check'
import { nastyText } from './arbitrary.ts'

/** A body that is no JSON, and what it calls itself. */
export type File = { type: string; content: string | Uint8Array<ArrayBuffer> }
type Row = { code: string; max_redemptions?: number }

const csvOf = (rows: Row[]) =>
  `code,max_redemptions\n${rows.map((row) => `${row.code},${row.max_redemptions ?? ''}\n`).join('')}`
const linesOf = (rows: Row[]) => rows.map((row) => `${JSON.stringify(row)}\n`).join('')
const part = (name: string, content: string, more = '') =>
  `--fuzz\r\nContent-Disposition: form-data; name="${name}"${more}\r\n\r\n${content}\r\n`
const fileName = '; filename="codes.csv"'
const formType = 'multipart/form-data; boundary=fuzz'

/** Rows as a file of each type that an import may take. */
const packed: Record<string, (rows: Row[]) => File> = {
  'text/csv': (rows) => ({ type: 'text/csv', content: csvOf(rows) }),
  'application/x-ndjson': (rows) => ({ type: 'application/x-ndjson', content: linesOf(rows) }),
  'application/gzip': (rows) => ({
    type: 'application/gzip',
    content: new Uint8Array(gzipSync(csvOf(rows))),
  }),
  'multipart/form-data': (rows) => ({
    type: formType,
    content: `${part('file', csvOf(rows), fileName)}--fuzz--\r\n`,
  }),
}

/** Small files of codes, of the types that the document names; `edge`: the longest codes, or no rows. */
export function filesOf(types: string[], edge: boolean): fc.Arbitrary<File> {
  const code = fc.stringMatching(edge ? /^[#-+\--~]{50}$/ : /^[A-Z0-9]{6,20}$/)
  const row = fc.record(
    { code, max_redemptions: fc.integer({ min: 1, max: 9 }) },
    {
      requiredKeys: ['code'],
    },
  )
  const rows = fc.array(row, { minLength: edge ? 0 : 1, maxLength: edge ? 1 : 4 })
  return fc.tuple(fc.constantFrom(...types), rows).map(([type, all]) => {
    const pack = packed[type]
    if (!pack) throw new Error(`no file is made of ${type} yet: teach test/fuzz/files.ts`)
    return pack(all)
  })
}

/** Files that are wrong in some way, under any type. */
export function spoiltFiles(types: string[]): fc.Arbitrary<File> {
  const whole = filesOf(types, false)
  const text = nastyText.chain((nasty) =>
    fc.constantFrom(
      ...[nasty, `code\n${nasty}\n`, `code,x\nA,"${nasty}\n`, `${nasty},code\nA,B\n`],
      ...[`{"code":"A","x":"${nasty}"}\n`, `{"code":${'['.repeat(3_000)}`],
      ...[part('file', `code\n${nasty}\n`, fileName), part('on_error', nasty)],
      `${part('file', 'code\nA\n', fileName)}${part(encodeURI(nasty.toWellFormed()), 'x')}--fuzz--`,
    ),
  )
  const bytes = fc.uint8Array({ maxLength: 200 }).map((drawn) => new Uint8Array(drawn))
  const half = whole.map(({ content }) => content.slice(0, content.length / 2))
  const type = fc.constantFrom(
    ...types,
    formType,
    'multipart/form-data',
    'text/csv; charset=utf-16',
  )
  return fc.record({ type, content: fc.oneof(text, bytes, half) })
}
