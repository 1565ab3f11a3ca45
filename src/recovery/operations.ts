import type { Database } from '../ledger/database.ts'
import {
  isParked,
  type Operation,
  type OperationFact,
  operationFacts,
} from '../ledger/operations.ts'
import { forbid } from '../store/forbid.ts'
import type { Place } from '../store/place.ts'
import type { Durable } from './durable.ts'

/** `durable`: the ledger has it. `absent`: it did nothing, and never will. `pending`: ask again. */
export type Told =
  | { state: 'durable'; facts: OperationFact[] }
  | { state: 'pending' | 'absent'; facts: [] }

export type Operations = ReturnType<typeof openOperations>

/** Tells what became of a call whose answer did not say. */
export function openOperations(place: Place, database: Database, durable: Durable) {
  const pending: Told = { state: 'pending', facts: [] }

  /** Undefined: there is no such shard. */
  return async function tell(operation: Operation): Promise<Told | undefined> {
    const { shard, op } = operation
    if (shard >= place.gates.length) return undefined
    if (await isParked(database, operation)) return pending
    const known = await operationFacts(database, operation)
    if (known.length > 0) return { state: 'durable', facts: known }
    // It may be on its way, or in the journal. From here on it can only be in the journal, and once
    // the ledger has caught up with that, what is not in the ledger has not happened.
    if (!(await forbid(place, shard, op))) return pending
    const level = await durable.barrier([shard])
    if (!level.ok || (await isParked(database, operation))) return pending
    const facts = await operationFacts(database, operation)
    return facts.length > 0 ? { state: 'durable', facts } : { state: 'absent', facts: [] }
  }
}
