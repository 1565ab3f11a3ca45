import { writeFileSync } from 'node:fs'
import { assign, keys } from './assign.ts'
import { type Bench, Interrupted, withBench } from './bench.ts'
import { compare } from './compare.ts'
import { distribute } from './distribute.ts'
import { down } from './down.ts'
import { drains } from './drains.ts'
import { drive } from './drive.ts'
import { files } from './files.ts'
import { flushall } from './flushall.ts'
import { type LookupSizeReport, lookupSize } from './lookup-size.ts'
import { machine } from './machine.ts'
import { readOptions, type Scenario, usage } from './options.ts'
import { faultsOf, roundsTable, targetsTable, timesTable } from './report.ts'
import { restart } from './restart.ts'
import type { Round } from './round.ts'
import { stats } from './stats.ts'
import type { Target } from './targets.ts'

/** `npm run bench`: every scenario on a fresh installation of its own. */
type Report = {
  targets: Target[]
  rounds?: Round[]
  differences?: string[]
  times?: LookupSizeReport['times']
  refused?: LookupSizeReport['refused']
}

const scenarios: Record<Scenario, (bench: Bench) => Promise<Report>> = {
  assign,
  keys,
  drive,
  'lookup-size': lookupSize,
  files,
  flushall,
  restart,
  drains,
  compare,
  down,
  distribute,
  stats,
}

/** What both stores and the client do not agree on: none of it may ever be. */
const differencesOf = ({ rounds = [], differences = [] }: Report) => [
  ...rounds.flatMap((round) => round.differences),
  ...differences,
]

function faults({ rounds = [], refused = {} }: Report): string[] {
  const paced = Object.entries(refused).map(([code, count]) => `${count} x ${code}`)
  return [...rounds.flatMap(faultsOf), ...paced]
}

function print(report: Report): void {
  if (report.rounds) console.log(roundsTable(report.rounds))
  if (report.times) console.log(`${timesTable(report.times)}\n`)
  console.log(targetsTable(report.targets))
  const differences = differencesOf(report)
  for (const line of faults(report)) console.log(`failed: ${line}`)
  for (const line of differences) console.log(`DIFFERENCE ${line}`)
  if (differences.length === 0)
    console.log('checked: answers = ledger = coupons = Redis; no code twice; journal level')
}

async function main(): Promise<void> {
  const options = readOptions(process.argv.slice(2))
  if (typeof options === 'string') {
    console.log(options)
    process.exit(options === usage ? 0 : 64)
  }
  const facts = machine()
  const reports: Partial<Record<Scenario, Report>> = {}
  let versions: Bench['versions'] | undefined
  // What one scenario leaves in the stores must not slow another down.
  const groups = options.short ? [options.only] : options.only.map((name) => [name])
  for (const group of groups)
    await withBench(options, async (bench) => {
      versions = bench.versions
      for (const name of group) {
        console.log(`\n${name}`)
        const report = await scenarios[name](bench)
        reports[name] = report
        print(report)
      }
    })
  const { cpu, cores, memoryGb, system, node, commit, load } = facts
  console.log(
    `\n${cores} x ${cpu}, ${memoryGb} GB, ${system}, load ${load.toFixed(1)} at the start; node ${node}, ` +
      `${versions!.redis}, ${versions!.postgres}; commit ${commit}`,
  )
  if (options.json)
    writeFileSync(
      options.json,
      `${JSON.stringify({ machine: { ...facts, ...versions }, options, ...reports }, null, 2)}\n`,
    )
  const all = Object.values(reports)
  if (all.some((report) => differencesOf(report).length > 0)) process.exitCode = 1
  else if (all.some((report) => faults(report).length > 0)) process.exitCode = 2
}

main().catch((error: Error) => {
  if (error instanceof Interrupted) process.exit(130)
  console.error(error)
  process.exit(2)
})
