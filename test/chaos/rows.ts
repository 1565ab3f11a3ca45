import type { Row } from './row.ts'
import { diskRows } from './rows-disks.ts'
import { memoryRows } from './rows-memory.ts'
import { networkRows } from './rows-network.ts'
import { postgresRows } from './rows-postgres.ts'
import { processRows } from './rows-processes.ts'
import { startRows } from './rows-starts.ts'

/** Every row of the table, in its order. */
export const rows: Row[] = [
  ...[...processRows, ...memoryRows, ...networkRows, ...postgresRows, ...startRows],
  ...diskRows,
]
