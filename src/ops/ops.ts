import type { Redis } from 'ioredis'
import type { Database } from '../ledger/database.ts'

/** What every verb of an operator works with: a connection to each store, whoever opened them. */
export type Ops = {
  redis: Redis
  database: Database
}
