import type { KeyLimits, Scope } from '../keys.ts'
import { at, big } from './columns.ts'
import { boolean, integer, jsonb, pgTable, primaryKey, text, uuid } from './drizzle.ts'

/**
 * The tables as migrations/ makes them, for typed queries. The SQL there is the truth; this is its
 * twin, and test/schema.test.ts compares every column, default and key of the two. Members bear
 * their columns' names, so that a row is what the API calls it.
 */

export const settings = pgTable('settings', {
  name: text().primaryKey(),
  value: jsonb().notNull(),
})

export const shards = pgTable('shards', {
  shard: integer().primaryKey(),
  epoch: big().notNull().default(0),
  phase: text({ enum: ['new', 'recovering', 'active'] })
    .notNull()
    .default('new'),
  recoverer: uuid(),
  checkpoint_epoch: big().notNull().default(0),
  checkpoint: big().notNull().default(0),
  checkpoint_hash: text().notNull().default(''),
  facts: big().notNull().default(0),
  intake: text({ enum: ['open', 'stopped'] })
    .notNull()
    .default('open'),
  updated_at: at().notNull().defaultNow(),
  suspect: text(),
  memory: text().notNull().default(''),
  memory_epoch: big().notNull().default(0),
  loss_accepted: boolean().notNull().default(false),
  flush: text({ enum: ['running', 'paused'] })
    .notNull()
    .default('running'),
  counted_epoch: big().notNull().default(0),
  counted: big().notNull().default(0),
})

export const audit_log = pgTable('audit_log', {
  audit_id: big().primaryKey().generatedAlwaysAsIdentity(),
  at: at().notNull().defaultNow(),
  actor: text().notNull(),
  action: text().notNull(),
  target: text().notNull(),
  reason: text(),
  detail: jsonb(),
})

export const processes = pgTable('processes', {
  process_id: uuid().primaryKey(),
  kind: text({ enum: ['api', 'worker'] }).notNull(),
  host: text().notNull(),
  pid: integer().notNull(),
  version: text().notNull(),
  started_at: at().notNull().defaultNow(),
  seen_at: at().notNull().defaultNow(),
})

export const users = pgTable('users', {
  user_id: uuid().primaryKey(),
  name: text().notNull(),
  email: text().notNull(),
  password_hash: text().notNull(),
  role: text({ enum: ['user', 'viewer', 'operator', 'admin'] })
    .notNull()
    .default('user'),
  is_active: boolean().notNull().default(true),
  created_at: at().notNull().defaultNow(),
  updated_at: at().notNull().defaultNow(),
  /** Raised by a trigger: tokens of an earlier one are over. */
  token_generation: integer().notNull().default(0),
})

export const api_keys = pgTable('api_keys', {
  key_id: text().primaryKey(),
  name: text().notNull(),
  secret_hash: text().notNull(),
  created_by: text().notNull(),
  created_at: at().notNull().defaultNow(),
  revoked_at: at(),
  scopes: jsonb().$type<Scope[]>(),
  limits: jsonb().$type<KeyLimits>(),
  last_used_at: at(),
})

export const books = pgTable('books', {
  book_id: uuid().primaryKey(),
  shard: integer()
    .notNull()
    .references(() => shards.shard),
  name: text().notNull(),
  description: text(),
  owner_id: text().notNull(),
  kind: text({ enum: ['codes', 'counter'] }).notNull(),
  code_pattern: text(),
  code_prefix: text().unique(),
  max_redemptions: integer(),
  max_redemptions_per_user: integer(),
  max_assignments_per_user: integer(),
  allow_multi_redemption: boolean().notNull(),
  lock_policy: text({ enum: ['strict', 'holder', 'required'] }).notNull(),
  lock_seconds: integer().notNull(),
  opens_at: at(),
  closes_at: at(),
  expiration_date: at(),
  is_active: boolean().notNull(),
  archived_at: at(),
  durability: text({ enum: ['redis', 'postgres'] }),
  metadata: jsonb().$type<Record<string, unknown>>().notNull().default({}),
  total_code_count: big().notNull().default(0),
  version: integer().notNull().default(1),
  pushed_version: integer().notNull().default(0),
  created_at: at().notNull().defaultNow(),
  updated_at: at().notNull().defaultNow(),
  limits_changed_at: at(),
  intake: text({ enum: ['open', 'stopped'] })
    .notNull()
    .default('open'),
})

export const jobs = pgTable('jobs', {
  job_id: uuid().primaryKey(),
  kind: text().notNull(),
  book_id: uuid().references(() => books.book_id),
  state: text({ enum: ['queued', 'running', 'done', 'failed', 'cancelled'] })
    .notNull()
    .default('queued'),
  total: big().notNull().default(0),
  done: big().notNull().default(0),
  input: jsonb().$type<Record<string, unknown>>().notNull().default({}),
  result: jsonb(),
  error: text(),
  created_by: text().notNull(),
  created_at: at().notNull().defaultNow(),
  updated_at: at().notNull().defaultNow(),
  finished_at: at(),
  asked_at: at().notNull().defaultNow(),
})

export const loads = pgTable('loads', {
  load_id: big().primaryKey().generatedAlwaysAsIdentity(),
  book_id: uuid()
    .notNull()
    .references(() => books.book_id),
  job_id: uuid().references(() => jobs.job_id),
  source: text({ enum: ['generate', 'upload', 'units', 'import'] }).notNull(),
  state: text({ enum: ['writing', 'written', 'pushed'] }).notNull(),
  total: big().notNull(),
  written: big().notNull().default(0),
  max_redemptions: integer(),
  created_by: text().notNull(),
  created_at: at().notNull().defaultNow(),
})

export const codes = pgTable('codes', {
  code: text().primaryKey(),
  book_id: uuid().notNull(),
  load_id: big().notNull(),
  max_redemptions: integer(),
  /** What its import had in other columns; never read. */
  metadata: jsonb().$type<Record<string, unknown>>(),
})

export const coupons = pgTable('coupons', {
  code: text().primaryKey(),
  book_id: uuid().notNull(),
  /** '': nobody, the code is void. */
  user_id: text().notNull(),
  version: integer().notNull(),
  redemptions: integer().notNull(),
  max_redemptions: integer().notNull(),
  lock_token: text(),
  locked_until: at(),
  assigned_at: at().notNull(),
  updated_at: at().notNull(),
})

export const book_counters = pgTable('book_counters', {
  book_id: uuid().primaryKey(),
  held: big().notNull().default(0),
  redeemed: big().notNull().default(0),
  void: big().notNull().default(0),
})

export const redemptions = pgTable('redemptions', {
  redemption_id: uuid().primaryKey(),
  code: text().notNull(),
  book_id: uuid().notNull(),
  user_id: text().notNull(),
  redeemed_at: at().notNull(),
  metadata: jsonb(),
  rolled_back_at: at(),
  rolled_back_by: text(),
})

export const ledger = pgTable(
  'ledger',
  {
    shard: integer().notNull(),
    epoch: big().notNull(),
    n: big().notNull(),
    i: integer().notNull(),
    op: uuid().notNull(),
    kind: text().notNull(),
    book_id: uuid().notNull(),
    code: text().notNull(),
    user_id: text().notNull(),
    version: integer().notNull(),
    at: at().notNull(),
    redemptions: integer().notNull(),
    max_redemptions: integer().notNull(),
    lock_token: text(),
    locked_until: at(),
    redemption_id: uuid(),
    context: jsonb().notNull(),
    assigned_at: at(),
    /** Null: written before there was this column. */
    recorded_at: at().defaultNow(),
  },
  (table) => [primaryKey({ columns: [table.shard, table.epoch, table.n, table.i] })],
)

export const recoveries = pgTable(
  'recoveries',
  {
    shard: integer().notNull(),
    epoch: big().notNull(),
    cause: text().notNull(),
    flushed: big().notNull().default(0),
    rebuilt: boolean().notNull().default(false),
    codes: big().notNull().default(0),
    coupons: big().notNull().default(0),
    begun_at: at().notNull().defaultNow(),
    ended_at: at(),
  },
  (table) => [primaryKey({ columns: [table.shard, table.epoch] })],
)

export const parked_facts = pgTable(
  'parked_facts',
  {
    shard: integer().notNull(),
    epoch: big().notNull(),
    n: big().notNull(),
    i: integer().notNull(),
    reason: text().notNull(),
    fact: jsonb().notNull(),
    parked_at: at().notNull().defaultNow(),
  },
  (table) => [primaryKey({ columns: [table.shard, table.epoch, table.n, table.i] })],
)

export const creations = pgTable('creations', {
  key: text().primaryKey(),
  hash: text().notNull(),
  made: jsonb().notNull(),
  created_at: at().notNull().defaultNow(),
})

export * from './schema-imports.ts'
export * from './schema-minutes.ts'
export * from './schema-pools.ts'
