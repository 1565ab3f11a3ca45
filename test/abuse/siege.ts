import { Agent, request } from 'node:http'

/**
 * Somebody guesses passwords and codes from a few addresses while honest clients shop from others. All
 * are of this machine: Linux lets whoever asks call from any address of 127.0.0.0/8.
 */
export type Site = {
  base: string
  /** A book with a code for everybody. */
  book: string
}
export type Sizes = { logins: number; codes: number; honest: number; attackers: number }
export type Tally = Record<string, number>
export type Told = {
  logins: Tally
  codes: Tally
  /** 429 without the headers that say when to come again. */
  unexplained: number
  served: number
  honest: number
  /** What an honest client heard that was not served, and when its slowest answer came. */
  unserved: string[]
  honestMs: { p50: number; p99: number }
  ms: number
}

const accountsPerAttacker = 3
const atOnce = 16
const password = 'correct horse'
// biome-ignore lint/suspicious/noExplicitAny: whatever came
type Answer = { status: number; headers: Record<string, unknown>; body: any }

/** A client at an address of its own. Its word about where it comes from is a lie, each time another. */
function client(base: string, localAddress: string, lies: boolean) {
  const agent = new Agent({ keepAlive: true, maxSockets: atOnce, localAddress } as object)
  let count = 0
  const call = (method: string, path: string, body?: unknown, as?: string): Promise<Answer> =>
    new Promise((resolve, reject) => {
      const text = body === undefined ? '' : JSON.stringify(body)
      const headers: Record<string, string> = { 'content-length': String(Buffer.byteLength(text)) }
      if (body !== undefined) headers['content-type'] = 'application/json'
      if (as !== undefined) headers.authorization = `Bearer ${as}`
      if (lies) headers['x-forwarded-for'] = `203.0.${++count >> 8}.${count & 255}`
      const asked = request(`${base}/api/v1/${path}`, { method, agent, headers }, (answer) => {
        let reply = ''
        answer.setEncoding('utf8')
        answer.on('data', (some) => (reply += some))
        answer.on('end', () => {
          const { statusCode: status = 0, headers: its } = answer
          resolve({ status, headers: its, body: reply === '' ? undefined : JSON.parse(reply) })
        })
      })
      asked.on('error', reject)
      asked.end(text)
    })
  return { call, close: () => agent.destroy() }
}
type Client = ReturnType<typeof client>

const register = async ({ call }: Client, email: string): Promise<string> => {
  const { status, body } = await call('POST', 'auth/register', { name: 'x', email, password })
  if (status !== 201) throw new Error(`no account: ${JSON.stringify(body)}`)
  return body.access_token
}

/** `count` times `work`, `width` of them at a time. */
async function many(count: number, width: number, work: (i: number) => Promise<void>) {
  let next = 0
  const lane = async () => {
    while (next < count) await work(next++)
  }
  await Promise.all(Array.from({ length: width }, lane))
}

export async function siege({ base, book }: Site, sizes: Sizes): Promise<Told> {
  const run = Date.now().toString(36)
  const emailOf = (i: number) => `honest-${run}-${i}@example.com`
  const attackers = Array.from({ length: sizes.attackers }, (_, i) =>
    client(base, `127.0.0.${i + 2}`, true),
  )
  const honest = Array.from({ length: sizes.honest }, (_, i) =>
    client(base, `127.0.1.${i + 1}`, false),
  )
  await many(sizes.honest, 4, async (i) => void (await register(honest[i]!, emailOf(i))))
  const spies = new Map<Client, string[]>()
  for (const [i, spy] of attackers.entries()) {
    const tokens = []
    for (let n = 0; n < accountsPerAttacker; n++)
      tokens.push(await register(spy, `spy-${run}-${i}-${n}@example.com`))
    spies.set(spy, tokens)
  }

  const told: Told = {
    ...{ logins: {}, codes: {}, unexplained: 0, served: 0, honest: sizes.honest, unserved: [] },
    ...{ honestMs: { p50: 0, p99: 0 }, ms: 0 },
  }
  const count = (tally: Tally, { status, headers, body }: Answer) => {
    const said = `${status} ${body?.code ?? ''}`.trim()
    tally[said] = (tally[said] ?? 0) + 1
    const waits = Number(headers['retry-after']) > 0 && /r=0;t=\d+$/.test(`${headers.ratelimit}`)
    if (status === 429 && !(waits && headers['ratelimit-policy'])) told.unexplained++
  }
  const begun = performance.now()
  const wrong = many(sizes.logins, atOnce * attackers.length, async (i) => {
    const spy = attackers[i % attackers.length]!
    // Their victims shop at the same time.
    const body = { email: emailOf(i % Math.min(20, sizes.honest)), password: `guess ${i}` }
    count(told.logins, await spy.call('POST', 'auth/login', body))
  })
  const verbs = ['lock', 'redeem', 'unlock', 'assign'] as const
  const guesses = many(sizes.codes, atOnce * attackers.length, async (i) => {
    const spy = attackers[i % attackers.length]!
    const tokens = spies.get(spy)!
    const token = tokens[Math.floor(i / attackers.length) % tokens.length]!
    const code = `GUESS-${i.toString(36).toUpperCase()}`
    const asked =
      i % 5 === 4
        ? spy.call('GET', `coupons/${code}`, undefined, token)
        : spy.call('POST', `coupons/${verbs[i % 5]}/${code}`, {}, token)
    count(told.codes, await asked)
  })
  const times: number[] = []
  const shops = many(sizes.honest, 20, async (i) => {
    const heard = await shop(honest[i]!, emailOf(i), book, times).catch((error) => `${error}`)
    if (heard === undefined) told.served++
    else told.unserved.push(heard)
  })
  await Promise.all([wrong, guesses, shops])
  told.ms = performance.now() - begun
  times.sort((a, b) => a - b)
  const at = (share: number) => Math.round(times[Math.floor(times.length * share)] ?? 0)
  told.honestMs = { p50: at(0.5), p99: at(0.99) }
  for (const one of [...attackers, ...honest]) one.close()
  return told
}

/** Signs in, mistypes a code once, gets a coupon, locks and redeems it; says what went wrong. */
async function shop({ call }: Client, email: string, book: string, times: number[]) {
  const timed = async (...args: Parameters<typeof call>) => {
    const started = performance.now()
    const answer = await call(...args)
    times.push(performance.now() - started)
    return answer
  }
  const login = await timed('POST', 'auth/login', { email, password })
  if (login.status !== 200) return `login: ${login.status} ${login.body?.code}`
  const token = login.body.access_token
  const typo = await timed('GET', `coupons/TYPO-${times.length}`, undefined, token)
  if (typo.status !== 404) return `typo: ${typo.status} ${typo.body?.code}`
  const got = await timed('POST', 'coupons/assign', { book_id: book }, token)
  if (got.status !== 200) return `assign: ${got.status} ${got.body?.code}`
  const { code } = got.body.coupons[0]
  const locked = await timed('POST', `coupons/lock/${code}`, {}, token)
  if (locked.status !== 200) return `lock: ${locked.status} ${locked.body?.code}`
  const { lock_token } = locked.body
  const used = await timed('POST', `coupons/redeem/${code}`, { lock_token }, token)
  if (![200, 202].includes(used.status)) return `redeem: ${used.status} ${used.body?.code}`
  return undefined
}

/** What docs/security.md promises, held against what happened. */
export function broken(told: Told, sizes: Sizes): string[] {
  const slack = 3 // of each user or address, under way when the limit was reached
  const faults: string[] = []
  const check = (name: string, tally: Tally, refused: string, most: number, all: number) => {
    const answered = tally[refused] ?? 0
    if (answered > most) faults.push(`${name}: ${answered} were answered, ${most} are allowed`)
    if (answered === 0) faults.push(`${name}: none was answered`)
    const throttled = tally['429 too-many-requests'] ?? 0
    if (answered + throttled !== all) faults.push(`${name}: ${JSON.stringify(tally)}`)
  }
  const { logins, codes, attackers } = sizes
  check('logins', told.logins, '401 invalid-credentials', attackers * (30 + slack), logins)
  // An address has 30, and its users 10 each: with three of them it is 30 either way.
  const guessers = attackers * accountsPerAttacker
  check('codes', told.codes, '404 coupon-not-found', guessers * (10 + slack), codes)
  if (told.unexplained > 0) faults.push(`${told.unexplained} of 429 do not say when to come again`)
  if (told.served < 0.95 * told.honest)
    faults.push(`${told.served} of ${told.honest} honest clients were served: ${told.unserved}`)
  return faults
}
