import { at, big } from './columns.ts'
import { boolean, integer, jsonb, pgTable, primaryKey, text, uuid } from './drizzle.ts'
import { jobs } from './schema.ts'

/** Pools and what is distributed to them: a part of schema.ts, which hands it on. */
export const pools = pgTable('pools', {
  pool_id: uuid().primaryKey(),
  name: text().notNull().unique(),
  description: text(),
  created_by: text().notNull(),
  is_active: boolean().notNull().default(true),
  user_count: integer().notNull().default(0),
  created_at: at().notNull().defaultNow(),
  updated_at: at(),
})

export const pool_users = pgTable(
  'pool_users',
  {
    pool_id: uuid()
      .notNull()
      .references(() => pools.pool_id, { onDelete: 'cascade' }),
    user_id: text().notNull(),
    added_at: at().notNull().defaultNow(),
  },
  (table) => [primaryKey({ columns: [table.pool_id, table.user_id] })],
)

export const distributions = pgTable('distributions', {
  job_id: uuid()
    .primaryKey()
    .references(() => jobs.job_id),
  planned_at: at(),
  largest: integer().notNull().default(0),
  runner: uuid(),
  asked_epoch: big(),
  asked_n: big(),
  asked_at: at(),
  settled: integer().notNull().default(0),
  given: big().notNull().default(0),
  short: integer().notNull().default(0),
})

export const distribution_shares = pgTable(
  'distribution_shares',
  {
    job_id: uuid().notNull(),
    position: integer().notNull(),
    user_id: text().notNull(),
    share: integer().notNull(),
  },
  (table) => [primaryKey({ columns: [table.job_id, table.position] })],
)

export const distribution_results = pgTable(
  'distribution_results',
  {
    job_id: uuid().notNull(),
    position: integer().notNull(),
    codes: text().notNull(),
    problem: text(),
    detail: jsonb(),
  },
  (table) => [primaryKey({ columns: [table.job_id, table.position] })],
)
