import { parseArgs } from 'node:util'

/** What `npm run bench` can measure; each is a file of that name. */
export const scenarios = [
  'assign',
  'keys',
  'drive',
  'lookup-size',
  'files',
  'flushall',
  'restart',
  'drains',
  'compare',
  'down',
  'distribute',
  'stats',
] as const
export type Scenario = (typeof scenarios)[number]

export const usage = `npm run bench -- [options]
  --only NAME          ${scenarios.join(', ')}; may be repeated. Left out: all
  --seconds N          length of a round (8)
  --rounds N           rounds of assign, keys and drive (3)
  --connections N      connections of the load generator (256)
  --large N            codes of the large book, rows of the file (1000000)
  --json FILE          writes everything measured
  --short              tiny numbers, to see that it works: they mean nothing
Exit code: 0 every check held; 1 an oversell, a duplicate or a lost acknowledgement; 2 errors; 64 usage.`

export type Options = {
  only: Scenario[]
  seconds: number
  rounds: number
  connections: number
  json: string | undefined
  /** Tiny numbers, and one installation for all. */
  short: boolean
  warmUpSeconds: number
  /** Assignments of one drive. */
  driven: number
  /** Length of a round with a FLUSHALL after a quarter of it. */
  flushedSeconds: number
  /** How often a sale is drained. */
  drains: number
  /** Assignments a second, and seconds, of the sale beside which both stores are compared, each time after `calmSeconds`. */
  salePace: number
  saleSeconds: number
  calmSeconds: number
  /** Codes of the large book, and how many small books of how many codes it is compared with. */
  large: number
  small: number
  smallBooks: number
  /** Users of a pool, each of whom gets two coupons. */
  pool: number
  /** Assignments a second while the books are compared: far below what would make them queue. */
  pace: number
}

const full = {
  seconds: 8,
  rounds: 3,
  connections: 256,
  warmUpSeconds: 3,
  driven: 100_000,
  flushedSeconds: 20,
  drains: 20,
  salePace: 5_000,
  saleSeconds: 95,
  calmSeconds: 12,
  large: 1_000_000,
  small: 1_000,
  smallBooks: 20,
  pace: 2_000,
  pool: 100_000,
}
const short: typeof full = {
  seconds: 1,
  rounds: 1,
  connections: 64,
  warmUpSeconds: 0.5,
  driven: 5_000,
  flushedSeconds: 4,
  drains: 2,
  salePace: 200,
  saleSeconds: 8,
  calmSeconds: 2,
  large: 20_000,
  small: 100,
  smallBooks: 3,
  pace: 500,
  pool: 20_000,
}

/** Reads the command line; a string is what is wrong with it. */
export function readOptions(args: string[]): Options | string {
  const number = { type: 'string' } as const
  let values: Partial<Record<string, string | boolean | string[]>>
  try {
    values = parseArgs({
      args,
      options: {
        only: { type: 'string', multiple: true },
        json: { type: 'string' },
        short: { type: 'boolean' },
        help: { type: 'boolean' },
        seconds: number,
        rounds: number,
        connections: number,
        large: number,
      },
    }).values
  } catch (error) {
    return `${(error as Error).message}\n${usage}`
  }
  if (values.help) return usage
  const only = (values.only ?? [...scenarios]) as Scenario[]
  const unknown = only.find((name) => !scenarios.includes(name))
  if (unknown) return `no scenario is called ${unknown}\n${usage}`
  const sizes = values.short ? short : full
  const options = { ...sizes, only, json: values.json as string, short: values.short === true }
  for (const name of ['seconds', 'rounds', 'connections', 'large'] as const) {
    if (values[name] === undefined) continue
    options[name] = Number(values[name])
    if (!Number.isInteger(options[name]) || options[name] < 1)
      return `--${name} must be a whole number from 1\n${usage}`
  }
  return options
}
