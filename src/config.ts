import { readFileSync } from 'node:fs'
import type { z } from 'zod'
import { variables } from './variables.ts'

export { listed } from './variables.ts'

/**
 * The only reader of process.env. Every variable stands once in variables.ts, with what it means.
 * Each may also be given as NAME_FILE: the path of a file that holds the value (Docker secrets).
 */
type Variables = typeof variables
export type Variable = keyof Variables
export type Config<N extends Variable> = { [K in N]: z.infer<Variables[K]['schema']> }

/** A variable is missing or wrong. A main prints the message and exits 78 (EX_CONFIG). */
export class ConfigError extends Error {}

export type Environment = Readonly<Record<string, string | undefined>>

function raw(name: string, env: Environment): string | undefined {
  const path = env[`${name}_FILE`]
  if (path === undefined || path === '') return env[name] === '' ? undefined : env[name]
  if (env[name]) throw new ConfigError(`${name} and ${name}_FILE are both set: keep one of them.`)
  try {
    return readFileSync(path, 'utf8').trim()
  } catch (error) {
    throw new ConfigError(`${name}_FILE=${path} cannot be read: ${(error as Error).message}`)
  }
}

/** A URL that is no secret may name a user and a password all the same. */
const withoutCredentials = (value: string) => value.replace(/\/\/.*@/, '//(secret)@')

/** Reads and checks the named variables; throws ConfigError naming the first bad one. */
export function readConfig<const N extends Variable>(
  names: readonly N[],
  env: Environment = process.env,
): Config<N> {
  const config: Record<string, unknown> = {}
  for (const name of names) {
    const variable: { about: string; secret?: boolean; schema: z.ZodType } = variables[name]
    const value = raw(name, env)
    const parsed = variable.schema.safeParse(value)
    if (!parsed.success) {
      const shown =
        value === undefined
          ? 'is not set'
          : variable.secret
            ? ''
            : `is "${withoutCredentials(value)}"`
      const reason = value === undefined ? '' : parsed.error.issues[0]?.message
      throw new ConfigError(
        [`${name} ${shown}`.trim(), reason, variable.about].filter(Boolean).join(': '),
      )
    }
    config[name] = parsed.data
  }
  return config as Config<N>
}

const api = ['REDIS_URL', 'QUEUE_REDIS_URL', 'DATABASE_URL', 'JWT_SECRET', 'HOST', 'PORT'] as const
const tracing = ['OTEL_EXPORTER_OTLP_ENDPOINT', 'OTEL_TRACES_SAMPLER_ARG'] as const
const limits = [
  'JWT_SECRET_PREVIOUS',
  'CORS_ORIGINS',
  'MAX_CONNECTIONS',
  'LIMIT_REDIS_URL',
  'LIMIT_LOGIN_ACCOUNT',
  'LIMIT_LOGIN_ADDRESS',
  'LIMIT_REGISTER_ADDRESS',
  'LIMIT_CODE_USER',
  'LIMIT_CODE_ADDRESS',
  'LIMIT_CODE_KEY',
  'TRUSTED_PROXIES',
  'REDIS_MANAGED',
  'LOG_LEVEL',
  'DATABASE_POOL',
  'DURABILITY_WAIT_MS',
  'BACKLOG_FACTS',
] as const

const ofApi = [...api, ...limits, ...tracing] as const

/** What src/server.ts needs. */
export const apiConfig = (env?: Environment) => readConfig(ofApi, env)
export type ApiConfig = ReturnType<typeof apiConfig>

const worker = ['REDIS_URL', 'QUEUE_REDIS_URL', 'DATABASE_URL', 'HOST', 'METRICS_PORT'] as const

const ofWorker = [
  ...[...worker, ...tracing],
  ...(['REDIS_MANAGED', 'LOG_LEVEL', 'DATABASE_POOL', 'RECONCILE_MINUTES'] as const),
  'BACKLOG_FACTS',
] as const

/** What workers/main.ts needs. */
export const workerConfig = (env?: Environment) => readConfig(ofWorker, env)
export type WorkerConfig = ReturnType<typeof workerConfig>

/** A variable that keeps a process from starting; `isSet`: it has a value, and that is wrong. */
export type Refused = { name: string; by: ('api' | 'worker')[]; isSet: boolean; why: string }

/** Whatever an API or a worker would end for with 78, if it were started in this environment. */
export function refused(env: Environment = process.env): Refused[] {
  const names = new Set<Variable>([...ofApi, ...ofWorker])
  return [...names].flatMap((name): Refused[] => {
    try {
      readConfig([name], env)
      return []
    } catch (error) {
      const by: Refused['by'] = []
      if (ofApi.some((one) => one === name)) by.push('api')
      if (ofWorker.some((one) => one === name)) by.push('worker')
      const isSet = Boolean(env[name] || env[`${name}_FILE`])
      const why = (error as ConfigError).message.replace(new RegExp(`^${name}:? ?`), '')
      return [{ name, by, isSet, why }]
    }
  })
}

const own = [
  'QUEUE_REDIS_URL',
  'LIMIT_REDIS_URL',
  'HOST',
  'PORT',
  'METRICS_PORT',
  'DATA_DIR',
  'SHARDS',
] as const
const replaceable = ['REDIS_URL', 'DATABASE_URL', 'JWT_SECRET'] as const

/** What `npm start` needs: it brings itself what is not given of Redis, PostgreSQL and secret. */
export function startConfig(env: Environment = process.env) {
  const given = replaceable.filter((name) => raw(name, env) !== undefined)
  const found: Partial<Config<(typeof replaceable)[number]>> = readConfig(given, env)
  return { ...readConfig(own, env), ...found }
}

/** Started by npm and a shell that are there for this process alone. */
export const isStartedByNpm = (env: Environment = process.env) =>
  env.npm_lifecycle_event === 'start'

/** The environment of a process we start: ours, with these values in place of what was given. */
export function environmentOf(
  values: Partial<Record<Variable, string>>,
  env: Environment = process.env,
): Record<string, string | undefined> {
  const files = Object.keys(values).map((name) => [`${name}_FILE`, undefined])
  return { ...env, ...Object.fromEntries(files), ...values }
}

/** A setting as it is printed: of a secret only whether it is set. */
export type Printed = {
  name: string
  value: string | null
  from: 'environment' | 'file' | 'default' | 'nowhere'
  wrong: string | null
  about: string
}

/** Every setting that there is, as this environment gives it; secrets are not shown. */
export function printable(env: Environment = process.env): Printed[] {
  return Object.entries(variables).map(([name, variable]) => {
    const { about, schema, secret } = variable as (typeof variables)['REDIS_URL']
    const given = raw(name, env)
    const parsed = (schema as z.ZodType).safeParse(given)
    const fallback = given === undefined && parsed.success && parsed.data !== undefined
    const from = env[`${name}_FILE`] ? 'file' : given === undefined ? 'nowhere' : 'environment'
    const shown = given ?? (fallback ? String(parsed.data) : null)
    return {
      ...{ name, about, from: fallback ? 'default' : from },
      value: shown === null ? null : secret ? '(secret)' : withoutCredentials(shown),
      wrong: given !== undefined && !parsed.success ? parsed.error.issues[0]!.message : null,
    }
  })
}
