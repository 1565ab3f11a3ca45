import { failpoint } from '../failpoint.ts'
import type { Durability } from '../journal/entry.ts'
import { type Problem, problem } from '../problems.ts'
import { keys } from './keys.ts'
import { NotSent, type Place, RedisRefused, ReplyLost } from './place.ts'
import { type CouponRecord, unpackRecord } from './record.ts'

/** A book's policy as Redis decides by it. Times in ms since 1970, null where there is none. */
export type BookPolicy = {
  shard: number
  book: string
  version: number
  /** The version PostgreSQL knows Redis to have had; 0: the book was never in Redis. */
  pushedVersion: number
  kind: 'codes' | 'counter'
  /** 'stopped': no verb of it is taken in; false: nothing is assigned. */
  active: boolean | 'stopped'
  archived: boolean
  opensAt: number | null
  closesAt: number | null
  expiresAt: number | null
  /** 0: no limit. 1 where allow_multi_redemption is off. */
  maxRedemptions: number
  maxRedemptionsPerUser: number | null
  maxAssignmentsPerUser: number | null
  lockPolicy: 'strict' | 'holder' | 'required'
  lockSeconds: number
  durability: Durability | null
  /** Counter books: units ever added. Redis adds what is new to what is left. */
  units: number
}

export type BookCounts = {
  left: number
  held: number
  redeemed: number
  users: number
  void: number
}

const notReady: Problem = { ...problem('not-ready'), retryAfter: 1 }

/**
 * Calls a script whose repetition does no harm. A lost reply is therefore no riddle: it is
 * `not-ready`, and whoever asked asks again.
 */
async function callShard(
  place: Place,
  shard: number,
  script: string,
  keyList: string[],
  args: (string | number)[],
): Promise<{ ok: true; text: string } | Problem> {
  if (!place.gates[shard]!.pushable) return notReady
  try {
    const text = (await place.call(script, keyList, args)) as string
    failpoint('push.after-call')
    if (!text.startsWith('fenced')) return { ok: true, text }
    place.fenced(shard, text)
    return notReady
  } catch (error) {
    if (error instanceof RedisRefused) place.shut(shard, error.message)
    if (error instanceof RedisRefused || error instanceof NotSent || error instanceof ReplyLost)
      return notReady
    throw error
  }
}

/** The policy as fields of the book hash: name, value, name, value, ... */
export function policyFields(policy: BookPolicy): (string | number)[] {
  const flag = (value: boolean) => (value ? 1 : 0)
  const orEmpty = (value: string | number | null) => value ?? ''
  return Object.entries({
    kind: policy.kind,
    active: policy.active === 'stopped' ? 'stopped' : flag(policy.active),
    archived: flag(policy.archived),
    opens_at: orEmpty(policy.opensAt),
    closes_at: orEmpty(policy.closesAt),
    expires_at: orEmpty(policy.expiresAt),
    max: policy.maxRedemptions,
    max_per_user: orEmpty(policy.maxRedemptionsPerUser),
    max_held: orEmpty(policy.maxAssignmentsPerUser),
    lock_policy: policy.lockPolicy,
    lock_seconds: policy.lockSeconds,
    durability: orEmpty(policy.durability),
  }).flat()
}

/** lua/book.lua: the policy, if newer than what Redis has. Idempotent. */
export async function pushBook(place: Place, policy: BookPolicy): Promise<{ ok: true } | Problem> {
  const { shard, book } = policy
  const pushed = await callShard(
    place,
    shard,
    'book',
    [keys.meta(shard), keys.book(shard, book), keys.users(shard, book)],
    [
      place.gates[shard]!.epoch,
      policy.version,
      policy.pushedVersion,
      policy.units,
      ...policyFields(policy),
    ],
  )
  return pushed.ok ? { ok: true } : pushed
}

/** lua/load.lua: at most 1,000 codes into stock. `max` null: the book's, 0: no limit. Idempotent. */
export async function load(
  place: Place,
  shard: number,
  book: string,
  codes: string[],
  max: number | null,
): Promise<{ ok: true; added: number } | Problem> {
  const loaded = await callShard(
    place,
    shard,
    'load',
    [
      keys.meta(shard),
      keys.book(shard, book),
      keys.stock(shard, book),
      keys.coupons(shard),
      keys.uses(shard, book),
    ],
    [place.gates[shard]!.epoch, max ?? '', ...codes],
  )
  return loaded.ok ? { ok: true, added: Number(loaded.text.split('\t')[1]) } : loaded
}

/** lua/count.lua: the counters of one book, as Redis has them now. */
export async function bookCounts(
  place: Place,
  shard: number,
  book: string,
): Promise<({ ok: true } & BookCounts) | Problem> {
  const { epoch, seen } = place.gates[shard]!
  const counted = await callShard(
    place,
    shard,
    'count',
    [keys.meta(shard), keys.book(shard, book), keys.stock(shard, book), keys.users(shard, book)],
    [epoch, seen],
  )
  if (!counted.ok) return counted
  const [left, held, redeemed, users, gone] = counted.text.split('\t').slice(1).map(Number)
  return { ok: true, left: left!, held: held!, redeemed: redeemed!, users: users!, void: gone! }
}

export type Shown = {
  now: number
  /** 0: the book never expires. */
  expiresAt: number
  /** One per code, in order: a coupon, in stock or void (max 0: no limit), or none of these. */
  coupons: (
    | { is: 'coupon'; coupon: CouponRecord }
    | { is: 'stock' | 'void'; max: number }
    | { is: 'absent' }
  )[]
}

/** lua/show.lua: coupons of one book as they are now, by Redis' clock. */
export async function show(
  place: Place,
  shard: number,
  book: string,
  codes: string[],
): Promise<({ ok: true } & Shown) | Problem> {
  const { epoch, seen } = place.gates[shard]!
  const shown = await callShard(
    place,
    shard,
    'show',
    [
      keys.meta(shard),
      keys.book(shard, book),
      keys.stock(shard, book),
      keys.coupons(shard),
      keys.uses(shard, book),
    ],
    [epoch, seen, ...codes],
  )
  if (!shown.ok) return shown
  const [head, ...lines] = shown.text.split('\n').map((line) => line.split('\t'))
  return {
    ok: true,
    now: Number(head![1]),
    expiresAt: Number(head![2] || 0),
    coupons: lines.map(([is, ...values]) => {
      if (is === 'coupon') return { is, coupon: unpackRecord(values) }
      if (is === 'stock' || is === 'void') return { is, max: Number(values[0]) }
      return { is: 'absent' }
    }),
  }
}

/** Users per question: Redis is busy for less than a millisecond. */
const usersPerCall = 1_000

/** How many coupons of a book each of these users holds, as Redis counts now; nobody is refused by it. */
export async function heldBy(
  { redis }: Place,
  shard: number,
  book: string,
  users: string[],
): Promise<number[]> {
  const held: number[] = []
  for (let u = 0; u < users.length; u += usersPerCall) {
    const some = users.slice(u, u + usersPerCall)
    for (const count of await redis.hmget(keys.users(shard, book), ...some))
      held.push(Number(count ?? 0))
  }
  return held
}
