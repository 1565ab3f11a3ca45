import {
  codeLength,
  codeShape,
  drawCodes,
  isReserved,
  type PatternInput,
  prefixOf,
  type Shape,
  space,
} from '../codes.ts'
import type { Problem } from '../problems.ts'
import { addCodes, addFreshCodes, checkShape, countCodes, reservedPrefixes } from './codes.ts'
import { type Database, type Transaction, transaction } from './database.ts'
import { createJob, type Job, progressJob } from './jobs.ts'
import { countIn, type Load, type NewLoad, openLoad } from './loads.ts'
import { type Once, remember } from './once.ts'

/** Codes to generate. `max_redemptions`: null = the book's, 0 = no limit. */
export type Generation = PatternInput & {
  book_id: string
  count: number
  max_redemptions: number | null
  created_by: string
  /** Of the HTTP request that asked for it. */
  request_id?: string
  once?: Once
}

/** More rows a transaction are hardly faster, and hold back whoever needs the book's row. */
export const chunkSize = 25_000
/** Draws in a row that may find nothing free. Half of a shape's codes are: 64 tails do not happen. */
const emptyDrawsMax = 64
/** Above this chance of a clash, looking first is cheaper than writing a chunk twice. */
const clashesMax = 0.2

/** Draws up to `n` codes of a shape, adds those that are free to the load, and returns them. */
async function writeDrawn(tx: Transaction, load: Load, shape: Shape, n: number): Promise<string[]> {
  let drawn = [...new Set(drawCodes(shape, n))]
  if (codeLength(shape) <= 6) drawn = drawn.filter((code) => !isReserved(code))
  const reserved = await reservedPrefixes(tx, drawn)
  if (reserved.size > 0) drawn = drawn.filter((code) => !reserved.has(prefixOf(code) ?? ''))
  if (drawn.length === 0) return drawn
  drawn.sort()
  const clashes = (n * (await countCodes(tx))) / space(shape)
  return clashes < clashesMax ? addFreshCodes(tx, load, drawn) : addCodes(tx, load, drawn)
}

/**
 * Two transactions that want the same codes may wait for each other in a circle, when one of them
 * draws again. PostgreSQL ends one (or ends the wait); that one starts over.
 */
export async function untangled<T>(work: () => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await work()
    } catch (error) {
      const { code } = error as { code?: string }
      if ((code !== '40P01' && code !== '55P03') || attempt === 5) throw error
    }
  }
}

/** Generates all codes in one transaction: for counts that a client waits for. */
export async function generateNow(
  database: Database,
  wanted: Generation,
): Promise<{ load: Load; codes: string[] } | Problem> {
  const shape = codeShape(wanted)
  if ('problem' in shape) return shape
  const refusal = await checkShape(database, shape, wanted.count)
  if (refusal) return refusal
  const write = async (tx: Transaction) => {
    const load = await openLoad(tx, newLoad(wanted, null))
    const codes: string[] = []
    for (let empty = 0; codes.length < wanted.count; ) {
      const added = await writeDrawn(tx, load, shape, wanted.count - codes.length)
      codes.push(...added)
      empty = added.length === 0 ? empty + 1 : 0
      if (empty > emptyDrawsMax) throw new Error(`nothing free to draw for load ${load.load_id}`)
    }
    await remember(tx, wanted.once, { load_id: load.load_id })
    return { load: await countIn(tx, load, codes.length), codes }
  }
  return untangled(() => transaction(database, write))
}

/** Makes the job and the load of a large generation; workers/generate.ts does the work. */
export async function generateLater(
  database: Database,
  wanted: Generation,
): Promise<{ job: Job } | Problem> {
  const shape = codeShape(wanted)
  if ('problem' in shape) return shape
  const refusal = await checkShape(database, shape, wanted.count)
  if (refusal) return refusal
  const { book_id, count, created_by } = wanted
  return transaction(database, async (tx) => {
    const job = await createJob(tx, {
      kind: 'generate',
      book_id,
      total: count,
      input: shape,
      created_by,
    })
    await openLoad(tx, newLoad(wanted, job.job_id))
    await remember(tx, wanted.once, { job })
    return { job }
  })
}

function newLoad(wanted: Generation, job_id: string | null): NewLoad {
  const { book_id, count: total, max_redemptions, created_by, request_id } = wanted
  return { book_id, job_id, source: 'generate', total, max_redemptions, created_by, request_id }
}

/** The shape that a job's row holds. */
export const shapeOf = (job: Job) => job.input as Shape

/** Writes one chunk of a large generation: codes, counts and the job's progress, or none of it. */
export async function writeChunk(
  database: Database,
  job: Job,
  load: Load,
): Promise<{ load: Load; codes: string[] }> {
  const write = async (tx: Transaction) => {
    const n = Math.min(chunkSize, load.total - load.written)
    const codes = await writeDrawn(tx, load, shapeOf(job), n)
    const moved = await countIn(tx, load, codes.length)
    await progressJob(tx, job.job_id, moved.written)
    return { load: moved, codes }
  }
  return untangled(() => transaction(database, write))
}
