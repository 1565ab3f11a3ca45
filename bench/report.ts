import type { Times } from './lookup-size.ts'
import type { Round } from './round.ts'
import { median, type Target } from './targets.ts'

type Column = [title: string, of: (round: Round) => number | undefined, digits: number]

const cpu = (name: string) => (round: Round) => round.cpu?.perRequest[name]
const failed = ({ answers, accepted, errors }: Round) =>
  (100 * (answers - accepted + errors)) / (answers + errors)

const load: Column[] = [
  ['req/s', (round) => round.perSecond, 0],
  ['p50 ms', (round) => round.latencyMs.p50, 1],
  ['p95', (round) => round.latencyMs.p95, 1],
  ['p99', (round) => round.latencyMs.p99, 1],
  ['failed %', failed, 2],
  ['us/req: http', (round) => cpu('api')(round) ?? cpu('echo')(round), 1],
  ['worker', cpu('worker'), 1],
  ['redis', cpu('redis'), 1],
  ['postgres', cpu('postgres'), 1],
  ['load', cpu('load'), 1],
  ['others %', (round) => round.cpu?.others, 0],
]
const flush: Column[] = [
  ['lag, facts: max', (round) => round.lag?.facts.max, 0],
  ['p99', (round) => round.lag?.facts.p99, 0],
  ['age, ms: max', (round) => round.lag?.ageMs.max, 0],
  ['p99', (round) => round.lag?.ageMs.p99, 0],
  ['level after ms', (round) => round.levelMs, 0],
  ['facts/call', (round) => round.factsPerCall, 0],
  ['facts/flush', (round) => round.factsPerFlush, 0],
]

/** Rows of text as a table: the first column to the left, numbers to the right. */
function table(rows: string[][]): string {
  const widths = rows[0]!.map((_, c) => Math.max(...rows.map((row) => row[c]!.length)))
  return rows
    .map((row) =>
      row
        .map((text, c) => (c === 0 ? text.padEnd(widths[c]!) : text.padStart(widths[c]!)))
        .join('  '),
    )
    .join('\n')
}

/** A row per round, and one for the median of several rounds of a name. */
function columnsTable(rounds: Round[], columns: Column[]): string {
  const shown = columns.filter(([, of]) => rounds.some((round) => of(round) !== undefined))
  const row = (name: string, of: Round[]) => [
    name,
    ...shown.map(([, read, digits]) => {
      const known = of.map(read).filter((value) => value !== undefined)
      return known.length > 0 ? median(known).toFixed(digits) : '-'
    }),
  ]
  const names = [...new Set(rounds.map(({ name }) => name))]
  const groups = names.map((name) => rounds.filter((round) => round.name === name))
  return table([
    ['', ...shown.map(([title]) => title)],
    ...rounds.map((round) => row(round.name, [round])),
    ...groups.filter((of) => of.length > 1).map((of) => row(`${of[0]!.name}, median`, of)),
  ])
}

/** What the load saw and cost, and how the ledger followed. */
export function roundsTable(rounds: Round[]): string {
  const flushed = rounds.filter(({ lag }) => lag !== undefined)
  return `${columnsTable(rounds, load)}\n\n${columnsTable(flushed, flush)}\n`
}

/** How long single assignments took, by the kind of book that they came from. */
export function timesTable(times: Record<string, Times>): string {
  const columns = ['p50', 'p95', 'p99', 'max'] as const
  const rows = Object.entries(times).map(([name, of]) => [
    `${name} book`,
    ...columns.map((column) => of[column].toFixed(2)),
  ])
  return table([['ms', ...columns], ...rows])
}

/** What was refused or went wrong in a round, in words. */
export function faultsOf({ name, refused, errors, timeouts }: Round): string[] {
  const faults = Object.entries(refused).map(([code, count]) => `${name}: ${count} x ${code}`)
  if (errors > 0) faults.push(`${name}: ${errors} connection errors, ${timeouts} of them timeouts`)
  return faults
}

export function targetsTable(targets: Target[]): string {
  return table(
    targets.map(({ what, measured, wanted, met }) => [
      what,
      measured.toFixed(measured < 10 ? 2 : 0),
      wanted,
      met ? 'met' : 'MISSED',
    ]),
  )
}
