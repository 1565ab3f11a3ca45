import { big } from './columns.ts'
import { boolean, integer, jsonb, pgTable, primaryKey, text, timestamp, uuid } from './drizzle.ts'
import { books, jobs } from './schema.ts'

/** Tables of files that are being imported: part of schema.ts, for whose length they are here. */
export const imports = pgTable('imports', {
  import_id: big().primaryKey().generatedAlwaysAsIdentity(),
  book_id: uuid()
    .notNull()
    .references(() => books.book_id),
  /** Null until the whole file is here. */
  job_id: uuid()
    .unique()
    .references(() => jobs.job_id),
  state: text({ enum: ['uploading', 'staged', 'dropped'] })
    .notNull()
    .default('uploading'),
  on_duplicate: text({ enum: ['fail', 'skip'] }).notNull(),
  on_error: text({ enum: ['keep', 'refuse'] }).notNull(),
  step: text({ enum: ['check', 'write', 'undo', 'push'] }).notNull(),
  after_code: text().notNull().default(''),
  after_line: integer().notNull().default(0),
  /** Those that were read and are no faults. */
  rows: big().notNull().default(0),
  /** How many of them this step is through with. */
  done: big().notNull().default(0),
  bad: big().notNull().default(0),
  skipped: big().notNull().default(0),
  /** Cancelled at least once: what was written then has gone into stock. */
  cut: boolean().notNull().default(false),
  /** Its rows in import_rows are gone. */
  cleared: boolean().notNull().default(false),
  seen_at: timestamp({ withTimezone: true, mode: 'date' }).notNull().defaultNow(),
})

export const import_rows = pgTable(
  'import_rows',
  {
    import_id: big().notNull(),
    code: text().notNull(),
    line: integer().notNull(),
    max_redemptions: integer(),
    metadata: jsonb().$type<Record<string, unknown>>(),
  },
  (table) => [primaryKey({ columns: [table.import_id, table.code, table.line] })],
)

export const import_faults = pgTable(
  'import_faults',
  {
    import_id: big().notNull(),
    line: integer().notNull(),
    kind: text({ enum: ['bad', 'skipped'] }).notNull(),
    found: text({ enum: ['read', 'job'] }).notNull(),
    code: text().notNull(),
    reason: text().notNull(),
  },
  (table) => [primaryKey({ columns: [table.import_id, table.line] })],
)
