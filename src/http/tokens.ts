import {
  createHash,
  createHmac,
  createSecretKey,
  type KeyObject,
  randomBytes,
  timingSafeEqual,
} from 'node:crypto'
import { errors, jwtVerify, SignJWT } from 'jose'
import type { User } from '../ledger/accounts.ts'

/** The two kinds of credentials: a user's token (JWT, HS256) and a service's API key. */
const minutes = 30
const issuer = 'stampede'
const audience = 'stampede-api'
const algorithm = 'HS256'

/** `generation`: of its account's tokens, as they were counted when it was issued. */
export type Claims = { sub: string; expiresAt: number; generation: number }
export type Tokens = ReturnType<typeof createTokens>

/** Which secret signed a token: nothing that tells the secret. */
const keyId = (secret: string) => sha256(`kid ${secret}`).toString('base64url').slice(0, 8)

/**
 * `secret` signs; what `previous` signed is still valid, so that a secret can be replaced while tokens are
 * out: docs/security.md says in which steps.
 */
export function createTokens(secret: string, now: () => number = Date.now, previous?: string) {
  const kid = keyId(secret)
  const keys = new Map<string, KeyObject>()
  for (const one of previous === undefined ? [secret] : [secret, previous])
    keys.set(keyId(one), createSecretKey(Buffer.from(one, 'utf8')))
  const key = keys.get(kid)!
  const sealBy = (by: KeyObject, text: string) =>
    createHmac('sha256', by).update(`seal ${text}`).digest('base64url')
  // Tokens of versions before this one name no key.
  const keyOf = (header: { kid?: string }) => {
    const known = keys.get(header.kid ?? kid)
    if (known === undefined) throw new errors.JWKSNoMatchingKey()
    return known
  }
  return {
    issue(user: User): Promise<string> {
      const at = Math.floor(now() / 1000)
      return new SignJWT({ email: user.email, role: user.role, gen: user.token_generation })
        .setProtectedHeader({ alg: algorithm, typ: 'JWT', kid })
        .setSubject(user.user_id)
        .setIssuer(issuer)
        .setAudience(audience)
        .setIssuedAt(at)
        .setExpirationTime(at + minutes * 60)
        .sign(key)
    },

    /** Proves that a text is ours: HMAC-SHA-256, 43 characters of base64url. No token begins so. */
    seal: (text: string): string => sealBy(key, text),
    /** Every seal that counts as ours. */
    seals: (text: string): string[] => [...keys.values()].map((one) => sealBy(one, text)),

    /** Whose token this is; null if it is not one of ours, or over. */
    async verify(token: string): Promise<Claims | null> {
      try {
        const { payload } = await jwtVerify(token, keyOf, {
          algorithms: [algorithm],
          issuer,
          audience,
          requiredClaims: ['sub', 'exp'],
          currentDate: new Date(now()),
        })
        const generation = typeof payload.gen === 'number' ? payload.gen : 0
        return { sub: payload.sub!, expiresAt: payload.exp! * 1000, generation }
      } catch (error) {
        if (error instanceof errors.JOSEError || error instanceof TypeError) return null
        throw error
      }
    },
  }
}

const keyShape = /^sk_([0-9a-f]{16})_([A-Za-z0-9_-]{43})$/

/** A fresh API key: 256 bits that are shown once, and what is kept of them. */
export function makeApiKey(): { key_id: string; key: string; secret_hash: string } {
  const key_id = randomBytes(8).toString('hex')
  const secret = randomBytes(32).toString('base64url')
  return { key_id, key: `sk_${key_id}_${secret}`, secret_hash: sha256(secret).toString('hex') }
}

export function readApiKey(token: string): { id: string; secret: string } | null {
  const parts = keyShape.exec(token)
  return parts && { id: parts[1]!, secret: parts[2]! }
}

export function secretFits(secret: string, storedHash: string): boolean {
  const stored = Buffer.from(storedHash, 'hex')
  return stored.length === 32 && timingSafeEqual(sha256(secret), stored)
}

/** Plain SHA-256 is enough for 256 random bits: nobody guesses them, at any speed. */
const sha256 = (text: string) => createHash('sha256').update(text).digest()
