import { type Problem, problem } from '../problems.ts'
import { addCodes, reservedPrefixes } from './codes.ts'
import { type Database, type Transaction, unlessRefused } from './database.ts'
import { untangled } from './generate.ts'
import { countIn, type Load, openLoad } from './loads.ts'
import { type Once, remember } from './once.ts'

/** Codes that someone else made. `max_redemptions`: null = the book's, 0 = no limit. */
export type Upload = {
  book_id: string
  /** No code twice; reserved words are refused by whoever read the list. */
  codes: string[]
  max_redemptions: number | null
  on_duplicate: 'fail' | 'skip'
  created_by: string
  /** Of the HTTP request that asked for it. */
  request_id?: string
  once?: Once
}

/** So many offenders are named: enough to see what is wrong with a list. */
const offendersMax = 5

/** Adds a list of codes, all or (on_duplicate: skip) those that nobody has. */
export async function uploadCodes(
  database: Database,
  upload: Upload,
): Promise<{ load: Load; codes: string[] } | Problem> {
  const codes = upload.codes.toSorted()
  const reserved = await reservedPrefixes(database, codes)
  if (reserved.size > 0) return reservedRefusal(upload.codes, reserved)
  const { book_id, max_redemptions, created_by } = upload
  const write = async (tx: Transaction) => {
    const load = await openLoad(tx, {
      book_id,
      job_id: null,
      source: 'upload',
      total: codes.length,
      max_redemptions,
      created_by,
      request_id: upload.request_id,
    })
    const added = await addCodes(tx, load, codes)
    await remember(tx, upload.once, { load_id: load.load_id })
    if (added.length === codes.length) return { load: await countIn(tx, load, added.length), codes }
    if (upload.on_duplicate === 'fail') return taken(upload.codes, added)
    await tx.query('UPDATE loads SET total = $2 WHERE load_id = $1', [load.load_id, added.length])
    return { load: await countIn(tx, load, added.length), codes: added }
  }
  return untangled(() => unlessRefused(database, write))
}

function taken(wanted: string[], added: string[]): Problem {
  const free = new Set(added)
  const offenders = wanted.filter((code) => !free.has(code))
  const more = offenders.length - offendersMax
  const named = offenders.slice(0, offendersMax).join(', ')
  return problem('codes-exist', { codes: more > 0 ? `${named} and ${more} more` : named })
}

function reservedRefusal(codes: string[], reserved: Set<string>): Problem {
  const errors = codes
    .map((code, i) => ({ code, path: `codes[${i}]` }))
    .filter(({ code }) => reserved.has(code.slice(0, 7)))
    .slice(0, offendersMax)
    .map(({ path }) => ({ path, message: 'begins with the reserved prefix of a counter book' }))
  return { ok: false, problem: 'invalid-request', errors }
}
