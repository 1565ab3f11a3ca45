import { afterAll, beforeAll, expect, inject, test } from 'vitest'
import type { BookPlace } from '../src/store/store.ts'
import { audit } from './audit.ts'
import { random as seeded } from './chaos/mind.ts'
import { openClient, placeOf } from './client.ts'
import { type Call, callScript, copyShards, digest, type VerbName } from './script.ts'
import { openWorld, type World } from './world.ts'

/** Requests to scripts. A failure names the seed; put it here to see the same again. */
const tuplesWanted = inject('long') ? 100_000 : 10_000
const seed = Math.floor(Math.random() * 2 ** 32)

let world: World
let books: string[]
beforeAll(async () => {
  world = await openWorld({ shards: 1 })
  const codes = Array.from({ length: 30 }, (_, i) => `H-${i}`)
  books = [
    await world.makeBook({ max_redemptions: 2, max_assignments_per_user: 9 }, codes),
    await world.makeBook({ kind: 'counter', units: 30, lock_policy: 'holder' }),
  ]
})
afterAll(() => world.close())

const random = seeded(seed)
const below = (n: number) => Math.floor(random() * n)
const pick = <T>(from: readonly T[]): T => from[below(from.length)]!
/** How much nonsense there is in a call, and which kind comes in it again and again. */
let nonsense = 0
let favourite = 0
/** Mostly what makes sense, sometimes what does not: or no call would ever get far. */
const mostly = (sane: readonly string[], insane: readonly string[]) => {
  if (random() >= nonsense) return pick(sane)
  return random() < 0.5 ? pick(insane) : insane[favourite % insane.length]!
}

const users = ['ann', 'ben', 'cat']
const oddText = [
  '',
  ' ',
  '\t',
  'ann\t1',
  'a\nb',
  '\0',
  'ü€🎟',
  '-',
  '0',
  'x'.repeat(5_000),
  '__proto__',
]
const oddNumbers = [
  '',
  '0',
  '-1',
  '1.5',
  'nan',
  'inf',
  '-inf',
  '1e300',
  '1e15',
  '-1e15',
  '0x10',
  'abc',
  ' 1',
]
/** Everything that earlier replies told of: hostile callers know what they are doing. */
const known = { codes: ['H-0', 'H-1', 'H-2'], tokens: ['token'], redemptions: [''] }

let fresh = 0
const argument: Record<string, () => string> = {
  user: () => mostly(users, oddText),
  count: () => mostly(['1', '1', '2', '5'], oddNumbers),
  code: () => mostly(known.codes, [...oddText, 'H-29', 'NOSUCH']),
  token: () => mostly([...known.tokens, ''], oddText),
  fresh: () => mostly([`fresh-${++fresh}`], oddText),
  ttl_ms: () => mostly(['', '60000', '3600000'], oddNumbers),
  // Any other text would be a redemption to Redis and none to PostgreSQL: the id is the API's own.
  redemption: () => mostly([crypto.randomUUID()], ['', '\t', 'a\nb', '\0']),
  key: () => (random() < 0.7 ? '' : `key-${below(40)}`),
  hash: () => pick(['one', 'two']),
  context: () => '{"actor":"user:hostile","request_id":"hostile"}',
}

function request(verb: VerbName, args: readonly string[], prefix: string | null) {
  const made = Object.fromEntries(args.map((arg) => [arg, argument[arg]?.() ?? '']))
  if (verb === 'rollback' && random() < 0.7) made.redemption = pick(known.redemptions)
  if (made.codes !== undefined && prefix) {
    const wanted = random() < 0.9 ? Number(made.count) : below(4)
    const codes = Array.from({ length: wanted > 0 && wanted < 9 ? wanted : 0 }, () => ++fresh)
    made.codes = codes.map((n) => `${prefix}${String(n).padStart(16, '0')}`).join(' ')
  }
  return made
}

const head = (): Call => ({
  op: crypto.randomUUID(),
  ...(random() < 0.05 ? { epoch: pick(oddNumbers) } : {}),
  ...(random() < 0.05 ? { seen: pick([...oddNumbers, '999999']) } : {}),
  ...(random() < 0.05 ? { backlog: pick(oddNumbers) } : {}),
  ...(random() < 0.05 ? { missing: below(5) } : {}),
})

/** Remembers codes, tokens and redemption ids of a reply. */
function learn(lines: readonly string[]): void {
  for (const line of lines) {
    const [is, , ...values] = line.split('\t')
    if (is === 'assigned') known.codes.push(...values.filter((_, v) => v % 2 === 0))
    if (is === 'locked') known.tokens.push(values[7]!)
    if (is === 'redeemed') known.redemptions.push(values[0]!)
  }
  for (const list of Object.values(known)) list.splice(0, list.length - 20)
}
const effect = /^(assigned|locked|unlocked|redeemed|rolled-back|released|voided)\t/

const args: Record<VerbName, readonly string[]> = {
  assign: ['user', 'count', 'codes', 'key', 'hash', 'context'],
  assignCode: ['user', 'code', 'key', 'hash', 'context'],
  lock: ['code', 'user', 'token', 'fresh', 'ttl_ms', 'key', 'hash', 'context'],
  unlock: ['code', 'user', 'key', 'hash', 'context'],
  redeem: ['code', 'user', 'token', 'redemption', 'key', 'hash', 'context'],
  rollback: ['code', 'redemption', 'key', 'hash', 'context'],
  release: ['code', 'key', 'hash', 'context'],
  void: ['code', 'key', 'hash', 'context'],
}

/** What random calls hit too seldom: requests that would only fail after something was written. */
const crafted: [VerbName, ...Record<string, string>[]][] = [
  ['assign', { user: 'ann', count: '-1' }, { user: 'ben', count: '2' }],
  ['assign', { user: 'ann', count: '1.5' }, { user: 'ben', count: '1.5' }],
  ['assign', { user: 'ann', count: 'nan' }, { user: 'ben', count: '1' }],
  ['assign', { user: 'ann', count: '0' }, { user: 'ben', count: '1' }],
  ['assign', { user: 'ann\tx', count: '1' }],
  ['assign', { user: '', count: '1' }],
  ['assignCode', { user: 'ann\tx', code: 'H-29' }],
  ['assignCode', { user: '', code: 'H-29' }],
  ...['1e300', 'inf', 'nan', '-1e15', '3600001', '999', '-1'].map(
    (ttl_ms): [VerbName, Record<string, string>] => [
      'lock',
      { code: 'H-28', user: 'dan', fresh: 'fresh', ttl_ms },
    ],
  ),
  ['lock', { code: 'H-28', user: 'dan', fresh: '', ttl_ms: '' }],
  ['lock', { code: 'H-28', user: 'dan', fresh: 'a\tb', ttl_ms: '' }],
  ['redeem', { code: 'H-28', user: 'dan', redemption: '' }],
  ['redeem', { code: 'H-28', user: 'dan', redemption: '\tH-28' }],
  ['release', { code: '' }],
  ['void', { code: '' }],
  ['void', { code: 'H-29' }, { code: 'a\tb' }],
  // A void code's record has nobody in it: nobody must not be taken for its holder.
  ['lock', { code: 'H-27', user: '', fresh: 'fresh', ttl_ms: '' }],
  ['unlock', { code: 'H-27', user: '' }],
  ['redeem', { code: 'H-27', user: '', redemption: 'r-1' }],
]

test.each(crafted)('scripts  fail before they write: %s %j %j', async (verb, ...requests) => {
  const place = await placeOf(world, books[0]!)
  const dan = { user: 'dan', code: 'H-28', context: '{"actor":"user:dan","request_id":"dan"}' }
  await callScript(world, place, 'assignCode', [dan])
  await callScript(world, place, 'void', [{ code: 'H-27', context: dan.context }])
  await world.level()
  const before = await digest(world)
  await expect(callScript(world, place, verb, requests)).rejects.toThrow()
  expect(await digest(world)).toBe(before)
})

/** What is sent in one go, each followed by a look at all that there is. */
type Sent = { verb: VerbName; place: BookPlace; requests: Record<string, string>[]; its: Call }

async function makeCall(): Promise<Sent> {
  const verb = pick(names)
  const place = await placeOf(world, pick(books))
  nonsense = pick([0, 0.05, 0.4])
  favourite = below(1_000)
  const requests = Array.from({ length: below(5) }, () => request(verb, args[verb], place.prefix))
  return { verb, place, requests, its: head() }
}

const names = Object.keys(args) as VerbName[]
const came: Record<string, number> = {}
let tuples = 0

/** Sends `calls` calls; every one that wrote nothing must have changed nothing. */
async function sendAll(calls: Sent[], before: string): Promise<string> {
  const send = ({ verb, place, requests, its }: Sent) =>
    callScript(world, place, verb, requests, its).catch((error: Error) => `error\t${error.message}`)
  // Pipelined: each pair reaches Redis before the next, as a connection keeps the order.
  const replies = await Promise.all(calls.map((call) => Promise.all([send(call), digest(world)])))
  let now = before
  const wrote: [Sent, string][] = []
  for (const [c, [reply, after]] of replies.entries()) {
    const { verb, requests, its } = calls[c]!
    const [first, ...lines] = reply.split('\n')
    const done = first!.startsWith('done') && lines.some((line) => effect.test(line))
    const refused = lines.includes('backlog') ? 'backlog' : 'refused'
    const kind = done ? 'done' : first!.startsWith('done') ? refused : first!.split('\t')[0]!
    came[kind] = (came[kind] ?? 0) + 1
    tuples += requests.length
    if (done) {
      learn(lines)
      wrote.push([calls[c]!, reply])
      now = after
    } else if (after !== now)
      expect.fail(`${reply} to ${JSON.stringify([verb, requests, its])}, seed ${seed}`)
  }
  const again = await Promise.all(wrote.map(([call]) => send(call)))
  expect(again, `the same calls again, seed ${seed}`).toEqual(wrote.map(([, reply]) => reply))
  expect(await digest(world), `after the same calls again, seed ${seed}`).toBe(now)
  return now
}

test('scripts  change nothing where they refuse or fail, whatever they are sent', async () => {
  await world.stopWorker()
  await world.level()
  const asNew = await copyShards(world)
  for (let round = 0; tuples < tuplesWanted; round++) {
    // Always from a small state, or most of the time would go into looking at a large one.
    if (round > 0) await asNew()
    let before = await digest(world)
    for (let chunk = 0; chunk < 60; chunk++) {
      const calls: Sent[] = []
      for (let call = 0; call < 30; call++) calls.push(await makeCall())
      before = await sendAll(calls, before)
    }
  }
  for (const kind of ['done', 'refused', 'error', 'fenced', 'backlog'])
    expect(came[kind], `${kind} among ${JSON.stringify(came)}`).toBeGreaterThan(tuplesWanted / 200)

  await world.startWorker()
  for (const book of books) await audit(world, { book })
  const client = openClient(world)
  expect((await client.show('H-0')).status).toBe(200)
}, 120_000)
