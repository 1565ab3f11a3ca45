import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative, resolve } from 'node:path'
import { describe, expect, test } from 'vitest'
import { problemCodes } from '../src/problems.ts'
import { scriptNames, scriptText } from '../src/store/lua.ts'
import { commonArgs, commonKeys, commonRefusals, type Verb } from '../src/store/verb.ts'
import { verbs } from '../src/store/verbs.ts'

const root = resolve(import.meta.dirname, '..')
const files = (folder: string, ending: string): string[] =>
  readdirSync(join(root, folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith(ending))
    .map((entry) => relative(root, join(entry.parentPath, entry.name)))
const text = (file: string) => readFileSync(join(root, file), 'utf8')

const sources = [...files('src', '.ts'), ...files('workers', '.ts')]
/** Every import of a file: a path from the root for our own, the package's name for others'. */
function importsOf(file: string): string[] {
  const found = text(file).matchAll(/^\s*(?:import|export)\b[^'"]*?from '([^']+)'/gms)
  const dynamic = text(file).matchAll(/import\('([^']+)'\)/g)
  return [...found, ...dynamic].map(([, name]) =>
    name!.startsWith('.') ? relative(root, resolve(root, dirname(file), name!)) : name!,
  )
}
const breaks = (allowed: (file: string, imported: string) => boolean) =>
  sources.flatMap((file) =>
    importsOf(file)
      .filter((imported) => !allowed(file, imported))
      .map((imported) => `${file} imports ${imported}`),
  )
const inside =
  (...folders: string[]) =>
  (file: string) =>
    folders.some((folder) => file.startsWith(`src/${folder}/`))

describe('tidy', () => {
  test('the rooms import only whom they may', () => {
    expect(breaks((_, imported) => !imported.startsWith('test/'))).toEqual([])
    // A main starts workers as processes; it never takes them in.
    expect(breaks((file, it) => file.startsWith('workers/') || !it.startsWith('workers/'))).toEqual(
      [],
    )
    // HTTP knows neither Redis nor PostgreSQL: no client library, no SQL, no key.
    const clients = ['ioredis', 'pg', 'drizzle-orm', 'bullmq']
    expect(
      breaks((file, it) => !inside('http')(file) || !clients.some((name) => it.startsWith(name))),
    ).toEqual([])
    // What operators' routes do comes to them through createApp(deps), bound to its connections.
    expect(breaks((file, it) => !inside('http')(file) || !it.startsWith('src/ops/'))).toEqual([])
    // Store and ledger do not know each other: they meet in recovery.
    const store = inside('store')
    const ledger = inside('ledger')
    expect(breaks((file, it) => !(store(file) && ledger(it)))).toEqual([])
    expect(breaks((file, it) => !(ledger(file) && store(it)))).toEqual([])
    // What remembers knows nobody.
    expect(breaks((file, it) => !inside('journal')(file) || !/^src\/(?!journal)/.test(it))).toEqual(
      [],
    )
  })

  test('bullmq has two doors', () => {
    const doors = ['src/queues.ts', 'workers/main.ts']
    expect(breaks((file, it) => it !== 'bullmq' || doors.includes(file))).toEqual([])
  })

  test('rate-limiter-flexible has one door', () => {
    const door = 'src/limits.ts'
    expect(breaks((file, it) => it !== 'rate-limiter-flexible' || file === door)).toEqual([])
  })

  test('drizzle has one door, and the ledger alone goes through it', () => {
    const door = 'src/ledger/drizzle.ts'
    expect(breaks((file, it) => it !== door || inside('ledger')(file))).toEqual([])
    for (const file of sources.filter((name) => name !== door))
      expect(text(file), file).not.toMatch(/^import (?!type ).*'drizzle-orm/m)
  })

  test('OpenTelemetry has one door, which opens for the mains when they ask for it', () => {
    const isOpenTelemetry = (it: string) => it.startsWith('@opentelemetry/') || it === 'bullmq-otel'
    expect(breaks((file, it) => !isOpenTelemetry(it) || file === 'src/tracing.ts')).toEqual([])
    const mains = ['src/server.ts', 'workers/main.ts']
    expect(breaks((file, it) => it !== 'src/tracing.ts' || mains.includes(file))).toEqual([])
    for (const main of mains) expect(text(main)).not.toMatch(/from '[./a-z]*tracing\.ts'/)
  })

  test('client.ts takes types alone of the server, and nothing into a bundle', () => {
    const ours = [...text('src/client.ts').matchAll(/^(?:import|export)\b.*from '\..*$/gm)]
    expect(ours.map(([line]) => line).filter((line) => !/^\w+ type /.test(line))).toEqual([])
    expect(importsOf('src/client.ts')).toContain('src/app.ts')
  })

  test('config.ts alone reads the environment', () => {
    const readers = [...sources, ...files('bench', '.ts')].filter((file) =>
      /process\.env\b/.test(text(file)),
    )
    expect(readers).toEqual(['src/config.ts'])
  })

  test('log.ts alone makes a log, for it knows what must not stand there', () => {
    expect(sources.filter((file) => /\bpino\(/.test(text(file)))).toEqual(['src/log.ts'])
    const others = breaks((_, it) => it !== 'pino')
    expect(others.filter((one) => !text(one.split(' ')[0]!).includes('type { Logger }'))).toEqual([
      'src/log.ts imports pino',
    ])
  })

  test('every key name stands in keys.ts', () => {
    const others = sources.filter((file) => file !== 'src/store/keys.ts')
    expect(others.filter((file) => /\{s\$\{|\{s\d*\}:/.test(text(file)))).toEqual([])
  })

  test('no command goes to Redis that would run a script by its text', () => {
    const eager = /\.eval\(|'EVAL'|defineCommand|scripts:/
    expect(sources.filter((file) => eager.test(text(file)))).toEqual([])
  })

  test('scripts are loaded by a worker’s recovery and by nobody else', () => {
    expect(sources.filter((file) => text(file).includes("'LOAD'"))).toEqual([
      'src/recovery/recover.ts',
    ])
  })

  test('files, functions and lines stay small', () => {
    const long = [...sources, ...files('lua', '.lua')].filter(
      (file) => text(file).split('\n').length > (file.endsWith('.lua') ? 120 : 300),
    )
    expect(long).toEqual([])
    const wide = files('lua', '.lua').flatMap((file) =>
      text(file)
        .split('\n')
        .filter((line) => line.length > 100)
        .map((line) => `${file}: ${line}`),
    )
    expect(wide).toEqual([])
  })
})

/** A verb's header, read back: keys, arguments and replies as the comment says them. */
function header(script: string) {
  const comment = /--\[\[([\s\S]*?)\]\]/.exec(scriptText(script))![1]!
  const section = (from: string, to: string) =>
    comment.slice(comment.indexOf(from) + from.length, comment.indexOf(to))
  const numbered = (part: string) =>
    [...part.matchAll(/\[\d+(?:\.\.)?\]\s+([a-z]+(?: (?:tomorrow|today|yesterday))?)/g)].map(
      ([, name]) => name,
    )
  const [keyPart, perRequestKeys] = section('KEYS', 'ARGV').split('then per request')
  const [argPart, perRequest] = section('ARGV', 'Replies').split('then per request')
  const args = perRequest!.trim().split('\n')[0]!.trim().split(' ')
  const replies = section('first match wins', 'Cost')
    .split('\n')
    .map((line) => /^ {4}(\S+)\s*(.*)$/.exec(line))
    .filter((match) => match !== null)
    .map(([, word, rest]) => ({ word: word!, values: rest!.split('--')[0]!.trim() }))
  return {
    keys: numbered(keyPart!),
    guarded: perRequestKeys !== undefined,
    commonArgs: numbered(argPart!),
    args,
    replies,
    cost: /Cost: O\(/.test(comment),
  }
}

describe('tidy: every verb’s Lua header says what its twin says', () => {
  const twins = Object.values(verbs) as Verb<string, unknown>[]

  test.each(twins.map((twin) => [twin.script, twin] as const))('%s', (script, twin) => {
    const { keys, guarded, commonArgs: common, args, replies, cost } = header(script)
    expect(keys).toEqual([...commonKeys])
    expect(guarded).toBe(twin.guards !== undefined)
    expect(common).toEqual([...commonArgs])
    expect(args).toEqual([...twin.args])
    expect(cost).toBe(true)
    const repeats = [
      { word: 'again', values: 'entry at op line' },
      ...Object.keys(commonRefusals).map((word) => ({ word, values: '' })),
    ]
    const refusals = Object.entries(twin.refuses).map(([word, names]) => ({
      word,
      values: names!.join(' '),
    }))
    const done = Object.entries(twin.done).map(([word, { values }]) => ({
      word,
      values: values.join(' '),
    }))
    expect(replies).toEqual([...repeats, ...refusals, ...done])
    for (const { word } of refusals) expect(problemCodes).toContain(word)
  })

  test('refusals stand in the script in the order of the header', () => {
    for (const { script, refuses } of twins) {
      const body = scriptText(script).split(']]').slice(1).join(']]')
      const own = Object.keys(refuses).filter((word) => body.includes(`'${word}`))
      expect(own.length).toBe(Object.keys(refuses).length)
    }
  })

  test('every script has a header, a cost and a shebang', () => {
    for (const script of scriptNames) {
      const [first] = scriptText(script).split('\n')
      expect(first, script).toMatch(/^#!lua( flags=(no-writes|allow-oom))?$/)
      expect(scriptText(script), script).toMatch(/KEYS \[1\] meta/)
      expect(scriptText(script), script).toMatch(/\n {2}Replies/)
      expect(scriptText(script), script).toMatch(/\n {2}Cost: O\(/)
    }
  })
})
