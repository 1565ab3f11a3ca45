import { expect } from 'vitest'
import {
  aSale,
  book,
  copy,
  forge,
  forget,
  held,
  matching,
  names,
  place,
  type Row,
  sides,
  sql,
  used,
  voidHeld,
  voidStock,
} from './sale.ts'

/** What `reconcile` says of the facts of the ledger that somebody changed by hand. */
aSale()

const ledger: Row[] = [
  [
    'the only fact of a coupon was deleted',
    () => forget(held[0]!, 1),
    () => [
      {
        ...{ class: 'SEQUENCE_GAP', code: held[0], book_id: book },
        what: matching(/^the ledger lacks a fact: nothing between .* and 0\/\d+-\d+\/0$/),
        redis: { coupon: { user_id: 'u0' } },
        postgres: { coupons: { user_id: 'u0' }, ledger: null },
      },
    ],
  ],
  [
    'a fact between two others was deleted',
    () => forget(used, 2),
    () => [
      {
        class: 'SEQUENCE_GAP',
        code: used,
        what: matching(/^the ledger lacks a fact after .* and before /),
      },
    ],
  ],
  [
    'the last fact of a coupon was deleted',
    () => forget(held[7]!, 3),
    () => [
      {
        ...{ class: 'SEQUENCE_GAP', code: held[7] },
        postgres: { coupons: { version: 3 }, ledger: { version: 2 } },
      },
    ],
  ],
  [
    'the release of a code was deleted',
    () => sql("DELETE FROM ledger WHERE kind = 'release' AND book_id = $1", book),
    () => [
      {
        ...{ class: 'SEQUENCE_GAP', code: 'CODE-20' },
        ...sides({ in_stock: true, coupon: null }, { coupons: null, ledger: { user_id: 'u0' } }),
      },
    ],
  ],
  [
    'the void of a code that somebody had was deleted',
    () => forget(voidHeld, 2),
    () => [
      {
        ...{ class: 'SEQUENCE_GAP', code: voidHeld },
        postgres: { coupons: { user_id: null }, ledger: { user_id: 'u0' } },
      },
    ],
  ],
  [
    'the void of a code in stock was deleted',
    () => forget(voidStock, 1),
    () => [
      {
        ...{ class: 'SEQUENCE_GAP', code: voidStock },
        postgres: { coupons: { user_id: null }, ledger: null },
      },
    ],
  ],
  [
    'the newest fact of all was deleted',
    () => sql('DELETE FROM ledger WHERE n = (SELECT max(n) FROM ledger)'),
    () => [{ class: 'SEQUENCE_GAP', what: matching(/and the checkpoint$/) }],
  ],
  [
    'one fact of an entry was deleted',
    () => sql("DELETE FROM ledger WHERE kind = 'assign' AND book_id <> $1 AND i = 1", book),
    () => [
      { class: 'SEQUENCE_GAP', what: matching(/nothing between 0\/1-\d+\/0 and 0\/1-\d+\/2$/) },
    ],
  ],
  [
    'the last fact of an entry was deleted',
    () => sql("DELETE FROM ledger WHERE kind = 'assign' AND book_id <> $1 AND i = 2", book),
    () => [{ class: 'SEQUENCE_GAP', what: matching(/^the ledger lacks a fact$/) }],
  ],
  [
    'a fact was changed by SQL',
    () => sql("UPDATE ledger SET user_id = 'mallory' WHERE code = $1", held[0]),
    () => [
      {
        ...{ class: 'STATE_MISMATCH', code: held[0], what: matching(/^the ledger differs/) },
        postgres: { coupons: { user_id: 'u0' }, ledger: { user_id: 'mallory' } },
      },
    ],
  ],
  [
    'a fact stands twice',
    () => copy(held[0]!, 1, { i: '1' }),
    () => [
      {
        ...{ class: 'DUPLICATE_FACT', code: held[0], what: matching(/^version 1 stands twice/) },
        redis: { coupon: { user_id: 'u0' } },
        postgres: { facts: [matching(/\/0$/), matching(/\/1$/)], coupons: { user_id: 'u0' } },
      },
    ],
  ],
  [
    'an old fact stands once more behind a newer one',
    async () => {
      const { n } = await place(held[7]!, 3)
      await copy(held[7]!, 1, { n: `${n}`, i: '1' })
    },
    () => [{ class: 'DUPLICATE_FACT', code: held[7] }],
  ],
  [
    'a held code was assigned once more',
    () =>
      copy(held[0]!, 1, { i: '1', user_id: "'mallory'", assigned_at: "now() - interval '1 y'" }),
    () => [{ class: 'DUPLICATE_FACT', code: held[0], what: matching(/^assigned a second time/) }],
  ],
  [
    'a fact beyond the checkpoint',
    () => copy(held[0]!, 1, { n: 'n + 1000000' }),
    () => [
      { class: 'SEQUENCE_GAP', what: matching(/beyond the checkpoint/) },
      { class: 'DUPLICATE_FACT', code: held[0] },
    ],
  ],
  [
    'a parked fact',
    () => forge('assign', `${held[0]}\tthief\t1\t1795132800000\t0\t1\t\t\t`),
    () => [
      {
        ...{ class: 'PARKED', code: held[0], book_id: book },
        ...sides({ user_id: 'thief', version: 1 }, { parked: matching(/duplicate/) }),
      },
    ],
  ],
  [
    'a parked fact that the ledger could not even hold',
    async () => {
      await forge('assign', `NUL\tthief\u0000\t1\t1795132800000\t0\t1\t\t\t`)
      expect((await sql("SELECT FROM ledger WHERE code = 'NUL'")).rowCount).toBe(0)
    },
    () => [{ class: 'PARKED', code: 'NUL' }],
  ],
  [
    'a fact that was given up stands in the ledger',
    async () => {
      const n = await forge('assign', `${held[0]}\tthief\t1\t1795132800000\t0\t1\t\t\t`)
      await sql('DELETE FROM parked_facts')
      await sql(
        "INSERT INTO audit_log (actor, action, target) VALUES ('a test', 'parked.discard', $1)",
        `fact:0/1-${n}/0`,
      )
    },
    () => [],
  ],
]

names(ledger)
