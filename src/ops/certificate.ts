import { createPrivateKey, createPublicKey, sign, verify } from 'node:crypto'
import type { Database } from '../ledger/database.ts'

/**
 * What a drain attests: everything up to these entries is in the ledger, nothing was taken in after them while
 * both stores were compared, and what came of that. What comes after somebody resumes is not in it.
 */
export type Attested = {
  installation: string
  at: string
  /** The one book that was drained; null: all of it was. */
  book: string | null
  /** Where each shard ended: no fact has a higher entry, of one book no fact of that book. */
  shards: { shard: number; epoch: number; entry: number; facts: number }[]
  books: { book_id: string; codes: number; coupons: number; digest: string }[]
  parked_facts: number
  /**
   * `exact`: nothing moved while both stores were compared. `live`: of one book, while others went on, so
   * what seemed to differ was looked at until it was so or not. Certificates of before 2026-11-30 do not say.
   */
  compared?: 'exact' | 'live'
  /** Distributions that wait for somebody to resume: none of their shares was on its way. */
  waiting_jobs?: string[]
  verdict: 'equal' | 'different'
}

/** `signature`: Ed25519 over the canonical text of the rest, base64url. */
export type Certificate = Attested & { signature: string }

type Keys = { private: string; public: string }

/**
 * The installation's key pair, as the migrations made it. Nobody makes another one here: under that, what was
 * signed before would not be genuine.
 */
async function keyPair(database: Database): Promise<Keys> {
  const { rows } = await database.query<{ value: Keys }>(
    `SELECT value FROM settings WHERE name = 'certificate_key'`,
  )
  if (!rows[0]) throw new Error('PostgreSQL has no key for certificates: run the migrations')
  return rows[0].value
}

/** The same text whatever order an object's members came in. */
function canonical(value: unknown): string {
  return JSON.stringify(value, (_, part) =>
    part && typeof part === 'object' && !Array.isArray(part)
      ? Object.fromEntries(Object.entries(part).sort(([a], [b]) => (a < b ? -1 : 1)))
      : part,
  )
}

export async function signCertificate(database: Database, what: Attested): Promise<Certificate> {
  const { private: pem } = await keyPair(database)
  const signature = sign(null, Buffer.from(canonical(what)), createPrivateKey(pem))
  return { ...what, signature: signature.toString('base64url') }
}

/** Whether this installation has signed exactly this. */
export async function isGenuine(database: Database, certificate: Certificate): Promise<boolean> {
  const { signature, ...what } = certificate
  const { public: pem } = await keyPair(database)
  const text = Buffer.from(canonical(what))
  return verify(null, text, createPublicKey(pem), Buffer.from(`${signature}`, 'base64url'))
}
