import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { csvReader } from '../src/files/csv.ts'
import { ndjsonReader } from '../src/files/ndjson.ts'
import { type Judged, lineBytesMax, type Reader, UnusableFile } from '../src/files/row.ts'

type Open = (tell: (row: Judged) => void) => Reader

/** What a reader tells of bytes that come in these pieces; a file that it cannot use is told last. */
async function read(open: Open, bytes: Buffer, cuts: number[]): Promise<unknown[]> {
  const told: unknown[] = []
  const reader = open((row) => told.push(row))
  const ends = [...new Set(cuts.map((cut) => cut % (bytes.length + 1)))].sort((a, b) => a - b)
  try {
    let from = 0
    for (const to of [...ends, bytes.length]) {
      await reader.push(bytes.subarray(from, to))
      from = to
    }
    await reader.end()
  } catch (error) {
    if (!(error instanceof UnusableFile)) throw error
    told.push({ unusable: error.message, line: error.line })
  }
  return told
}

const files: [string, Open, string][] = [
  [
    'CSV',
    csvReader,
    '\uFEFFcode,max_redemptions,é\r\nA,1,"x\r\ny ""q"""\r\n\r\nB,,ü\nC\r\nme,2,\rD,unlimited,"\n"\r\nE,,',
  ],
  ['CSV with an open quote', csvReader, 'code,x\r\nA,1\r\nB,"2\r\nC,3\r\n'],
  [
    'NDJSON',
    ndjsonReader,
    '\uFEFF{"code":"A","é":1}\r\n\n{"code":"B","max_redemptions":null}\nno\n{"code":"C"}',
  ],
]

describe('a file', () => {
  test.each(files)('of %s says the same in whatever pieces it comes', async (_, open, text) => {
    const bytes = Buffer.from(text)
    const whole = await read(open, bytes, [])
    await fc.assert(
      fc.asyncProperty(fc.array(fc.nat(200), { maxLength: 30 }), async (cuts) => {
        expect(await read(open, bytes, cuts)).toEqual(whole)
      }),
    )
  })

  test('of CSV names the line on which a row begins, whatever lines end with', async () => {
    const [, open, text] = files[0]!
    const told = (await read(open, Buffer.from(text), [])) as Judged[]
    expect(told.map(({ line, code }) => [line, code])).toEqual([
      ...[
        [2, 'A'],
        [5, 'B'],
        [6, 'C'],
        [7, 'me'],
        [8, 'D'],
        [10, 'E'],
      ],
    ])
  })

  test('of NDJSON keeps no more of an endless line than a line may have', async () => {
    const told: Judged[] = []
    const reader = ndjsonReader((row) => told.push(row))
    const piece = Buffer.alloc(1_000_000, 0x78)
    const before = process.memoryUsage().arrayBuffers
    for (let i = 0; i < 200; i++) await reader.push(piece)
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(20_000_000)
    await reader.push(Buffer.from('\n{"code":"A"}\n'))
    await reader.end()
    expect(told).toEqual([
      { line: 1, code: '', reason: `is over ${lineBytesMax} bytes` },
      { line: 2, code: 'A', max: null, metadata: null },
    ])
  })
})
