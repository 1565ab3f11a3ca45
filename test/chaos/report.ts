import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { holds, type Result } from './sale.ts'

/** One command's runs of one row, as docs/proof.json keeps them. */
type Proof = {
  date: string
  commit: string
  row: string
  what: string
  /** Assignments asked for a second, and codes. */
  rate: number
  codes: number
  /** Those that failed among them. */
  runs: number
  seeds: number[]
  /** What was done in each run that came to a reckoning, where a row has variants. */
  details?: string[]
  /** Why runs came to no reckoning, each: it did not serve again, the fault could not be made. */
  failed?: string[]
  /** Why the row could not run there. */
  skipped?: string
  acknowledged: number
  /** Of them, those that were promised to be in PostgreSQL. */
  at_postgres: number
  lost_at_postgres: number
  lost_at_redis: number
  /** Of them, codes that somebody else was given later. */
  lost_to_others: number
  twice_at_postgres: number
  twice_at_redis: number
  unknown: number
  unknown_resolved: number
  /** Operations whose URLs told what became of them, held against the ledger. */
  operations_asked?: number
  /** Attempts that hung and happened after a repeat of theirs was refused. */
  after_refusal: number
  serve_ms: number[]
  longest_answer_ms: number
  /** Assignments acknowledged a second before the fault, the slowest run's; null: none got so far. */
  assigned_per_second: number | null
  /** Runs in which the load held; older ones tell it by their slowest run alone. */
  held?: number
  /** Everything that contradicted a promise, in whatever run. */
  violations: string[]
}

/** A run: what its row is about, and its result or why it has none. */
export type Told = { row: string; what: string; seed: number } & (
  | { result: Result }
  | { failed: string }
  | { skipped: string }
)

type Scale = { perSecond: number; codes: number }

function proofsOf(told: Told[], date: string, commit: string, scale: Scale): Proof[] {
  return [...Map.groupBy(told, ({ row }) => row)].map(([row, all]) => {
    const runs = all.flatMap((one) => ('result' in one ? [one.result] : []))
    const failed = all.flatMap((one) =>
      'failed' in one ? [`--seed ${one.seed}: ${one.failed}`] : [],
    )
    const skipped = all.find((one) => 'skipped' in one)?.skipped
    const sum = (of: (result: Result) => number) => runs.reduce((all, one) => all + of(one), 0)
    const paces = runs.map(({ assignedPerSecond }) => Math.round(assignedPerSecond))
    return {
      ...{ date, commit, row, what: all[0]!.what, runs: runs.length + failed.length },
      ...{ rate: scale.perSecond, codes: scale.codes, failed, ...(skipped ? { skipped } : {}) },
      seeds: all.filter((one) => !('skipped' in one)).map(({ seed }) => seed),
      details: runs.flatMap(({ detail }) => detail ?? []),
      acknowledged: sum((one) => one.acknowledged),
      at_postgres: sum((one) => one.atPostgres),
      lost_at_postgres: sum((one) => one.lostAtPostgres),
      lost_at_redis: sum((one) => one.lost.length),
      lost_to_others: sum((one) => one.lostToOthers),
      twice_at_postgres: sum((one) => one.twiceAtPostgres),
      twice_at_redis: sum((one) => one.twice),
      unknown: sum((one) => one.unknown),
      unknown_resolved: sum((one) => one.resolved),
      operations_asked: sum((one) => one.inquired),
      after_refusal: sum((one) => one.afterRefusal),
      serve_ms: runs.map(({ serveMs }) => serveMs),
      assigned_per_second: paces.length > 0 ? Math.min(...paces) : null,
      held: paces.filter((pace) => pace >= scale.perSecond * holds).length,
      longest_answer_ms: Math.max(0, ...runs.map(({ longestMs }) => longestMs)),
      violations: runs.flatMap((one) => one.violations),
    }
  })
}

const head = [
  ...['Row', 'Runs', 'Acknowledged', 'of them at `postgres`', 'lost, `postgres`', 'lost, `redis`'],
  ...['twice, `postgres`', 'twice, `redis`', 'Unknown (resolved by key)', 'Operations asked'],
  ...[
    'Serves again: median / max',
    'At the full load',
    'Assigned/s before, slowest run',
    'Done after a refusal',
    'Failed',
    'Violations',
  ],
]

/** The proofs of all commands together, a line a row. */
export function table(proofs: Proof[]): string {
  const lines = [...Map.groupBy(proofs, ({ row }) => row)].map(([row, all]) => {
    const sum = (name: keyof Proof) => all.reduce((total, one) => total + Number(one[name] ?? 0), 0)
    const ms = all.flatMap(({ serve_ms }) => serve_ms).sort((a, b) => a - b)
    const seconds = (value: number) => `${(value / 1000).toFixed(1)} s`
    const times = `${seconds(ms[Math.floor(ms.length / 2)]!)} / ${seconds(ms.at(-1)!)}`
    const paces = all.flatMap(({ assigned_per_second: pace }) => pace ?? [])
    return [
      ...[row, all.some(({ skipped }) => skipped) ? `${sum('runs')}, skipped` : sum('runs')],
      ...[sum('acknowledged'), sum('at_postgres'), sum('lost_at_postgres')],
      ...[sum('lost_at_redis'), sum('twice_at_postgres'), sum('twice_at_redis')],
      ...[
        `${sum('unknown')} (${sum('unknown_resolved')})`,
        sum('operations_asked'),
        ms.length > 0 ? times : '-',
      ],
      all.reduce((total, one) => total + heldIn(one), 0),
      ...[paces.length > 0 ? Math.min(...paces) : '-', sum('after_refusal')],
      all.reduce((total, { failed = [] }) => total + failed.length, 0),
      all.reduce((total, { violations }) => total + violations.length, 0),
    ]
  })
  return [head, head.map(() => '---'), ...lines].map((line) => `| ${line.join(' | ')} |`).join('\n')
}

function heldIn({ held, runs, rate, assigned_per_second: slowest }: Proof): number {
  return held ?? ((slowest ?? 0) >= rate * holds ? runs : 0)
}

function page(proofs: Proof[]): string {
  const rows = [...Map.groupBy(proofs, ({ row }) => row)]
  return `# Proof

Made by \`npm run chaos -- --report docs/proof.json\` from what it appended there; do not edit. Each run
is an installation of its own (2 API and 2 worker processes, Redis, PostgreSQL), a sale under load, one
fault, and a reckoning of the clients' own diary with both stores. \`npm run chaos -- --only ROW --runs N\`
repeats a row, \`--seed S\` a run.

${table(proofs)}

*Done after a refusal*: an attempt hung, its client gave up and asked again, was refused, and then the
first one happened after all. No promise speaks of it: a refusal is decided anew each time. *Assigned/s*:
what got through of the rate below in the second and a half before the fault, beside locks, redemptions
and the crowd itself, all on the same cores. *At the full load*: runs in which that was ${holds * 100} % of the rate
or more. From commit a59fead on the fault waits until the rate holds or the machine can do no more; in the
runs before, it came while all processes were cold, and met less. *Failed*: runs that came to no reckoning,
because something did not serve again in time or the fault could not be made.

${wrongs(proofs)}
${rows.map(([row, all]) => `- **${row}**: ${all.at(-1)!.what} (${commands(all)})`).join('\n')}
`
}

/** What the table only counts: every violation, every run that failed, every row that could not run. */
function wrongs(proofs: Proof[]): string {
  const lines = proofs.flatMap(({ row, date, commit, failed = [], skipped, violations }) => [
    ...failed.map((why) => `- ${row} failed on ${date}, commit ${commit}: ${why}\n`),
    ...violations.map((what) => `- ${row} on ${date}, commit ${commit}: ${what}\n`),
    ...(skipped ? [`- ${row} was skipped on ${date}: ${skipped}\n`] : []),
  ])
  return lines.join('')
}

/** How many runs were made of which code, and under which load. */
function commands(proofs: Proof[]): string {
  const on = ({ date, commit, rate, codes }: Proof) =>
    `on ${date}, commit ${commit}, ${rate} assignments/s, ${codes} codes`
  return [...Map.groupBy(proofs, on)]
    .map(([what, all]) => `${all.reduce((sum, { runs }) => sum + runs, 0)} ${what}`)
    .join('; ')
}

/** This command's results as a table. */
export function shown(results: Told[]): string {
  return table(proofsOf(results, '', '', { perSecond: 0, codes: 0 }))
}

/** Appends the results to `path`, and makes the page beside it anew from all that is there. */
export function report(path: string, results: Told[], scale: Scale): void {
  const before: Proof[] = existsSync(path) ? JSON.parse(readFileSync(path, 'utf8')) : []
  const git = ['rev-parse', '--short', 'HEAD']
  const commit = execFileSync('git', git, { cwd: import.meta.dirname, encoding: 'utf8' }).trim()
  const date = new Date().toISOString().slice(0, 10)
  const proofs = [...before, ...proofsOf(results, date, commit, scale)]
  writeFileSync(path, `${JSON.stringify(proofs, null, 2)}\n`)
  writeFileSync(path.replace(/\.json$/, '.md'), page(proofs))
}
