import { rmSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { scratchDir, sweep } from '../../src/embedded/leftovers.ts'
import { report, shown, type Told } from './report.ts'
import type { Row } from './row.ts'
import { rows } from './rows.ts'
import { sale } from './sale.ts'
import { openCluster } from './servers.ts'

const { values } = parseArgs({
  options: {
    only: { type: 'string', multiple: true },
    runs: { type: 'string', default: '1' },
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
    report: { type: 'string' },
    rate: { type: 'string', default: '2000' },
    codes: { type: 'string', default: '100000' },
    verbose: { type: 'boolean', default: false },
  },
})

const runs = Number(values.runs)
const seed = Number(values.seed)
const chosen = values.only ? rows.filter(({ name }) => values.only!.includes(name)) : rows
if (chosen.length === 0) {
  console.error(`No such row. There are: ${rows.map(({ name }) => name).join(' ')}`)
  process.exit(2)
}

let stopping = false
process.once('SIGINT', () => {
  stopping = true
  console.error('stopping after this run; once more ends at once')
})

await sweep()
const dir = scratchDir('cluster')
const cluster = await openCluster(dir)
const results: Told[] = []
let failed = false
try {
  for (const row of chosen) for (let run = 0; run < runs && !stopping; run++) await one(row, run)
} finally {
  await cluster.close()
  rmSync(dir, { recursive: true, force: true })
}
const load = { rate: Number(values.rate), codes: Number(values.codes) }
if (values.report && results.length > 0) report(values.report, results, load)
console.log(`\n${shown(results)}`)
// A connection that was cut on purpose may linger in the kernel: nobody waits for it.
process.exit(failed ? 1 : 0)

async function one(row: Row, run: number): Promise<void> {
  const unable = row.unable?.()
  if (unable) return console.log(`${row.name}: skipped, ${unable}`)
  const begun = performance.now()
  const log = (line: string) => values.verbose && console.error(line)
  const options = { cluster, seed: seed + run, run, calmMs: 1_500, log }
  const load = { perSecond: Number(values.rate), codes: Number(values.codes) }
  try {
    const result = { ...(await sale(row, { ...options, ...load })), what: row.what }
    results.push(result)
    if (result.violations.length > 0) failed = true
    const seconds = Math.round((performance.now() - begun) / 1000)
    const { detail = '', acknowledged, lost, twice, unknown, resolved, serveMs } = result
    console.log(
      `${row.name} ${detail} (--seed ${seed + run}): acknowledged ${acknowledged}, lost ${lost}, ` +
        `twice ${twice}, unknown ${unknown} (${resolved} resolved), serves again after ` +
        `${serveMs} ms; ${seconds} s ${result.violations.map((one) => `\n  ! ${one}`).join('')}`,
    )
    log(JSON.stringify(result.refusals))
  } catch (error) {
    failed = true
    console.log(`${row.name} (--seed ${seed + run}): ${(error as Error).stack}`)
  }
}
