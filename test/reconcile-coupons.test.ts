import { keys } from '../src/store/keys.ts'
import {
  aSale,
  book,
  change,
  held,
  locked,
  matching,
  names,
  type Row,
  record,
  redemption,
  shard,
  sides,
  sql,
  stock,
  used,
  voidHeld,
  voidStock,
  world,
} from './sale.ts'

/** What `reconcile` says of coupons, redemptions, stock and guards that somebody changed by hand. */
aSale()

const coupons: Row[] = [
  [
    'a coupon row was changed by SQL',
    () => sql("UPDATE coupons SET user_id = 'mallory' WHERE code = $1", held[0]),
    () => [
      {
        ...{ class: 'STATE_MISMATCH', code: held[0], book_id: book, shard },
        what: 'coupons differs from Redis and the ledger',
        redis: { in_stock: false, coupon: { user_id: 'u0', version: 1 } },
        postgres: { coupons: { user_id: 'mallory' }, ledger: { user_id: 'u0', version: 1 } },
      },
    ],
  ],
  [
    'a coupon row has more redemptions than it may have',
    () => sql('UPDATE coupons SET redemptions = 3 WHERE code = $1', used),
    () => [
      {
        ...{ class: 'STATE_MISMATCH', code: used },
        ...sides({ coupon: { redemptions: 1 } }, { coupons: { redemptions: 3 } }),
      },
    ],
  ],
  [
    'a coupon row was deleted',
    () => sql('DELETE FROM coupons WHERE code = $1', held[1]),
    () => [
      {
        ...{ class: 'STATE_MISMATCH', code: held[1] },
        ...sides({ coupon: { user_id: 'u1' } }, { coupons: null, ledger: { user_id: 'u1' } }),
      },
    ],
  ],
  [
    'a coupon row was added for a code in stock',
    () =>
      sql(
        `INSERT INTO coupons SELECT $1, book_id, user_id, version, redemptions, max_redemptions,
           lock_token, locked_until, assigned_at, updated_at FROM coupons WHERE code = $2`,
        stock,
        held[0],
      ),
    () => [
      {
        ...{ class: 'STOCK_MISMATCH', code: stock },
        ...sides({ in_stock: true, coupon: null }, { coupons: { user_id: 'u0' }, ledger: null }),
      },
    ],
  ],
  [
    'a record in Redis was changed',
    () => change(held[2]!, 1, 'mallory'),
    () => [
      {
        ...{ class: 'STATE_MISMATCH', code: held[2] },
        what: 'Redis differs from coupons and the ledger',
        redis: { coupon: { user_id: 'mallory' } },
        postgres: { coupons: { user_id: 'u2' }, ledger: { user_id: 'u2' } },
      },
    ],
  ],
  [
    'a record in Redis has another deadline',
    () => change(locked, 8, '1795132800000'),
    () => [
      {
        ...{ class: 'STATE_MISMATCH', code: locked },
        redis: { coupon: { locked_until: '2026-11-20T00:00:00.000Z' } },
      },
    ],
  ],
  [
    'a record in Redis was overwritten with anything',
    () => world.redis.hset(keys.coupons(shard), locked, '\t\t\t9e99\t\t\t\t\t99999999999999999'),
    () => [{ class: 'STATE_MISMATCH', code: locked, postgres: { coupons: { user_id: 'u3' } } }],
  ],
  [
    'a record in Redis was deleted',
    () => world.redis.hdel(keys.coupons(shard), held[3]!),
    () => [
      {
        ...{ class: 'STATE_MISMATCH', code: held[3] },
        ...sides({ in_stock: false, coupon: null }, { coupons: { user_id: 'u3' } }),
      },
    ],
  ],
  [
    'a record in Redis was made up',
    async () => world.redis.hset(keys.coupons(shard), 'MADE-UP', await record(held[0]!)),
    () => [
      {
        ...{ class: 'STATE_MISMATCH', code: 'MADE-UP', book_id: book },
        ...sides({ coupon: { user_id: 'u0' } }, { loaded: false, coupons: null, ledger: null }),
      },
    ],
  ],
  [
    'a code was removed from stock',
    () => world.redis.srem(keys.stock(shard, book), stock),
    () => [
      {
        ...{ class: 'UNDERSOLD', code: stock, book_id: book },
        ...sides({ in_stock: false, coupon: null }, { loaded: true, coupons: null }),
      },
    ],
  ],
  [
    'a code was taken from stock, and one that nobody knows put there: there are as many as before',
    () =>
      world.redis
        .multi()
        .srem(keys.stock(shard, book), stock)
        .sadd(keys.stock(shard, book), 'MADE-UP')
        .exec(),
    () => [
      { class: 'STOCK_MISMATCH', code: 'MADE-UP', book_id: book },
      { class: 'UNDERSOLD', code: stock, book_id: book },
    ],
  ],
  [
    'a code that nobody knows is in stock',
    () => world.redis.sadd(keys.stock(shard, book), 'MADE-UP'),
    () => [
      {
        ...{ class: 'STOCK_MISMATCH', code: 'MADE-UP', book_id: book },
        ...sides({ in_stock: true }, { loaded: false, coupons: null }),
      },
    ],
  ],
  [
    'a code that somebody has is in stock',
    () => world.redis.sadd(keys.stock(shard, book), held[4]!),
    () => [
      {
        ...{ class: 'STOCK_MISMATCH', code: held[4] },
        ...sides({ in_stock: true, coupon: { user_id: 'u4' } }, { coupons: { user_id: 'u4' } }),
      },
    ],
  ],
  [
    'a void code came back into stock',
    () => world.redis.sadd(keys.stock(shard, book), voidStock),
    () => [
      {
        ...{ class: 'STOCK_MISMATCH', code: voidStock, book_id: book },
        what: 'in stock in Redis, void in PostgreSQL',
        ...sides({ in_stock: true }, { loaded: true, coupons: { user_id: null } }),
      },
    ],
  ],
  [
    'a void code is a coupon again in Redis',
    async () => world.redis.hset(keys.coupons(shard), voidHeld, await record(held[0]!)),
    () => [
      {
        ...{ class: 'STATE_MISMATCH', code: voidHeld, book_id: book },
        what: 'Redis differs from coupons and the ledger',
        ...sides({ coupon: { user_id: 'u0' } }, { coupons: { user_id: null } }),
      },
    ],
  ],
  [
    'Redis forgot that a code is void',
    () => world.redis.hdel(keys.coupons(shard), voidStock),
    () => [
      {
        ...{ class: 'STATE_MISMATCH', code: voidStock },
        ...sides({ in_stock: false, coupon: null }, { coupons: { user_id: null } }),
      },
    ],
  ],
  [
    'a void code was given to somebody by SQL',
    () => sql("UPDATE coupons SET user_id = 'mallory' WHERE code = $1", voidStock),
    () => [
      {
        ...{ class: 'STATE_MISMATCH', code: voidStock },
        what: 'coupons differs from Redis and the ledger',
        ...sides({ coupon: { user_id: null } }, { coupons: { user_id: 'mallory' } }),
      },
    ],
  ],
  [
    'PostgreSQL forgot that a code is void',
    () => sql('DELETE FROM coupons WHERE code = $1', voidHeld),
    () => [
      {
        ...{ class: 'STATE_MISMATCH', code: voidHeld },
        ...sides({ coupon: { user_id: null } }, { coupons: null, ledger: { user_id: null } }),
      },
    ],
  ],
  [
    'a code lost its own limit',
    () => world.redis.hdel(keys.uses(shard, book), 'OWN-1'),
    () => [{ class: 'STOCK_MISMATCH', code: 'OWN-1', what: matching(/null in Redis, 7 in/) }],
  ],
  [
    'a redemption was forgotten',
    () => world.redis.hdel(keys.redemptions(shard), redemption),
    () => [
      {
        ...{ class: 'STATE_MISMATCH', code: used, what: `redemption ${redemption}` },
        ...sides(null, { code: used, rolled_back: false }),
      },
    ],
  ],
  [
    'a redemption was rolled back by SQL',
    () => sql('UPDATE redemptions SET rolled_back_at = now() WHERE redemption_id = $1', redemption),
    () => [
      {
        ...{ class: 'STATE_MISMATCH', code: used },
        ...sides({ code: used, rolled_back: false }, { code: used, rolled_back: true }),
      },
    ],
  ],
  [
    'a redemption was made up',
    () => world.redis.hset(keys.redemptions(shard), 'not-a-uuid', used),
    () => [{ class: 'STATE_MISMATCH', code: used, ...sides({ code: used }, null) }],
  ],
  [
    'a policy was changed in Redis',
    () => world.redis.hset(keys.book(shard, book), 'max_held', 400),
    () => [
      {
        ...{ class: 'STATE_MISMATCH', book_id: book, what: 'the policy of the book: max_held' },
        ...sides({ max_held: '400' }, { max_held: '4' }),
      },
    ],
  ],
]

const locks: Row[] = [
  [
    'a guard was deleted',
    () => world.redis.del(keys.lock(shard, locked)),
    () => [
      {
        ...{ class: 'LOCK_MISMATCH', code: locked, what: 'a live lock without its guard' },
        redis: { guard: null, coupon: { token: matching(/^.{4}\.\.\.$/) } },
        postgres: { coupons: { token: matching(/^.{4}\.\.\.$/) } },
      },
    ],
  ],
  [
    'a guard has another token',
    () => world.redis.set(keys.lock(shard, locked), 'another', 'KEEPTTL'),
    () => [{ class: 'LOCK_MISMATCH', code: locked, redis: { guard: { token: 'anot...' } } }],
  ],
  [
    'a guard never ends',
    () => world.redis.persist(keys.lock(shard, locked)),
    () => [{ class: 'LOCK_MISMATCH', code: locked, redis: { guard: { until: null } } }],
  ],
  [
    'a guard of a coupon that nobody has locked',
    () => world.redis.set(keys.lock(shard, held[0]!), 'token', 'PX', 600_000),
    () => [
      {
        ...{ class: 'LOCK_MISMATCH', code: held[0], what: 'a guard without a live lock' },
        ...sides({ coupon: null }, { coupons: null }),
      },
    ],
  ],
  [
    'a guard of a code in stock',
    () => world.redis.set(keys.lock(shard, stock), 'token', 'PX', 600_000),
    () => [{ class: 'LOCK_MISMATCH', code: stock, book_id: book }],
  ],
]

names([...coupons, ...locks])
