import type { Loss } from './checker.ts'
import type { Load } from './client.ts'
import type { Disk } from './disk.ts'
import type { Town, TownOptions } from './town.ts'

/** What a fault did, once it is over. */
export type Fault = {
  /** From when on the service could have been back: `time to serve again` is counted from here. */
  since: number
  losses?: Loss[]
  /** Facts that cannot fit, put into the journal by the fault. */
  parked?: number
  /** What the fault itself saw that must not be. */
  wrong?: string[]
  /** For the table: which variant it was. */
  detail?: string
}

export type Scene = {
  town: Town
  load: Load
  /** Deterministic, in [0, 1). */
  random: () => number
  /** The disk that the row asked for. */
  disk?: Disk
  /** Which run of this row it is, from 0: rows with variants take the next one. */
  run: number
}

/** One line of the table: a fault under load, and what may come of it. */
export type Row = {
  name: string
  /** What is done, in a few words. */
  what: string
  town?: Omit<TownOptions, 'cluster'> | ((run: number) => Omit<TownOptions, 'cluster'>)
  /** How many codes a full load needs here, if more than usual. */
  codes?: number
  /** Acknowledgements at `redis` level may be lost: this fault takes Redis' memory away. */
  mayLose?: boolean
  /** Nobody may wait longer than this for an answer. */
  withinMs?: number
  /** Whose files are on a small disk of their own. */
  disk?: 'redis' | 'postgres'
  /** Why it cannot run here, if it cannot. */
  unable?(): string | undefined
  /** Breaks the system under load and makes the cause go away. */
  fault(scene: Scene): Promise<Fault>
}
