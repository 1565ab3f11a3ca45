import { afterAll, beforeAll, expect, inject, test } from 'vitest'
import { policyFields } from '../src/store/books.ts'
import { keys } from '../src/store/keys.ts'
import { scriptSha } from '../src/store/lua.ts'
import { random as seeded } from './chaos/mind.ts'
import { type Look, openLook } from './look.ts'
import { copyShards } from './script.ts'
import { openWorld, until, type World } from './world.ts'

/**
 * The scripts that carry and repair: no client's words reach them, but what calls them may be broken.
 * What they refuse changes nothing, and what they do leaves a shard that is sound.
 */
const callsWanted = inject('long') ? 100_000 : 10_000
/** So many of a kind there must be among them; of few calls some kinds may have none. */
const atLeast = (among: number) => (inject('long') ? among : 0)
const callsPerRound = 50
/** A failure names the seed; put it here to see the same again. */
const seed = Math.floor(Math.random() * 2 ** 32)

let world: World
let codes: string
let counter: string
const shard = 0
const { meta, journal, coupons, redemptions } = {
  meta: keys.meta(shard),
  journal: keys.journal(shard),
  coupons: keys.coupons(shard),
  redemptions: keys.redemptions(shard),
}
/** Of what a key may be instead of what it should be. */
const oddText = keys.lock(shard, 'odd')
const newcomer = '00000000-0000-4000-8000-000000000000'

beforeAll(async () => {
  world = await openWorld({ shards: 1 })
  // An entry a node, so that a trim of two of them finds something to trim.
  await world.redis.config('SET', 'stream-node-max-entries', '1')
  codes = await world.makeBook({}, ['C-1', 'C-2', 'C-3', 'C-4'])
  counter = await world.makeBook({ kind: 'counter', units: 9 })
  for (const book_id of [codes, counter])
    await world.call('POST', 'coupons/assign', {
      as: world.service,
      body: { book_id, user_id: 'ann' },
      headers: { durability: 'postgres' },
    })
  await world.level()
  // What a worker does by the way would change what is looked at.
  await world.stopWorker()
  await world.redis.set(oddText, 'text')
})
afterAll(() => world.close())

const random = seeded(seed)
const below = (n: number) => Math.floor(random() * n)
const pick = <T>(from: readonly T[]): T => from[below(from.length)]!

const odd = [
  ...['', '0', '-1', '1.5', 'nan', 'inf', '-inf', '1e300', '1e15', '0x10', 'abc', ' 1', '1 ', '01'],
  ...['\t', 'a\tb', 'a\nb', '\0', '1\0', 'x'.repeat(5_000), '9'.repeat(19), '-', '+', '*', '$'],
  ...['1-', '-1-1', '1-1-1', '999-0', '1-999', 'left', 'version', 'ü€'],
]

const policy = policyFields({
  shard,
  book: '',
  version: 1,
  pushedVersion: 0,
  kind: 'codes',
  active: true,
  archived: false,
  opensAt: null,
  closesAt: -1_000,
  expiresAt: 8_640_000_000_000_000,
  maxRedemptions: 1,
  maxRedemptionsPerUser: null,
  maxAssignmentsPerUser: 3,
  lockPolicy: 'strict',
  lockSeconds: 300,
  durability: null,
  units: 0,
}).map(String)
const policyOf = (kind: string) => policy.map((value) => (value === 'codes' ? kind : value))

type Call = { script: string; keys: string[]; args: string[] }
const bookKeys = (book: string) => [meta, keys.book(shard, book)]
const ofBook = () => pick([codes, counter])

/** A call as the service would make it, of a shard in epoch `epoch`. */
const sane: Record<string, (epoch: string) => Omit<Call, 'script'>> = {
  book(epoch) {
    const book = pick([codes, counter, newcomer])
    return {
      keys: [...bookKeys(book), keys.users(shard, book)],
      args: [
        ...[epoch, String(1 + below(5)), book === newcomer ? '0' : '1'],
        book === counter ? String(9 + below(3)) : '0',
        ...policyOf(book === counter ? 'counter' : 'codes'),
      ],
    }
  },
  load: (epoch) => ({
    keys: [...bookKeys(codes), ...[keys.stock(shard, codes), coupons, keys.uses(shard, codes)]],
    args: [epoch, pick(['', '', '0', '7']), ...['C-1', 'C-2', `L-${below(9)}`, `L-${below(9)}`]],
  }),
  count(epoch) {
    const book = ofBook()
    return {
      keys: [...bookKeys(book), keys.stock(shard, book), keys.users(shard, book)],
      args: [epoch, '0'],
    }
  },
  show(epoch) {
    const book = ofBook()
    return {
      keys: [...bookKeys(book), keys.stock(shard, book), coupons, keys.uses(shard, book)],
      args: [epoch, '0', 'C-1', 'C-2', 'NOSUCH'],
    }
  },
  check: () => ({ keys: [meta, journal, coupons, redemptions], args: [pick(['', '1-1', '1-2'])] }),
  flushed: (epoch) => ({
    keys: [meta, journal],
    args: [epoch, pick(['0', '1', '2']), pick(['1', '2']), pick(['', '', '1-1', '1-2', '0-5'])],
  }),
  intake: (epoch) => ({
    keys: [meta],
    args: [epoch, pick(['open', 'stopped']), String(Date.now())],
  }),
  recovering: (epoch) => ({
    keys: [meta],
    args: [String(Number(epoch) + below(3)), pick(['mine', 'another'])],
  }),
  restore(epoch) {
    const [command, key, ...args] = pick([
      ['HSET', coupons, 'C-8', 'record', 'C-9', 'record'],
      ['HSET', keys.users(shard, codes), 'ben', '1'],
      ['SADD', keys.stock(shard, codes), 'C-8', 'C-9'],
      ['SET', keys.lock(shard, 'C-9'), 'token', 'PXAT', '9999999999999'],
      ['EXPIRE', keys.answers(shard, 1), '1000'],
      ['UNLINK', keys.lock(shard, 'C-9')],
    ]) as [string, string, ...string[]]
    return { keys: [meta, key], args: [epoch, 'mine', command, ...args] }
  },
  publish: (epoch) => ({
    keys: [meta, coupons, redemptions, journal],
    args: [epoch, 'mine', '2', 'open', epoch],
  }),
}

/** Makes nonsense of a call: other, missing or more arguments. */
function spoil(args: string[]): string[] {
  const spoilt = [...args]
  const at = () => below(spoilt.length + 1)
  for (let times = 1 + below(3); times > 0; times--) {
    const how = random()
    if (how < 0.6) spoilt[Math.min(at(), spoilt.length)] = pick(odd)
    else if (how < 0.75) spoilt.splice(at(), 1)
    else if (how < 0.85) spoilt.splice(at(), 0, pick(odd))
    else spoilt.length = at()
  }
  return spoilt
}

const send = ({ script, keys: names, args }: Call): Promise<unknown> =>
  world.redis
    .call('EVALSHA', [scriptSha(script), names.length, ...names, ...args])
    .catch((error: Error) => `error\t${error.message}`)

const effect = /^(pushed|loaded|flushed|intake|begun|restored|published)/

const kinds = { meta: 'hash', coupons: 'hash', redemptions: 'hash', journal: 'stream' } as const
const kindOf = (key: string) => {
  const [, kind] = key.split(':') as [string, string]
  return kind === 'stock' ? 'set' : kind === 'lock' ? 'string' : (kinds[kind as 'meta'] ?? 'hash')
}
const ofKind = () => ({
  hash: coupons,
  stream: journal,
  set: keys.stock(shard, codes),
  string: oddText,
})

/** The call with one key that is of another type than it should be; says which. */
function withWrongKey(call: Call): { call: Call; wrong: string } {
  const at = below(call.keys.length)
  const should = kindOf(call.keys[at]!)
  const [, other] = pick(Object.entries(ofKind()).filter(([kind]) => kind !== should))
  return {
    call: { ...call, keys: call.keys.with(at, other) },
    wrong: `${call.script} KEYS[${at + 1}]`,
  }
}

type Seen = { came: Record<string, number>; wrongType: Record<string, number> }
const count = (of: Record<string, number>, what: string) => {
  of[what] = (of[what] ?? 0) + 1
}

/** Sends calls in one go, each followed by a look at all there is; counts what came of them. */
async function sendAll(calls: { call: Call; wrong?: string }[], seen: Seen): Promise<void> {
  const begun = await look()
  const replies = await Promise.all(calls.map(({ call }) => Promise.all([send(call), look()])))
  let now = begun
  for (const [c, [reply, after]] of replies.entries()) {
    const { call, wrong } = calls[c]!
    const done = effect.test(String(reply))
    count(seen.came, `${call.script} ${done ? 'done' : 'not'}`)
    if (wrong && String(reply).includes('WRONGTYPE')) count(seen.wrongType, wrong)
    if (done && call.script === 'flushed' && after.entries < now.entries)
      count(seen.came, 'trimmed')
    if (after.wrong !== '' || (!done && after.digest !== now.digest))
      expect.fail(
        `${JSON.stringify(call).slice(0, 2_000)} was answered ${reply}, seed ${seed}: ` +
          (after.wrong || 'it changed something'),
      )
    now = after
  }
}

const names = Object.keys(sane)
const inRecovery = ['recovering', 'restore', 'publish']

/** Puts the shard under recovery by `mine`, under epoch 2. */
const begin = () => send({ script: 'recovering', keys: [meta], args: ['2', 'mine'] })

type Crafted = [script: string, what: string, spoil: (args: string[]) => string[]]
const crafted: Crafted[] = [
  ...['', 'abc', 'nan', '-1', '1e300'].map(
    (units): Crafted => [
      'book',
      `units ${units}`,
      ([e, , , , ...p]) => [e!, '9', '0', units, ...p],
    ],
  ),
  ['book', 'an odd field list', ([e, , , ...rest]) => [e!, '9', '0', ...rest.slice(0, -1)]],
  ['book', 'a field of its own', ([e, , , ...rest]) => [e!, '9', '0', ...rest, 'left', '5']],
  ['book', 'no fields', ([e]) => [e!, '9', '0', '0']],
  ['book', 'no units', ([e]) => [e!, '9', '0']],
  ['book', 'version nan', ([e, , , ...rest]) => [e!, 'nan', '0', ...rest]],
  ['book', 'units of a book of codes', ([e, , , , ...p]) => [e!, '9', '0', '5', ...p]],
  ['load', 'max abc', ([e]) => [e!, 'abc', 'L-1']],
  ['load', 'an empty code', ([e]) => [e!, '7', '']],
  ['load', 'a code with a tab', ([e]) => [e!, '7', 'a\tb']],
  ['load', 'too many', ([e]) => [e!, '7', ...Array.from({ length: 4_500 }, (_, i) => `L-${i}`)]],
  ['flushed', 'minid abc', ([e]) => [e!, '2', '2', 'abc']],
  ['flushed', 'no minid', ([e]) => [e!, '2', '2']],
  ['flushed', 'facts abc', ([e]) => [e!, '2', 'abc', '']],
  ['flushed', 'watermark 1e15', ([e]) => [e!, '1e15', '2', '']],
  ['flushed', 'a watermark beyond the last entry', ([e]) => [e!, '999', '2', '']],
  ['flushed', 'a minid beyond the watermark', ([e]) => [e!, '2', '2', '1-999']],
  ['flushed', 'the same in other words', ([e]) => [e!, '2', '2', '01-999']],
  ['flushed', 'a minid of a later epoch', ([e]) => [e!, '2', '2', '2-1']],
  ['intake', 'nothing', ([e]) => [e!, '']],
  ['intake', 'ajar', ([e]) => [e!, 'ajar', '1']],
  ['intake', 'no time', ([e]) => [e!, 'open']],
  ['intake', 'time inf', ([e]) => [e!, 'open', 'inf']],
  ...['nan', 'inf', '1e300', '2.5', '', '0x99', ' 9', '09'].map(
    (epoch): Crafted => ['recovering', `epoch ${epoch}`, () => [epoch, 'mine']],
  ),
  ['recovering', 'an empty token', () => ['9', '']],
  ['recovering', 'no token', () => ['9']],
]
const craftedInRecovery: Crafted[] = [
  ['publish', 'no facts', ([e, token]) => [e!, token!]],
  ['publish', 'no intake', ([e, token]) => [e!, token!, '2']],
  ['publish', 'facts abc', ([e, token]) => [e!, token!, 'abc', 'open', e!]],
  ['publish', 'intake ajar', ([e, token]) => [e!, token!, '2', 'ajar', e!]],
  ['publish', 'no calls', ([e, token]) => [e!, token!, '2', 'open']],
  ['publish', 'calls of none', ([e, token]) => [e!, token!, '2', 'open', '']],
  ['restore', 'no command', ([e, token]) => [e!, token!]],
  ['restore', 'FLUSHALL', ([e, token]) => [e!, token!, 'FLUSHALL']],
  ['restore', 'DEL', ([e, token]) => [e!, token!, 'DEL']],
  ['restore', 'RENAME', ([e, token]) => [e!, token!, 'RENAME', '{s0}:elsewhere']],
  ['restore', 'HSET of three', ([e, token]) => [e!, token!, 'HSET', 'a', 'b', 'c']],
  ['restore', 'SADD of none', ([e, token]) => [e!, token!, 'SADD']],
]

let asNew: () => Promise<void>
let look: () => Promise<Look>
beforeAll(async () => {
  asNew = await copyShards(world)
  look = await openLook(world, shard, [codes, counter, newcomer])
})

test.each([
  ...crafted.map((row) => [...row, false] as const),
  ...craftedInRecovery.map((row) => [...row, true] as const),
])('carriers  fail before they write: %s, %j', async (script, _, spoiled, recovering) => {
  await asNew()
  if (recovering) expect(await begin()).toBe('begun')
  const call = sane[script]!(recovering ? '2' : '1')
  if (script === 'book') {
    call.keys = [...bookKeys(newcomer), keys.users(shard, newcomer)]
    call.args = ['1', '9', '0', '0', ...policy]
  }
  const before = (await look()).digest
  const reply = await send({ script, keys: call.keys, args: spoiled(call.args) })
  expect(reply).toMatch(/^(error|fenced)\t/)
  expect((await look()).digest).toBe(before)
})

function makeCall(recovering: boolean): { call: Call; wrong?: string } {
  // In a recovery mostly what a recovery calls; a shard that one has begun serves nothing else.
  const script = pick(
    recovering && random() < 0.8 ? inRecovery : names.filter((name) => name !== 'recovering'),
  )
  const call = { script, ...sane[script]!(recovering ? '2' : '1') }
  if (script === 'recovering' && random() < 0.8) call.args[0] = '2'
  if (script === 'publish' && random() < 0.7) call.args[1] = 'another'
  // SET, EXPIRE and UNLINK of a recovery take a key of any type, rightly.
  const choosy = script !== 'restore' || /^(HSET|SADD)$/.test(call.args[2]!)
  if (choosy && random() < 0.2) return withWrongKey(call)
  return { call: random() < 0.3 ? call : { ...call, args: spoil(call.args) } }
}

test('carriers  change nothing where they refuse or fail, whatever they are sent', async () => {
  const seen: Seen = { came: {}, wrongType: {} }
  for (let sent = 0; sent < callsWanted; sent += callsPerRound) {
    await asNew()
    const recovering = random() < 0.3
    if (recovering) await begin()
    await sendAll(
      Array.from({ length: callsPerRound }, () => makeCall(recovering)),
      seen,
    )
  }
  const read = ['count', 'show', 'check']
  for (const script of names) {
    const { came } = seen
    if (!read.includes(script))
      expect(came[`${script} done`] ?? 0, `${script} done`).toBeGreaterThanOrEqual(atLeast(200))
    expect(came[`${script} not`] ?? 0, `${script} not`).toBeGreaterThanOrEqual(atLeast(200))
    for (const at of sane[script]!('1').keys.keys())
      expect(
        seen.wrongType[`${script} KEYS[${at + 1}]`] ?? 0,
        `${script} KEYS[${at + 1}]`,
      ).toBeGreaterThanOrEqual(atLeast(10))
  }
  expect(seen.came.trimmed ?? 0).toBeGreaterThanOrEqual(atLeast(50))
}, 120_000)

test('carriers  do what they are called for, afterwards as before', async () => {
  await asNew()
  await world.startWorker()
  await world.ready()
  const [shown] = await Promise.all([
    world.call('GET', 'coupons/C-1', { as: world.admin }),
    until(async () => (await look()).wrong === '', 'the shard is sound'),
  ])
  expect(shown.status).toBe(200)
})
