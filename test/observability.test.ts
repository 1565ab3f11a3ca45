import { execFile, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs'
import { join, posix, resolve } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { parse } from 'yaml'
import { environmentOf } from '../src/config.ts'
import { scratchDir } from '../src/embedded/leftovers.ts'
import { noteReconcile } from '../src/ledger/reconciled.ts'
import { metricsText } from '../src/metrics.ts'
import { problemCodes, problemStatus } from '../src/problems.ts'
import { openWorld, type World } from './world.ts'

/**
 * Alerts and dashboard are only as good as the names in them: a metric that was renamed makes an
 * alert that never fires. So each name and label is looked up in the real /metrics of an API and a
 * worker. Neither Prometheus nor Grafana is needed, or used, here.
 */
const root = resolve(import.meta.dirname, '..')
const text = (file: string) => readFileSync(join(root, file), 'utf8')

type Alert = {
  alert: string
  expr: string
  for: string
  labels: { severity: string }
  annotations: Record<string, string>
}
type Target = { expr: string; legendFormat: string; datasource: { uid: string } }
type Panel = {
  id: number
  type: string
  title: string
  datasource?: { uid: string }
  targets?: Target[]
}
type Service = {
  image: string
  profiles?: string[]
  command?: string[]
  environment?: Record<string, string>
  secrets?: string[]
  volumes?: string[]
  ports?: string[]
  networks: string[]
}
type Job = {
  job_name: string
  authorization?: { credentials_file: string }
  dns_sd_configs: { names: string[]; port: number }[]
}

const alerts: Alert[] = parse(text('ops/prometheus/alerts.yml')).groups.flatMap(
  ({ rules }: { rules: Alert[] }) => rules,
)
const scraping: { rule_files: string[]; scrape_configs: Job[] } = parse(
  text('ops/prometheus/prometheus.yml'),
)
const dashboard = JSON.parse(text('ops/grafana/stampede.json'))
const panels: Panel[] = dashboard.panels
const targets = panels.flatMap((panel) => panel.targets ?? [])
const runbook = text('docs/alerts.md')
const compose: { services: Record<string, Service>; secrets: object; volumes: object } = parse(
  text('docker-compose.yml'),
  { merge: true },
)
const jobs = scraping.scrape_configs.map(({ job_name }) => job_name)

/** Prometheus makes this itself, for every target. */
const ofPrometheus = ['up']
/** Labels that Prometheus puts on whatever it scrapes. */
const ofTarget = ['job', 'instance']

/** A metric in an expression. `kept`: what each `by` around it lets through, the innermost first. */
type Use = { name: string; matchers: Matcher[]; kept: string[][] }
type Matcher = { label: string; how: string; value: string }

const aggregations = ['sum', 'max', 'min', 'count', 'avg']
const operators = ['and', 'or', 'unless']
const token = /"(?:[^"\\]|\\.)*"|[a-zA-Z_]\w*|\d[\w.]*|[=!]~|[=!<>]=|[-+*/%^(){},=<>]/y

/**
 * Reads as much PromQL as our files use, and throws at the rest: what is not understood is not
 * checked either.
 */
function usesOf(expr: string): Use[] {
  const tokens: string[] = []
  const plain = expr.replaceAll(/\[[^\]]*\]|\s+/g, ' ')
  for (let at = 0; at < plain.length; ) {
    if (plain[at] === ' ') {
      at++
      continue
    }
    token.lastIndex = at
    const [found] = token.exec(plain) ?? []
    if (found === undefined) throw new Error(`not understood: ${plain.slice(at)}`)
    tokens.push(found)
    at += found.length
  }
  const uses: Use[] = []
  const next = () => tokens[0]
  const take = (wanted: string) => {
    const found = tokens.shift()
    if (found !== wanted) throw new Error(`${wanted} expected, not ${found}, in ${expr}`)
  }

  function list(): string[] {
    take('(')
    const names: string[] = []
    while (tokens.length > 0 && next() !== ')') {
      names.push(tokens.shift()!)
      if (next() === ',') tokens.shift()
    }
    take(')')
    return names
  }
  function matchers(): Matcher[] {
    const found: Matcher[] = []
    if (next() !== '{') return found
    take('{')
    while (tokens.length > 2 && next() !== '}') {
      const [label, how, value] = tokens.splice(0, 3) as [string, string, string]
      found.push({ label, how, value: JSON.parse(value) })
      if (next() === ',') tokens.shift()
    }
    take('}')
    return found
  }
  /** All there is up to the parenthesis that closes this one, or the end. */
  function inside(kept: string[][]): void {
    while (tokens.length > 0 && next() !== ')') {
      const name = tokens.shift()!
      if (name === '(') {
        inside(kept)
        take(')')
      } else if (name === 'on') {
        // Of what is left on either side nobody here keeps book.
        const strange = list().filter((label) => !ofTarget.includes(label))
        if (strange.length > 0) throw new Error(`on (${strange}) is not understood: ${expr}`)
      } else if (!/^[a-z]/i.test(name) || operators.includes(name)) continue
      else if (aggregations.includes(name)) {
        const by = next() === 'by' && tokens.shift() ? list() : []
        take('(')
        inside([...kept, by])
        take(')')
        if (next() === 'by') throw new Error(`write "by" before the parenthesis: ${expr}`)
      } else if (next() === '(') {
        take('(')
        inside(kept)
        take(')')
      } else uses.push({ name, matchers: matchers(), kept: kept.toReversed() })
    }
  }
  inside([])
  if (tokens.length > 0) throw new Error(`too many parentheses: ${expr}`)
  return uses
}

let world: World
/** The labels of every sample that API and worker have told, by its name. */
const told = new Map<string, Record<string, string>[]>()

function learn(scraped: string): void {
  for (const line of scraped.split('\n')) {
    const [, name, labels = ''] = /^([a-z_]\w*)(?:\{(.*)\})? \S+$/.exec(line) ?? []
    if (name === undefined) continue
    const pairs = [...labels.matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)]
    const samples = told.get(name) ?? []
    told.set(name, samples)
    samples.push(Object.fromEntries(pairs.map(([, key, value]) => [key, value])))
  }
}

const expressions = [...alerts, ...targets].map(({ expr }) => expr)
const isAbsent = ({ name }: Use) => !told.has(name)

beforeAll(async () => {
  world = await openWorld({ shards: 2 })
  // Told once both stores have been compared.
  await noteReconcile(world.database, { differences: 0, undersold: 0 })
  for (const name of ofPrometheus)
    told.set(
      name,
      jobs.map((job) => ({ job, instance: '' })),
    )
  // A source that is late on a busy machine is left out of a scrape: a later one has it.
  for (let scrape = 0; scrape < 5; scrape++) {
    learn(await (await fetch(`${world.base}/metrics`)).text())
    learn(await metricsText(world.workerMetrics()))
    if (!expressions.flatMap(usesOf).some(isAbsent)) break
  }
})
afterAll(() => world.close())

const labelsOf = (name: string) =>
  new Set([...ofTarget, ...(told.get(name) ?? []).flatMap((labels) => Object.keys(labels))])
/** What is left of a metric's labels once all aggregations around it are through with it. */
const labelsLeft = ({ name, kept }: Use) => new Set(kept.at(-1) ?? labelsOf(name))

/** What is wrong with an expression, in words. */
function faults(expr: string): string[] {
  return usesOf(expr).flatMap((use) => {
    const { name, matchers, kept } = use
    if (isAbsent(use)) return [`${name}: nobody tells it`]
    const samples = told.get(name)!
    const unknown = matchers.filter(({ label }) => !labelsOf(name).has(label))
    const empty = matchers.filter(
      (matcher) => !unknown.includes(matcher) && !fits(samples, matcher),
    )
    const lost = kept.flatMap((by, depth) => {
      const there = depth === 0 ? labelsOf(name) : new Set(kept[depth - 1])
      return by.filter((label) => !there.has(label))
    })
    return [
      ...unknown.map(({ label }) => `${name} has no label ${label}`),
      ...empty.map(({ label, value }) => `${name} never has ${label}="${value}"`),
      ...lost.map((label) => `${name} is grouped by ${label}, which is not there`),
    ]
  })
}

const outcomes: readonly string[] = ['done', 'replayed', 'late', ...problemCodes]

/** Whether there is something for a matcher to match, or, where it excludes, to leave out. */
function fits(samples: Record<string, string>[], { label, how, value }: Matcher): boolean {
  if (value.startsWith('$')) return true // what Grafana's reader has chosen
  // An outcome is told once it has happened: all that may happen are known beforehand.
  if (label === 'outcome') return value.split('|').every((one) => outcomes.includes(one))
  const pattern = new RegExp(`^(?:${value})$`)
  const values = label === 'job' ? jobs : samples.map((labels) => labels[label] ?? '')
  return values.some((one) => (how.endsWith('~') ? pattern.test(one) : one === value))
}

describe('the reader of expressions', () => {
  test('finds metrics, matchers and what is left of the labels', () => {
    expect(
      usesOf('sum by (a) (rate(x_total{b="(1",c=~"2|3"}[5m])) / scalar(max(min by (d) (y))) > 0.5'),
    ).toEqual([
      {
        name: 'x_total',
        matchers: [
          { label: 'b', how: '=', value: '(1' },
          { label: 'c', how: '=~', value: '2|3' },
        ],
        kept: [['a']],
      },
      { name: 'y', matchers: [], kept: [['d'], []] },
    ])
  })

  test.each([
    'sum(x',
    'x)',
    'sum(x) by (a)',
    'x # y',
    'sum without (a) (x)',
    'sum by (a',
    'x{a="b"',
  ])('throws at %s', (expr) => {
    expect(() => usesOf(expr)).toThrow()
  })

  test.each([
    ['stampede_no_such_thing', 'stampede_no_such_thing: nobody tells it'],
    ['stampede_gate_open{book="1"}', 'stampede_gate_open has no label book'],
    ['stampede_jobs{state="failed"}', 'stampede_jobs never has state="failed"'],
    [
      'sum by (verb) (stampede_gate_open)',
      'stampede_gate_open is grouped by verb, which is not there',
    ],
    [
      'max by (shard) (sum by (job) (stampede_gate_open))',
      'stampede_gate_open is grouped by shard, which is not there',
    ],
    [
      'stampede_answers_total{outcome=~"done|lost"}',
      'stampede_answers_total never has outcome="done|lost"',
    ],
  ])('sees what is wrong with %s', (expr, fault) => {
    expect(faults(expr)).toEqual([fault])
  })
})

describe('alerts.yml', () => {
  test('asks for metrics, labels and values that are there', () => {
    expect(alerts.length).toBeGreaterThan(12)
    expect(alerts.flatMap(({ alert, expr }) => faults(expr).map((f) => `${alert}: ${f}`))).toEqual(
      [],
    )
  })

  test.each(alerts.map((rule) => [rule.alert, rule] as const))('%s is complete', (name, rule) => {
    expect(name).toMatch(/^Stampede[A-Z]\w+$/)
    expect(rule.for).toMatch(/^\d+[sm]$/)
    expect(['page', 'ticket', 'info']).toContain(rule.labels.severity)
    const { summary, description, runbook: link, ...more } = rule.annotations
    expect(more).toEqual({})
    expect(summary).toMatch(/\S/)
    expect(description).toMatch(/^[A-Z][^.]*\.$/) // one sentence
    expect(link).toBe(`docs/alerts.md#${name.toLowerCase()}`)
    const left = usesOf(rule.expr).map(labelsLeft)
    for (const [, label] of `${summary} ${description}`.matchAll(/\$labels\.(\w+)/g))
      expect(
        left.some((labels) => labels.has(label!)),
        label,
      ).toBe(true)
  })

  test('has one alert of a name', () => {
    const names = alerts.map(({ alert }) => alert)
    expect(names).toEqual([...new Set(names)])
  })

  test('counts as failures what is our fault, in the dashboard too', () => {
    // An operator's will, and limits that keep to what they are for.
    const meant = ['intake-stopped', 'transfers-busy', 'too-many-streams']
    const ours = problemCodes.filter((code) => problemStatus(code) >= 500 && !meant.includes(code))
    const counted = expressions
      .flatMap(usesOf)
      .flatMap(({ matchers }) => matchers)
      .filter(({ label }) => label === 'outcome')
    expect(counted).toHaveLength(3)
    for (const { value } of counted) expect(value.split('|').sort()).toEqual(ours.toSorted())
  })

  test('is what promtool understands', ({ skip }) => {
    skip(spawnSync('promtool', ['--version']).error !== undefined, 'promtool is not on PATH')
    const file = join(root, 'ops/prometheus/alerts.yml')
    const checked = spawnSync('promtool', ['check', 'rules', file], { encoding: 'utf8' })
    expect(checked.stderr).toBe('')
    expect(checked.status).toBe(0)
  })
})

describe('docs/alerts.md', () => {
  const sections = runbook.split(/^## /m).slice(1)
  const headings = sections.map((section) => section.split('\n', 1)[0]!)
  const bySection = (name: string) => sections[headings.indexOf(name)]!

  test('has a section for every alert, with its severity, and no other', () => {
    expect(headings.toSorted()).toEqual(alerts.map(({ alert }) => alert).toSorted())
    for (const { alert, labels } of alerts)
      expect(bySection(alert), alert).toMatch(new RegExp(`^${alert}\n\n\`${labels.severity}\``))
  })

  test('links to what exists, and names panels that exist', () => {
    const links = [...runbook.matchAll(/\]\(([^)]+)\)/g)].map(([, link]) => link!)
    const anchors = headings.map((heading) => `#${heading.toLowerCase()}`)
    expect(
      links.filter((link) =>
        link.startsWith('#') ? !anchors.includes(link) : !existsSync(join(root, 'docs', link)),
      ),
    ).toEqual([])
    const named = [...runbook.matchAll(/panel "([^"]+)"/gi)].map(([, title]) => title!)
    expect(named.length).toBeGreaterThan(2)
    const titles = panels.map(({ title }) => title)
    expect(named.filter((title) => !titles.includes(title))).toEqual([])
  })
})

describe('the dashboard', () => {
  const shown = panels.filter(({ type }) => type !== 'row')

  test('asks for metrics, labels and values that are there', () => {
    const wrong = shown.flatMap(({ title, targets = [] }) =>
      targets.flatMap(({ expr, legendFormat }) => {
        const left = usesOf(expr).map(labelsLeft)
        const named = [...legendFormat.matchAll(/\{\{(\w+)\}\}/g)].map(([, label]) => label!)
        const missing = named.filter((label) => !left.some((labels) => labels.has(label)))
        return [...faults(expr), ...missing.map((label) => `no ${label} for the legend`)].map(
          (fault) => `${title}: ${fault}`,
        )
      }),
    )
    expect(wrong).toEqual([])
  })

  test('has something to show in every panel, in three rows', () => {
    const rows = panels.filter(({ type }) => type === 'row').map(({ title }) => title)
    expect(rows).toEqual(['Sale', 'Ledger', 'Health'])
    expect(shown.filter(({ targets }) => !targets?.length).map(({ title }) => title)).toEqual([])
    const ids = panels.map(({ id }) => id)
    expect(ids).toEqual([...new Set(ids)])
    expect(dashboard.schemaVersion).toBeGreaterThanOrEqual(39)
  })

  test('takes the Prometheus that its reader has chosen, and no other', () => {
    const [chosen] = dashboard.templating.list
    expect(chosen).toMatchObject({ name: 'datasource', type: 'datasource', query: 'prometheus' })
    expect(dashboard).not.toHaveProperty('uid')
    const uids = [...text('ops/grafana/stampede.json').matchAll(/"uid": "([^"]*)"/g)]
    expect(uids.length).toBeGreaterThan(targets.length)
    expect(new Set(uids.map(([, uid]) => uid))).toEqual(new Set([`\${datasource}`]))
  })
})

describe('docker-compose.yml, profile observability', () => {
  const { prometheus, grafana } = compose.services as Record<'prometheus' | 'grafana', Service>
  /** The file of ours that a container sees at this path. */
  function mounted({ volumes = [] }: Service, path: string): string | undefined {
    for (const volume of volumes.toSorted((a, b) => b.length - a.length)) {
      const [from, to] = volume.split(':') as [string, string]
      const inside = posix.relative(to, path)
      if (from.startsWith('./') && !inside.startsWith('..')) return posix.join(from, inside)
    }
    return undefined
  }
  const secret = (service: Service, path: string) =>
    service.secrets!.some((name) => path === `/run/secrets/${name}` && name in compose.secrets)

  test('brings two services that nobody gets who did not ask for them', () => {
    const optional = Object.entries(compose.services).filter(([, { profiles }]) => profiles)
    expect(optional.map(([name]) => name)).toEqual(['prometheus', 'grafana'])
    for (const [name, { image, profiles, ports }] of optional) {
      expect(profiles, name).toEqual(['observability'])
      expect(image, name).toMatch(/:v?\d+\.\d+\.\d+$/)
      expect(ports, name).toHaveLength(1)
      expect(ports![0], name).toMatch(/^127\.0\.0\.1:\d+:\d+$/)
    }
    // What shows numbers to a browser has no way to Redis and PostgreSQL.
    expect(grafana.networks).toEqual(['outside'])
    expect(prometheus.networks).toEqual(['inside', 'outside'])
  })

  test('mounts files that are there', () => {
    for (const service of [prometheus, grafana])
      for (const volume of service.volumes!) {
        const [from, , mode] = volume.split(':') as [string, string, string?]
        if (from.startsWith('./')) {
          expect(existsSync(join(root, from)), from).toBe(true)
          expect(mode, from).toBe('ro')
        } else expect(compose.volumes).toHaveProperty(from)
      }
    const config = prometheus.command!.find((part) => part.startsWith('--config.file='))!
    const file = mounted(prometheus, config.split('=')[1]!)!
    expect(posix.normalize(file)).toBe('ops/prometheus/prometheus.yml')
    for (const rules of scraping.rule_files)
      expect(existsSync(join(root, posix.dirname(file), rules)), rules).toBe(true)
  })

  test('lets Prometheus scrape API and workers where they are', () => {
    const [api, worker] = scraping.scrape_configs as [Job, Job]
    for (const { dns_sd_configs } of [api, worker])
      for (const { names } of dns_sd_configs)
        for (const name of names) {
          expect(compose.services[name]?.networks, name).toContain('inside')
          expect(compose.services[name]?.profiles, name).toBeUndefined()
        }
    const published = compose.services.api!.ports![0]!
    expect(published.endsWith(`:${api.dns_sd_configs[0]!.port}`)).toBe(true)
    expect(secret(prometheus, api.authorization!.credentials_file)).toBe(true)
    // A worker shows its numbers only if it is told where; the head of the file says how.
    expect(compose.services.worker!.environment).toHaveProperty('METRICS_PORT')
    expect(text('docker-compose.yml')).toContain(
      `echo METRICS_PORT=${worker.dns_sd_configs[0]!.port} >> .env`,
    )
    expect(worker.authorization).toBeUndefined()
  })

  test('lets Grafana show the dashboard at once', () => {
    const settings = grafana.environment!
    expect(secret(grafana, settings.GF_SECURITY_ADMIN_PASSWORD__FILE!)).toBe(true)
    const home = mounted(grafana, settings.GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH!)!
    expect(posix.normalize(home)).toBe('ops/grafana/stampede.json')
    const provisioning = (file: string) => {
      const path = mounted(grafana, `/etc/grafana/provisioning/${file}`)!
      return parse(text(path))
    }
    const [provider] = provisioning('dashboards/stampede.yml').providers
    expect(settings.GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH).toBe(
      `${provider.options.path}/stampede.json`,
    )
    const [source] = provisioning('datasources/prometheus.yml').datasources
    const { protocol, hostname, port } = new URL(source.url)
    expect([protocol, compose.services[hostname]]).toEqual(['http:', prometheus])
    expect(prometheus.ports![0]!.endsWith(`:${port}`)).toBe(true)
    expect(source).toMatchObject({ type: 'prometheus', isDefault: true })
    expect(source).not.toHaveProperty('uid')
  })

  const hasCurl = spawnSync('curl', ['--version']).error === undefined
  test.skipIf(!hasCurl)('has a command at its head that makes a key which may scrape', async () => {
    const head = text('docker-compose.yml').split('\nname:')[0]!
    const command = head.slice(head.indexOf('#   curl '), head.indexOf('#   echo METRICS_PORT'))
    const dir = scratchDir('observability')
    mkdirSync(join(dir, '.stampede/docker'), { recursive: true })
    // Not spawnSync: the service that curl asks lives in this very process.
    const { stderr } = await promisify(execFile)(
      'sh',
      ['-ec', command.replaceAll(/^# {2}/gm, '').replaceAll('http://127.0.0.1:8000', world.base)],
      { cwd: dir, env: { ...environmentOf({}), token: world.admin } },
    )
    expect(stderr).toBe('')
    const key = readFileSync(join(dir, '.stampede/docker/prometheus_key'), 'utf8').trim()
    rmSync(dir, { recursive: true, force: true })
    // As if it came from another machine, where nobody without a key is shown anything.
    const scrape = (headers: Record<string, string>) =>
      fetch(`${world.base}/metrics`, { headers: { via: '1.1 elsewhere', ...headers } })
    expect((await scrape({})).status).toBe(401)
    expect((await scrape({ authorization: `Bearer ${key}` })).status).toBe(200)
  })
})
