import { at, big } from './columns.ts'
import { integer, pgTable, primaryKey, text, uuid } from './drizzle.ts'

/** What statistics are made of: a part of schema.ts, which hands it on. */
export const book_minutes = pgTable(
  'book_minutes',
  {
    book_id: uuid().notNull(),
    minute: at().notNull(),
    kind: text().notNull(),
    within_seconds: integer().notNull().default(0),
    count: big().notNull(),
  },
  (table) => [
    primaryKey({ columns: [table.book_id, table.minute, table.kind, table.within_seconds] }),
  ],
)

export const shard_minutes = pgTable(
  'shard_minutes',
  {
    minute: at().notNull(),
    shard: integer().notNull(),
    kind: text().notNull(),
    count: big().notNull(),
  },
  (table) => [primaryKey({ columns: [table.minute, table.shard, table.kind] })],
)

export const refusal_minutes = pgTable(
  'refusal_minutes',
  {
    book_id: uuid().notNull(),
    minute: at().notNull(),
    reason: text().notNull(),
    count: big().notNull(),
  },
  (table) => [primaryKey({ columns: [table.book_id, table.minute, table.reason] })],
)
