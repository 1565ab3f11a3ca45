import { readFileSync } from 'node:fs'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { BookFacts } from '../src/recovery/directory.ts'
import { keys } from '../src/store/keys.ts'
import { openClient, placeOf, type Together, word } from './client.ts'
import { callScript } from './script.ts'
import { openWorld, type World } from './world.ts'

/**
 * All refusals of a script are made true at once, by writing into Redis what makes them so; then
 * the first is taken away, and so on down the list in its header. Nothing is audited here, because
 * none of it could have come about.
 */
let world: World
let place: BookFacts
let names = 0
const past = String(Date.now() - 60_000)
const future = String(Date.now() + 3_600_000)

beforeAll(async () => {
  world = await openWorld({ shards: 1 })
  place = await placeOf(world, await world.makeBook({}, 5))
  await world.redis.hset(keys.users(0, place.book), 'ann', 1)
})
afterAll(() => world.close())

/** Whether a refusal is to be true now. */
type Is = (refusal: string) => boolean

/** Writes what makes the book refuse, or the whole shard. */
let over = 0
async function policy(is: Is): Promise<void> {
  const before = over
  over = is('backlog') ? 600_000 : 0
  await world.redis.hincrby(keys.meta(0), 'facts', over - before)
  await world.redis.hset(keys.meta(0), 'intake', is('intake-stopped') ? 'stopped' : 'open')
  await world.redis.hset(keys.book(0, place.book), {
    archived: is('book-archived') ? 1 : 0,
    expires_at: is('book-expired') ? past : '',
    active: is('book-inactive') ? 0 : 1,
    opens_at: is('book-not-open') ? future : '',
    closes_at: is('book-closed') ? past : '',
    max_held: is('assignment-limit') ? 1 : '',
    max_per_user: is('redemption-limit') ? 1 : '',
    lock_policy: is('lock-required') ? 'required' : 'strict',
  })
}

/** Writes a coupon that is refused, or answers a code in stock. */
async function coupon(is: Is): Promise<string> {
  const isMine = is('already-assigned') || !is('coupon-not-found')
  const isUsed = is('coupon-redeemed') || is('coupon-in-use') || is('redemption-limit')
  const lockedUntil = is('coupon-locked') ? future : is('lock-expired') ? past : ''
  const code = `C-${++names}`
  if (is('not-ready') && !is('coupon-not-found')) return code
  if (is('coupon-void') && !is('coupon-not-found')) {
    await world.redis.hset(keys.coupons(0), code, `${place.book}\t`)
    return code
  }
  const record = [
    ...[isMine ? place.book : 'another', isMine ? 'ann' : 'ben', 2, past, past],
    ...[isUsed ? 1 : 0, is('coupon-redeemed') ? 1 : 9, lockedUntil && 'token', lockedUntil],
  ]
  await world.redis.hset(keys.coupons(0), code, record.join('\t'))
  return code
}

async function redemption(is: Is, code: string): Promise<string> {
  const id = `r-${++names}`
  if (is('already-rolled-back')) await world.redis.hset(keys.redemptions(0), id, `\t${code}`)
  return id
}

/** A key that Redis has: with the same body, or with another. */
async function keyed(is: Is, done: string): Promise<{ key: string; hash: string }> {
  if (!is('again') && !is('idempotency-key-reused')) return { key: '', hash: '' }
  const key = `key-${++names}`
  const day = Math.floor(Date.now() / 86_400_000)
  await world.redis.hset(keys.answers(0, day), key, `hash\t1-1\t${past}\top-0\t${done}`)
  return { key, hash: is('again') ? 'hash' : 'another' }
}

const record = ['book', 'ann', 2, past, past, 0, 1, '', ''].join('\t')
type Case = {
  verb: Together
  done: string
  request: (is: Is) => Promise<Record<string, string>> | Record<string, string>
}
const cases: Record<string, Case> = {
  assign: {
    verb: 'assign',
    done: 'assigned\t0\tCODE\t1',
    request: (is) => ({ user: 'ann', count: is('sold-out') ? '99' : '1', codes: '' }),
  },
  assign_code: {
    verb: 'assignCode',
    done: 'assigned\t0\tCODE\t1',
    async request(is) {
      const isHeld = is('already-assigned') || is('coupon-not-found')
      const stock = await world.redis.srandmember(keys.stock(0, place.book))
      return { user: 'ann', code: isHeld ? await coupon(is) : stock! }
    },
  },
  lock: {
    verb: 'lock',
    done: `locked\t0\t${record}`,
    request: async (is) => ({
      ...{ code: await coupon(is), user: 'ann', fresh: 'fresh', ttl_ms: '' },
      token: is('lock-expired') ? 'another' : '',
    }),
  },
  unlock: {
    verb: 'unlock',
    done: `unlocked\t0\t${record}`,
    request: async (is) => ({ code: await coupon(is), user: 'ann' }),
  },
  redeem: {
    verb: 'redeem',
    done: `redeemed\t0\tid\t${record}`,
    request: async (is) => ({
      ...{ code: await coupon(is), user: 'ann', redemption: `r-${++names}` },
      token: is('lock-expired') ? 'another' : '',
    }),
  },
  rollback: {
    verb: 'rollback',
    done: `rolled-back\t0\t${record}`,
    async request(is) {
      const code = await coupon(() => false)
      return { code, redemption: await redemption(is, code) }
    },
  },
  release: {
    verb: 'release',
    done: `released\t0\t${record}`,
    request: async (is) => ({ code: await coupon(is) }),
  },
  void: {
    verb: 'void',
    done: `voided\t0\t${record}`,
    request: async (is) => ({ code: await coupon(is) }),
  },
}

/** What a script refuses, in the order of its header. */
function documented(script: string): string[] {
  const text = readFileSync(new URL(`../lua/${script}.lua`, import.meta.url), 'utf8')
  const [, list] = /Replies to a request, first match wins\n(.*?)\n\n/s.exec(text)!
  const done = /^(assigned|locked|not-locked|unlocked|redeemed|rolled-back|released|voided)$/
  const all = [...list!.matchAll(/^ {4}(\S+)/gm)].map(([, name]) => name!)
  return all.filter((name) => !done.test(name))
}

test.each(Object.keys(cases))('precedence  of %s is the order in its header', async (script) => {
  const { verb, done, request } = cases[script]!
  const refusals = documented(script)
  const found: string[] = []
  for (let first = 0; first < refusals.length; first++) {
    const is: Is = (refusal) => refusals.indexOf(refusal) >= first
    await policy(is)
    const asked = { ...(await request(is)), ...(await keyed(is, done)) }
    const [outcome] = await openClient(world).together(verb, place.book, [asked])
    found.push(word(outcome!))
  }
  expect(refusals.length).toBeGreaterThan(4)
  expect(found).toEqual(refusals)
})

test('precedence  before all of these: fenced, and the same call again', async () => {
  const { redis } = world
  await policy(() => false)
  const ask = async (op: string) => {
    const requests = [{ user: 'cat', count: '1' }]
    return (await callScript(world, place, 'assign', requests, { op })).replace(
      /^done\t\d\t/,
      'done ',
    )
  }
  const first = await ask('op-1')
  expect(first).toMatch(/^done 1-\d+\t.*\nassigned\t0\t\S+\t1$/)
  const meta = keys.meta(0)
  await policy((refusal) => refusal === 'intake-stopped')
  await redis.hset(meta, 'epoch', 77)
  expect(await ask('op-1')).toBe('fenced\tmeta')
  await redis.hset(meta, 'epoch', 1)
  expect(await ask('op-1')).toBe(first)
  expect(await ask('op-2')).toMatch(/\nintake-stopped$/)
  await policy((refusal) => refusal === 'backlog')
  expect(await ask('op-2')).toMatch(/\nbacklog$/)
  await policy(() => false)
  expect(await ask('op-2')).toMatch(/\nassigned/)
})
