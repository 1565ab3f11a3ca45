import { createPrivateKey, createPublicKey, generateKeyPairSync, sign, verify } from 'node:crypto'
import type { Database } from '../ledger/database.ts'

/** What a drain attests: everything up to these entries is in the ledger, and both stores agree. */
export type Attested = {
  installation: string
  at: string
  /** The one book that was drained; null: all of it was. */
  book: string | null
  /** Where each shard ended: no fact has a higher entry, of one book no fact of that book. */
  shards: { shard: number; epoch: number; entry: number; facts: number }[]
  books: { book_id: string; codes: number; coupons: number; digest: string }[]
  parked_facts: number
  verdict: 'equal' | 'different'
}

/** `signature`: Ed25519 over the canonical text of the rest, base64url. */
export type Certificate = Attested & { signature: string }

type Keys = { private: string; public: string }

/** The installation's key pair, made when it is first needed and kept beside its id. */
async function keyPair(database: Database): Promise<Keys> {
  const pair = generateKeyPairSync('ed25519', {
    privateKeyEncoding: { type: 'pkcs8', format: 'pem' },
    publicKeyEncoding: { type: 'spki', format: 'pem' },
  })
  await database.query(
    `INSERT INTO settings (name, value) VALUES ('certificate_key', $1) ON CONFLICT DO NOTHING`,
    [JSON.stringify({ private: pair.privateKey, public: pair.publicKey })],
  )
  const { rows } = await database.query<{ value: Keys }>(
    `SELECT value FROM settings WHERE name = 'certificate_key'`,
  )
  return rows[0]!.value
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
