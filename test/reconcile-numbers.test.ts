import { keys } from '../src/store/keys.ts'
import {
  aSale,
  book,
  change,
  matching,
  names,
  type Row,
  shard,
  sides,
  sql,
  stock,
  used,
  voidHeld,
  world,
} from './sale.ts'

/** What `reconcile` says of counters and limits that somebody changed by hand. */
aSale()

const numbers: Row[] = [
  [
    'a user’s counter was changed',
    () => world.redis.hincrby(keys.users(shard, book), 'u0', 3),
    () => [{ class: 'COUNTER_MISMATCH', what: matching(/user u0/), ...sides(5, 2) }],
  ],
  [
    'a user’s counter was deleted',
    () => world.redis.hdel(keys.users(shard, book), 'u1'),
    () => [{ class: 'COUNTER_MISMATCH', what: matching(/user u1/), ...sides(0, 2) }],
  ],
  [
    'a user’s counter was made up',
    () => world.redis.hset(keys.users(shard, book), 'mallory', 1),
    () => [{ class: 'COUNTER_MISMATCH', what: matching(/user mallory/), ...sides(1, 0) }],
  ],
  [
    'a user’s counter was deleted, and another one made up: there are as many as before',
    () =>
      world.redis
        .multi()
        .hdel(keys.users(shard, book), 'u1')
        .hset(keys.users(shard, book), 'mallory', 2)
        .exec(),
    () => [
      { class: 'COUNTER_MISMATCH', what: matching(/user u1/), ...sides(0, 2) },
      { class: 'COUNTER_MISMATCH', what: matching(/user mallory/), ...sides(2, 0) },
    ],
  ],
  [
    'held was changed in Redis',
    () => world.redis.hincrby(keys.book(shard, book), 'held', 2),
    () => [
      {
        ...{ class: 'COUNTER_MISMATCH', book_id: book, what: 'held of the book' },
        ...sides(12, { book_counters: 10, coupons: 10 }),
      },
    ],
  ],
  [
    'the number of void codes was changed in Redis',
    () => world.redis.hincrby(keys.book(shard, book), 'void', -1),
    () => [
      {
        ...{ class: 'COUNTER_MISMATCH', book_id: book, what: 'void of the book' },
        ...sides(1, { book_counters: 2, coupons: 2 }),
      },
    ],
  ],
  [
    'book_counters was changed by SQL',
    () => sql('UPDATE book_counters SET redeemed = 1 WHERE book_id = $1', book),
    () => [
      {
        ...{ class: 'COUNTER_MISMATCH', what: 'redeemed of the book' },
        ...sides(0, { book_counters: 1, coupons: 0 }),
      },
    ],
  ],
  [
    'left was changed in Redis',
    () => world.redis.hincrby(keys.book(shard, book), 'left', 5),
    () => [{ class: 'STOCK_MISMATCH', book_id: book, redis: { left: 25, stock: 20 } }],
  ],
  [
    'a code was taken from PostgreSQL',
    () => sql('DELETE FROM codes WHERE code = $1', stock),
    () => [
      { class: 'STOCK_MISMATCH', code: stock, postgres: { loaded: false } },
      { class: 'COUNTER_MISMATCH', postgres: { total_code_count: 32, codes: 31 } },
    ],
  ],
  [
    'the shard’s facts were changed in Redis',
    () => world.redis.hincrby(keys.meta(shard), 'facts', 1),
    () => [{ class: 'COUNTER_MISMATCH', shard, book_id: null, what: matching(/^facts/) }],
  ],
  [
    'the shard’s facts were changed by SQL',
    () => sql('UPDATE shards SET facts = facts + 7'),
    () => [{ class: 'COUNTER_MISMATCH', shard, book_id: null, what: matching(/^facts/) }],
  ],
  [
    'the journal lost entries',
    () => world.redis.xtrim(keys.journal(shard), 'MAXLEN', 2),
    () => [{ class: 'COUNTER_MISMATCH', what: matching(/damaged/), redis: { entries: 2 } }],
  ],
  [
    'a user has more than the book allows',
    async () => {
      await sql('UPDATE books SET max_assignments_per_user = 1 WHERE book_id = $1', book)
      await world.redis.hset(keys.book(shard, book), 'max_held', 1)
    },
    () =>
      ['u0', 'u1', 'u2', 'u3', 'u4'].map((user) => ({
        ...{
          class: 'CAP_EXCEEDED',
          book_id: book,
          what: matching(new RegExp(`user ${user} holds 2`)),
        },
        ...sides({ held: 2 }, { held: 2, limit: 1 }),
      })),
  ],
  [
    'a coupon was redeemed more often than its user may',
    async () => {
      await sql('UPDATE coupons SET redemptions = 3 WHERE code = $1', used)
      await sql('UPDATE ledger SET redemptions = 3 WHERE code = $1 AND version = 4', used)
      await change(used, 5, '3')
      await sql('UPDATE book_counters SET redeemed = 1 WHERE book_id = $1', book)
      await world.redis.hset(keys.book(shard, book), 'redeemed', 1)
    },
    () => [
      {
        class: 'CAP_EXCEEDED',
        code: used,
        ...sides({ redemptions: 3 }, { redemptions: 3, limit: 2 }),
      },
    ],
  ],
  [
    'the row of a void code says that it was redeemed more often than it may be',
    async () => {
      await sql('UPDATE coupons SET redemptions = 3, max_redemptions = 2 WHERE code = $1', voidHeld)
      await sql('UPDATE book_counters SET redeemed = redeemed + 1 WHERE book_id = $1', book)
      await world.redis.hincrby(keys.book(shard, book), 'redeemed', 1)
    },
    () => [
      {
        class: 'CAP_EXCEEDED',
        code: voidHeld,
        ...sides({ redemptions: 0 }, { redemptions: 3, limit: 2 }),
      },
    ],
  ],
]

names(numbers)
