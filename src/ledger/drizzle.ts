import { createRequire } from 'node:module'

/**
 * drizzle, as the CommonJS that it ships besides: its hundreds of ES modules take every process that
 * starts 0.4 s of a core, the same as CommonJS a tenth of it. All of it comes from here: two copies
 * would not know each other's tables.
 */
const load = createRequire(import.meta.url)

export const { and, asc, count, desc, eq, getTableColumns, getTableName } = load(
  'drizzle-orm',
) as typeof import('drizzle-orm')
export const { gt, inArray, is, isNull, lt, sql } = load(
  'drizzle-orm',
) as typeof import('drizzle-orm')
export const { bigint, boolean, getTableConfig, integer, jsonb, PgTable, pgTable } = load(
  'drizzle-orm/pg-core',
) as typeof import('drizzle-orm/pg-core')
export const { PgDialect } = load('drizzle-orm/pg-core') as typeof import('drizzle-orm/pg-core')
export const { primaryKey, text, timestamp, uuid } = load(
  'drizzle-orm/pg-core',
) as typeof import('drizzle-orm/pg-core')
export const { drizzle } = load(
  'drizzle-orm/node-postgres',
) as typeof import('drizzle-orm/node-postgres')
export const { migrate: runMigrations } = load(
  'drizzle-orm/node-postgres/migrator',
) as typeof import('drizzle-orm/node-postgres/migrator')
export type PgTable = import('drizzle-orm/pg-core').PgTable
