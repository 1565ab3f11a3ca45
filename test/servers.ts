import { rmSync } from 'node:fs'
import type { TestProject } from 'vitest/node'
import { scratchDir, sweep } from '../src/embedded/leftovers.ts'
import { startPostgres } from '../src/embedded/postgres.ts'
import { migrate } from '../src/ledger/migrate.ts'

declare module 'vitest' {
  interface ProvidedContext {
    /** URL of the run's PostgreSQL, as a user who may create databases. */
    postgres: string
    /** Tests that draw at random do so at full length. */
    long: boolean
  }
}

/**
 * One PostgreSQL for the whole run, with a migrated database to copy; each test file makes a database and
 * a Redis of its own.
 */
export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  await sweep()
  const dir = scratchDir('postgres')
  const postgres = await startPostgres({ dir, fast: true, database: 'migrated' })
  await migrate(postgres.url, 1)
  project.provide('postgres', postgres.url.replace(/migrated$/, 'postgres'))
  return async () => {
    await postgres.stop()
    rmSync(postgres.place, { recursive: true, force: true })
    rmSync(dir, { recursive: true, force: true })
  }
}
