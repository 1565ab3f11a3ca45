import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Bench } from './bench.ts'
import { reconciled } from './distribute.ts'
import { reconcile } from './reconcile.ts'
import { type Target, target } from './targets.ts'

export type FilesReport = {
  rows: number
  importSeconds: { sent: number; done: number }
  exportSeconds: Record<string, number>
  peakMb: Record<string, number>
  differences: string[]
  targets: Target[]
}

const pollMs = 50
const linesPerChunk = 2_000
const alphabet = 'ABCDEFGHJKLMNPQRSTUVWXYZ23456789'

/** The codes of a file, always the same and in no order: i scrambled, in base 32. */
export function codeOf(i: number, mark = 'F'): string {
  let value = (Math.imul(i, 0x9e3779b1) ^ 0x5bd1e995) >>> 0
  let code = ''
  for (let c = 0; c < 7; c++) {
    code += alphabet[value % 32]
    value = Math.floor(value / 32)
  }
  return `${mark}-${code}-${i.toString(36)}`
}

/** A file of `rows` codes, made while it is sent: every tenth has a limit of its own and a note. */
function fileOf(rows: number, mark: string): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder()
  let next = 0
  return new ReadableStream({
    pull(controller) {
      let text = next === 0 ? 'code,max_redemptions,note\n' : ''
      const end = Math.min(rows, next + linesPerChunk)
      for (; next < end; next++)
        text +=
          next % 10 === 0 ? `${codeOf(next, mark)},3,note ${next}\n` : `${codeOf(next, mark)},,\n`
      controller.enqueue(encoder.encode(text))
      if (next === rows) controller.close()
    },
  })
}

/** The most that a process ever had in memory, and from when on that counts. */
const peakMbOf = (pid: number): number =>
  Number(/^VmHWM:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? 0) / 1024

/** Adds codes up so that their order does not matter. */
function fingerprint() {
  let sum = 0n
  let count = 0
  return {
    add(code: string) {
      count += 1
      sum += createHash('sha1').update(code).digest().readBigUInt64BE()
    },
    end: () => `${count} codes, ${BigInt.asUintN(64, sum)}`,
  }
}

/** A million codes from a file into a book, and out again: how long, in how much memory, and all of them? */
export async function files(bench: Bench): Promise<FilesReport> {
  const { client, options, pids, say, stores } = bench
  const rows = options.large
  const { book_id: book } = await client.call('POST', 'books', { name: 'From a file' })
  const differences: string[] = []
  const importSeconds = await importFile(bench, book, rows)
  say(
    `${rows} rows sent in ${importSeconds.sent.toFixed(1)} s, done ${importSeconds.done.toFixed(1)} s`,
  )
  const loaded = { id: book, total: rows, generateSeconds: 0 }
  say(
    `peak after it: API ${peakMbOf(pids.api).toFixed(0)} MB, worker ${peakMbOf(pids.worker).toFixed(0)} MB`,
  )
  differences.push(...(await reconcile(stores, loaded, { acknowledged: [], undecided: 0 })))

  const expected = fingerprint()
  for (let i = 0; i < rows; i++) expected.add(codeOf(i))
  const exportSeconds: Record<string, number> = {}
  for (const format of ['csv', 'ndjson']) {
    const { seconds, got } = await exportFile(bench, book, format)
    exportSeconds[format] = seconds
    if (got !== expected.end()) differences.push(`${format}: ${got} instead of ${expected.end()}`)
    say(`exported as ${format} in ${seconds.toFixed(1)} s`)
  }
  const peakMb = { api: peakMbOf(pids.api), worker: peakMbOf(pids.worker) }
  differences.push(...(await disturbed(bench, rows)))
  return {
    ...{ rows, importSeconds, exportSeconds, peakMb, differences },
    targets: [
      target('import, request to the end of its job, s', importSeconds.done, 'at most', 25),
      target('export as CSV, s', exportSeconds.csv!, 'at most', 20),
      target('export as NDJSON, s', exportSeconds.ndjson!, 'at most', 20),
      target('peak memory of the API, MB', peakMb.api, 'at most', 512),
      target('peak memory of the worker, MB', peakMb.worker, 'at most', 512),
    ],
  }
}

/** The same once more, the worker killed (kill -9) in the middle; and the export broken off, and gone on with. */
async function disturbed(bench: Bench, rows: number): Promise<string[]> {
  const { client, stores, say } = bench
  const { book_id: book } = await client.call('POST', 'books', { name: 'From a file, disturbed' })
  let killedAt: number | undefined
  const { done } = await importFile(bench, book, rows, 'G', async (at) => {
    if (killedAt !== undefined || at < rows / 3) return
    killedAt = at
    await bench.killWorker()
  })
  say(`worker killed at ${killedAt} of ${rows} rows: done ${done.toFixed(1)} s`)
  const loaded = { id: book, total: rows, generateSeconds: 0 }
  const differences = await reconcile(stores, loaded, { acknowledged: [], undecided: 0 })
  if (killedAt === undefined)
    differences.push('the worker was not killed: the import was over too soon')
  const expected = fingerprint()
  for (let i = 0; i < rows; i++) expected.add(codeOf(i, 'G'))
  const { got } = await exportFile(bench, book, 'csv', Math.floor(rows / 2))
  if (got !== expected.end()) differences.push(`broken off: ${got} instead of ${expected.end()}`)
  const { code, said } = await reconciled(bench)
  if (code !== 0) differences.push(`reconcile ended with ${code}: ${said.slice(0, 500)}`)
  return differences
}

async function importFile(
  { client }: Bench,
  book: string,
  rows: number,
  mark = 'F',
  look: (done: number) => Promise<void> = async () => {},
) {
  const start = performance.now()
  const seconds = () => (performance.now() - start) / 1000
  const { job_id } = await client.send(`books/${book}/imports?format=csv`, fileOf(rows, mark))
  const sent = seconds()
  for (;;) {
    const { state, error, done } = await client.call('GET', `jobs/${job_id}`)
    if (state === 'done') return { sent, done: seconds() }
    if (state === 'failed' || state === 'cancelled') throw new Error(`the import: ${error}`)
    await look(done)
    await sleep(pollMs)
  }
}

/** `breakAt`: after so many lines the download breaks off, and another one goes on behind the last of them. */
async function exportFile({ client }: Bench, book: string, format: string, breakAt = Infinity) {
  const start = performance.now()
  const path = `books/${book}/export/coupons?format=${format}`
  const got = fingerprint()
  const isHeaded = format === 'csv'
  const last = await download(await client.fetch(path), format, isHeaded, got, breakAt)
  if (last !== undefined)
    await download(
      await client.fetch(`${path}&after=${encodeURIComponent(last)}`),
      format,
      false,
      got,
    )
  return { seconds: (performance.now() - start) / 1000, got: got.end() }
}

/** Resolves to the last code before it was broken off; undefined: it came to its end. */
async function download(
  response: Response,
  format: string,
  isHeaded: boolean,
  got: ReturnType<typeof fingerprint>,
  breakAt = Infinity,
): Promise<string | undefined> {
  let count = 0
  let rest = ''
  let isHead = isHeaded
  // Read as fast as it comes; the check is part of the time.
  for await (const text of response.body!.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + text).split('\n')
    rest = lines.pop()!
    for (const line of lines) {
      if (!isHead) {
        const code = format === 'csv' ? line.slice(0, line.indexOf(',')) : JSON.parse(line).code
        got.add(code)
        if (++count === breakAt) return code
      }
      isHead = false
    }
  }
  return undefined
}
