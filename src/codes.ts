import { randomFillSync } from 'node:crypto'
import { type Problem, problem } from './problems.ts'

/** What a code may be, and how fresh ones are drawn. */
export const codeMaxLength = 50
/** Visible ASCII without the space: what everyone can type, print and put into a URL. */
export const codeSyntax = /^[\x21-\x7e]{1,50}$/

/** Crockford's base 32: no I, L, O or U, so that nobody misreads a code over the phone. */
export const crockford = '0123456789ABCDEFGHJKMNPQRSTVWXYZ'
const lettersAndDigits = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789'

/** Words that stand where a code may stand in a path: `POST /coupons/assign/random`. */
const reservedWords = new Set(
  ['assign', 'lock', 'unlock', 'redeem', 'random', 'user', 'claim', 'me'], //
)
export const isReserved = (code: string) =>
  code.length <= 6 && reservedWords.has(code.toLowerCase())

/** The codes of a counter book begin with its prefix, `7K3QZM-`, and nobody else's do. */
export const prefixLength = 7
export const prefixOf = (code: string): string | null =>
  code[prefixLength - 1] === '-' ? code.slice(0, prefixLength) : null

/** `before` and `after` are fixed; between them stand `length` characters drawn from `charset`. */
export type Shape = { before: string; after: string; length: number; charset: string }

export type PatternInput = { pattern?: string | null; length?: number; charset?: string }

/** Letters, digits, - and _, with one placeholder at most. */
const patternSyntax = /^[A-Za-z0-9_-]*(?:\{\}[A-Za-z0-9_-]*)?$/
export const isPattern = (text: string) => text.length <= codeMaxLength && patternSyntax.test(text)

/** The refusal of a pattern, naming the field it came in. */
export const invalidPattern = (path: string): Problem => ({
  ...problem('invalid-pattern'),
  errors: [{ path, message: 'must be letters, digits, - and _, with {} at most once' }],
})

/** The shape a pattern asks for: `{}` is the random part; a pattern without it is a prefix. */
export function codeShape({ pattern, length, charset }: PatternInput): Shape | Problem {
  if (!pattern)
    return { before: '', after: '', length: length ?? 16, charset: charset ?? crockford }
  if (!isPattern(pattern)) return invalidPattern('pattern')
  const [before = '', after = ''] = pattern.split('{}')
  const shape = { before, after, length: length ?? 8, charset: charset ?? lettersAndDigits }
  if (codeLength(shape) <= codeMaxLength) return shape
  const message = `makes codes of ${codeLength(shape)} characters; ${codeMaxLength} are allowed`
  return { ok: false, problem: 'invalid-request', errors: [{ path: 'pattern', message }] }
}

export const codeLength = ({ before, after, length }: Shape) =>
  before.length + length + after.length

/** How many codes a shape can make. */
export const space = ({ charset, length }: Shape): number => charset.length ** length

/**
 * Draws `n` codes of a shape. Each character takes one random byte; bytes that would favour some
 * characters are thrown away. The same code may come twice: whoever needs a set makes one.
 */
export function drawCodes(shape: Shape, n: number): string[] {
  const characters = table(shape.charset)
  const size = codeLength(shape)
  const code = Buffer.alloc(size, `${shape.before}${' '.repeat(shape.length)}${shape.after}`)
  const end = shape.before.length + shape.length
  const pool = Buffer.allocUnsafe(Math.min(65_536, Math.ceil(n * shape.length * 1.1) + 8))
  let next = pool.length
  const codes = new Array<string>(n)
  for (let i = 0; i < n; i++) {
    for (let at = shape.before.length; at < end; ) {
      if (next === pool.length) {
        randomFillSync(pool)
        next = 0
      }
      const character = characters[pool[next++]!]!
      if (character !== 0) code[at++] = character
    }
    codes[i] = code.toString('latin1', 0, size)
  }
  return codes
}

/** Codes of a counter book: its prefix and 80 random bits, so they need not be looked up first. */
export function drawCounterCodes(prefix: string, n: number): string[] {
  return drawCodes({ before: prefix, after: '', length: 16, charset: crockford }, n)
}

/** A prefix for a counter book. */
export function drawPrefix(): string {
  const length = prefixLength - 1
  return drawCodes({ before: '', after: '-', length, charset: crockford }, 1)[0]!
}

let lastCharset = ''
let lastTable = new Uint8Array(256)

/** Byte -> character; 0 where the byte must be drawn again. */
function table(charset: string): Uint8Array {
  if (charset === lastCharset) return lastTable
  const usable = 256 - (256 % charset.length)
  lastTable = Uint8Array.from({ length: 256 }, (_, byte) =>
    byte < usable ? charset.charCodeAt(byte % charset.length) : 0,
  )
  lastCharset = charset
  return lastTable
}
