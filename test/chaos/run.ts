import { appendFileSync, rmSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { scratchDir, sweep } from '../../src/embedded/leftovers.ts'
import { report, shown, type Told } from './report.ts'
import type { Row } from './row.ts'
import { rows } from './rows.ts'
import { holds, sale } from './sale.ts'
import { openCluster } from './servers.ts'

const { values } = parseArgs({
  options: {
    only: { type: 'string', multiple: true },
    runs: { type: 'string', default: '1' },
    /** The number of the first run: rows with variants go through them by it. */
    from: { type: 'string', default: '0' },
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
    report: { type: 'string' },
    lost: { type: 'string' },
    rate: { type: 'string' },
    codes: { type: 'string' },
    /** Every row once, with a light load: what CI has time for. */
    short: { type: 'boolean', default: false },
    verbose: { type: 'boolean', default: false },
  },
})

const leastRate = 2_000
const mostAsked = 32 * leastRate
const runs = Number(values.runs)
const from = Number(values.from)
const seed = Number(values.seed)
const light = values.short ? { rate: '300', codes: '8000' } : undefined
const codesOf = (row: Row) => Number(values.codes ?? light?.codes ?? row.codes ?? 100_000)
const calmMs = light ? 700 : 1_500
const warmMs = light ? 0 : 20_000
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
  const perSecond = await rate()
  for (const row of chosen) {
    const load = { perSecond, codes: codesOf(row) }
    const its: Told[] = []
    for (let run = from; run < from + runs && !stopping; run++) {
      its.push(await one(row, run, load))
      if ('skipped' in its.at(-1)!) break
    }
    // Row by row, so that whoever ends this early has not run in vain.
    if (values.report && its.length > 0) report(values.report, its, load)
    results.push(...its)
  }
} finally {
  await cluster.close()
  rmSync(dir, { recursive: true, force: true })
}
console.log(`\n${shown(results)}`)
// A connection that was cut on purpose may linger in the kernel: nobody waits for it.
process.exit(failed ? 1 : 0)

/**
 * Assignments a second: 2,000, or half of what this machine can do beside the crowd if that is more. The
 * crowd asks for more step by step: a flood at once would only show how long a queue of refusals is.
 */
async function rate(): Promise<number> {
  const given = values.rate ?? light?.rate
  if (given) return Number(given)
  const calm: Row = { name: 'calm', what: 'nothing', fault: async () => ({ since: Date.now() }) }
  const options = { cluster, seed, run: 0, calmMs: 6_000, warmMs, log: () => {} }
  let most = 0
  for (let perSecond = 2 * leastRate; perSecond <= mostAsked; perSecond *= 2) {
    const codes = 40 * perSecond
    const { assignedPerSecond } = await sale(calm, { ...options, perSecond, codes })
    most = Math.max(most, Math.round(assignedPerSecond))
    if (assignedPerSecond < holds * perSecond) break
  }
  const perSecond = Math.max(leastRate, Math.round(most / 2))
  console.log(`saturated at ${most} assignments a second; the load is ${perSecond}`)
  return perSecond
}

async function one(
  row: Row,
  run: number,
  load: { perSecond: number; codes: number },
): Promise<Told> {
  const told = { row: row.name, what: row.what, seed: seed + run }
  const skipped = row.unable?.()
  if (skipped) {
    console.log(`${row.name}: skipped, ${skipped}`)
    return { ...told, skipped }
  }
  const begun = performance.now()
  const log = (line: string) => values.verbose && console.error(line)
  const options = { cluster, seed: seed + run, run, calmMs, warmMs, log }
  try {
    const result = await sale(row, { ...options, ...load })
    if (result.violations.length > 0) failed = true
    const seconds = Math.round((performance.now() - begun) / 1000)
    const { detail = '', acknowledged, lost, twice, unknown, resolved, inquired, serveMs } = result
    console.log(
      `${row.name} ${detail} (--seed ${seed + run}): acknowledged ${acknowledged}, lost ${lost.length}, ` +
        `twice ${twice}, unknown ${unknown} (${resolved} resolved), ${inquired} operations asked, serves again after ` +
        `${serveMs} ms; ${seconds} s ${result.violations.map((one) => `\n  ! ${one}`).join('')}`,
    )
    log(JSON.stringify(result.refusals))
    if (values.lost)
      for (const fact of lost)
        appendFileSync(
          values.lost,
          `${JSON.stringify({ row: row.name, seed: seed + run, ...fact })}\n`,
        )
    return { ...told, result }
  } catch (error) {
    failed = true
    console.log(`${row.name} (--seed ${seed + run}): ${(error as Error).stack}`)
    // It counts as a run: a service that never came back must not drop out of the proof.
    return { ...told, failed: (error as Error).message }
  }
}
