import { createHash, createHmac, createSecretKey, randomBytes, timingSafeEqual } from 'node:crypto'
import { errors, jwtVerify, SignJWT } from 'jose'
import type { User } from '../ledger/accounts.ts'

/** The two kinds of credentials: a user's token (JWT, HS256) and a service's API key. */
const minutes = 30
const issuer = 'stampede'
const audience = 'stampede-api'
const algorithm = 'HS256'

export type Claims = { sub: string; expiresAt: number }
export type Tokens = ReturnType<typeof createTokens>

export function createTokens(secret: string, now: () => number = Date.now) {
  const key = createSecretKey(Buffer.from(secret, 'utf8'))
  return {
    issue(user: User): Promise<string> {
      const at = Math.floor(now() / 1000)
      return new SignJWT({ email: user.email, role: user.role })
        .setProtectedHeader({ alg: algorithm, typ: 'JWT' })
        .setSubject(user.user_id)
        .setIssuer(issuer)
        .setAudience(audience)
        .setIssuedAt(at)
        .setExpirationTime(at + minutes * 60)
        .sign(key)
    },

    /** Proves that a text is ours: HMAC-SHA-256, 43 characters of base64url. No token begins so. */
    seal: (text: string): string =>
      createHmac('sha256', key).update(`seal ${text}`).digest('base64url'),

    /** Whose token this is; null if it is not one of ours, or over. */
    async verify(token: string): Promise<Claims | null> {
      try {
        const { payload } = await jwtVerify(token, key, {
          algorithms: [algorithm],
          issuer,
          audience,
          requiredClaims: ['sub', 'exp'],
          currentDate: new Date(now()),
        })
        return { sub: payload.sub!, expiresAt: payload.exp! * 1000 }
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
