import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Bench } from './bench.ts'
import { reconcile } from './reconcile.ts'
import { reconciled } from './stampede.ts'
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

/** The same once more, with kill -9 of the worker in the middle of the import, of the API in that of the export. */
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
  const { got, seconds, brokenAt } = await exportFile(bench, book, 'csv', rows / 3)
  say(`API killed at ${brokenAt} of ${rows} lines: exported in ${seconds.toFixed(1)} s`)
  if (got !== expected.end()) differences.push(`broken off: ${got} instead of ${expected.end()}`)
  if (brokenAt === rows) differences.push('the export was over before the API was killed')
  differences.push(...(await reconciled(bench)))
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

/** `killAt`: after so many lines the API is killed, and a second download goes on behind the last whole one. */
async function exportFile(bench: Bench, book: string, format: string, killAt = Infinity) {
  const { client } = bench
  const start = performance.now()
  const path = `books/${book}/export/coupons?format=${format}`
  const got = fingerprint()
  let count = 0
  let last = ''
  let killing: Promise<void> | undefined
  const onCode = (code: string) => {
    got.add(code)
    last = code
    if (++count >= killAt) killing ??= bench.killApi()
  }
  const isWhole = await download(await client.fetch(path), format, format === 'csv', onCode).then(
    () => true,
    (error) => {
      if (!killing) throw error
      return false
    },
  )
  await killing
  const brokenAt = count
  if (!isWhole) {
    const rest = await client.fetch(`${path}&after=${encodeURIComponent(last)}`)
    await download(rest, format, false, onCode)
  }
  return { seconds: (performance.now() - start) / 1000, got: got.end(), brokenAt }
}

/** Rejects where the answer breaks off. */
async function download(
  response: Response,
  format: string,
  isHeaded: boolean,
  onCode: (code: string) => void,
): Promise<void> {
  let rest = ''
  let isHead = isHeaded
  // Read as fast as it comes; the check is part of the time.
  for await (const text of response.body!.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + text).split('\n')
    rest = lines.pop()!
    for (const line of lines) {
      if (!isHead)
        onCode(format === 'csv' ? line.slice(0, line.indexOf(',')) : JSON.parse(line).code)
      isHead = false
    }
  }
}
