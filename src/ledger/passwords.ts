import { hash, type Options, verify } from '@node-rs/argon2'

/** OWASP's first choice for argon2id: 19 MiB, two passes, one lane. About 25 ms of one core. */
const options: Options = {
  // Algorithm.Argon2id: a const enum, which type stripping cannot read.
  algorithm: 2,
  memoryCost: 19_456,
  timeCost: 2,
  parallelism: 1,
}

/**
 * So many at a time. libuv has four threads, and tokens are verified on them too: a rush of logins
 * must not keep everybody else's requests waiting.
 */
const atOnce = 3
let working = 0
const waiting: (() => void)[] = []

async function inTurn<T>(work: () => Promise<T>): Promise<T> {
  if (working < atOnce) working++
  else await new Promise<void>((resolve) => waiting.push(resolve))
  try {
    return await work()
  } finally {
    const next = waiting.shift()
    if (next) next()
    else working--
  }
}

export const hashPassword = (password: string): Promise<string> =>
  inTurn(() => hash(password, options))

/** A hash of nothing that anybody knows: for addresses that are not registered. */
let decoy: Promise<string> | undefined

/**
 * Whether `password` fits. Without a stored hash it does the same work and says no, so that the
 * time of an answer does not tell which e-mail addresses are registered.
 */
export async function passwordFits(stored: string | undefined, password: string): Promise<boolean> {
  decoy ??= hashPassword(crypto.randomUUID())
  const known = stored ?? (await decoy)
  const fits = await inTurn(() => verify(known, password))
  return stored !== undefined && fits
}
