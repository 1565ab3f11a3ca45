import { z } from 'zod'
import { readRange } from './ranges.ts'

/**
 * Every variable that there is, with what it means: config.ts reads them. `.env.example`,
 * docker-compose.yml and the Dockerfile are tested against this table.
 */
const port = z.coerce.number().int().min(0).max(65535)
const url = (...schemes: string[]) =>
  z.string().refine((value) => schemes.some((scheme) => value.startsWith(`${scheme}://`)), {
    message: `must begin with ${schemes.map((scheme) => `${scheme}://`).join(' or ')}`,
  })
const count = (min: number, max: number) => z.coerce.number().int().min(min).max(max)
const rate = z
  .string()
  .regex(/^[1-9]\d{0,8}\/[1-9]\d{0,5}$/, 'must be so many per so many seconds, as in 10/600')

/** What a setting with commas lists. */
export const listed = (text: string | undefined): string[] =>
  (text ?? '')
    .split(',')
    .map((one) => one.trim())
    .filter(Boolean)

export const variables = {
  REDIS_URL: {
    about: 'Redis >= 7.0 or Valkey that decides: AOF on, maxmemory-policy noeviction.',
    secret: true,
    schema: url('redis', 'rediss'),
  },
  REDIS_MANAGED: {
    about:
      '1: REDIS_URL is a provider that hides settings; only `postgres` durability is promised then.',
    schema: z.enum(['0', '1']).default('0'),
  },
  QUEUE_REDIS_URL: {
    about: "BullMQ's Redis. Left out: the same as REDIS_URL.",
    secret: true,
    schema: url('redis', 'rediss').optional(),
  },
  DATABASE_URL: {
    about: 'PostgreSQL >= 14 that proves: the ledger and everything that is not a coupon verb.',
    secret: true,
    schema: url('postgres', 'postgresql'),
  },
  JWT_SECRET: {
    about: 'Signs the tokens of users (HS256). At least 32 characters; every API process the same.',
    secret: true,
    schema: z.string().min(32, 'must have at least 32 characters: try `openssl rand -hex 32`'),
  },
  LIMIT_REDIS_URL: {
    about:
      'Redis that counts failed logins and guessed codes. Left out: REDIS_URL, if its user may do that.',
    secret: true,
    schema: url('redis', 'rediss').optional(),
  },
  LIMIT_LOGIN_ACCOUNT: {
    about: 'Failed logins of an account, per seconds; then each address has one more.',
    schema: rate.default('10/600'),
  },
  LIMIT_LOGIN_ADDRESS: {
    about: 'Failed logins and registrations from an address, per seconds.',
    schema: rate.default('30/600'),
  },
  LIMIT_REGISTER_ADDRESS: {
    about: 'Registrations from an address, per seconds, those that succeed too.',
    schema: rate.default('100/600'),
  },
  LIMIT_CODE_USER: {
    about: 'Unknown or foreign codes that a user may name, per seconds.',
    schema: rate.default('10/600'),
  },
  LIMIT_CODE_ADDRESS: {
    about: 'Unknown or foreign codes that the users of an address may name, per seconds.',
    schema: rate.default('30/600'),
  },
  LIMIT_CODE_KEY: {
    about: 'Unknown or foreign codes that an API key may name, per seconds.',
    schema: rate.default('1000/60'),
  },
  TRUSTED_PROXIES: {
    about:
      'Addresses and CIDRs, with commas, whose X-Forwarded-For is believed. Left out: nobody’s.',
    schema: z
      .string()
      .refine(
        (text) => listed(text).every((one) => readRange(one)),
        'must be addresses and CIDRs, with commas',
      )
      .optional(),
  },
  CORS_ORIGINS: {
    about:
      'Origins, with commas, whose pages may call the API: https://shop.example. Left out: none.',
    schema: z
      .string()
      .refine(
        (text) => listed(text).every((one) => URL.parse(one)?.origin === one),
        'must be origins, as in https://shop.example',
      )
      .optional(),
  },
  MAX_CONNECTIONS: {
    about: 'Connections that an API process holds at a time; more are closed at once.',
    schema: count(10, 1_000_000).default(10_000),
  },
  JWT_SECRET_PREVIOUS: {
    about: 'Another secret whose tokens are valid, while JWT_SECRET is replaced: docs/security.md.',
    secret: true,
    schema: z.string().min(32, 'must have at least 32 characters').optional(),
  },
  HOST: {
    about: 'Address that API and worker listen on.',
    schema: z.string().min(1).default('127.0.0.1'),
  },
  PORT: { about: 'Port the API listens on.', schema: port.default(8000) },
  METRICS_PORT: {
    about: 'Port a worker shows /metrics and /livez on, at HOST, to everyone. Left out: on none.',
    schema: port.optional(),
  },
  LOG_LEVEL: {
    about: 'Lowest level that is logged: trace, debug, info, warn, error, fatal or silent.',
    schema: z.enum(['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent']).default('info'),
  },
  SHARDS: {
    about: 'Shards, made by the migration. May grow (then restart every process), never shrink.',
    schema: count(1, 64).default(8),
  },
  DATABASE_POOL: {
    about: 'PostgreSQL connections per process.',
    schema: count(2, 100).default(10),
  },
  DURABILITY_WAIT_MS: {
    about: 'How long an answer at `postgres` durability waits for the ledger before it says 202.',
    schema: count(50, 60_000).default(2_000),
  },
  BACKLOG_FACTS: {
    about: 'Facts per shard that may wait for the ledger before intake answers 503 `backlog`.',
    schema: count(1_000, 10_000_000).default(500_000),
  },
  RECONCILE_MINUTES: {
    about: 'How often a worker compares both stores by itself; 0: never.',
    schema: count(0, 100_000).default(60),
  },
  OTEL_EXPORTER_OTLP_ENDPOINT: {
    about:
      'OpenTelemetry collector for spans (OTLP/HTTP, as http://127.0.0.1:4318). Left out: no spans.',
    schema: url('http', 'https')
      .refine((value) => URL.canParse(value), 'must be a URL')
      .optional(),
  },
  OTEL_TRACES_SAMPLER_ARG: {
    about:
      'Share of requests that get spans, 0 to 1; a caller’s `traceparent` decides for its own.',
    schema: z.coerce.number().min(0).max(1).default(1),
  },
  DATA_DIR: {
    about: '`npm start` only: where the private Redis and PostgreSQL keep their data.',
    schema: z.string().min(1).default('.stampede'),
  },
  FAILPOINT: {
    about:
      'For tests only: `name:kill`, `name:throw` or `name:freeze`, and `:3` for the third pass.',
    schema: z
      .string()
      .regex(/^[a-z-]+(\.[a-z-]+)+:(kill|throw|freeze)(:[1-9]\d*)?$/)
      .optional(),
  },
} as const satisfies Record<string, { about: string; secret?: boolean; schema: z.ZodType }>
