import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, mkdirSync, openSync, readFileSync, realpathSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { type AclUser, aclRules } from './acl.ts'
import { findRedisServer } from './bootstrap.mjs'
import { leash } from './leash.ts'
import { forget, reclaim, record } from './leftovers.ts'
import { freePort } from './ports.ts'

export interface RedisOptions {
  /** Its own directory: configuration, data, log. */
  dir: string
  port?: number
  /** Of the user `default`, who may do everything. */
  password?: string
  /** Passwords of the users that may do only what is theirs: see acl.ts. */
  users?: Record<AclUser, string>
  /** true: every write reaches the append-only file, so a restart keeps all of it. */
  durable: boolean
  appendfsync?: 'everysec' | 'always' | 'no'
  /** More arguments of redis-server: `['--maxmemory', '64mb']`. */
  extra?: string[]
  log?: string
  /** Seconds it stays after this process was killed, for those who still need it. */
  graceSeconds?: number
}

export interface PrivateRedis {
  url: string
  /** The same for one of `users`. */
  urlOf(user: AclUser): string
  port: number
  pid: number
  child: ChildProcess
  stop(deadlineMs?: number): Promise<void>
}

const loadingMs = 120_000 // a large append-only file takes its time
let binary: string | undefined

function redisServer(): string {
  binary ??= findRedisServer()
  if (!binary) throw new Error('no redis-server or valkey-server >= 7.0 found: see `npm start`')
  return binary
}

/** A file and not arguments, because everyone may read the arguments of a process. */
function writeConfiguration(options: RedisOptions, dir: string, port: number): string {
  const quoted = (text: string) => `"${text.replace(/[\\"]/g, '\\$&')}"`
  const lines = [
    'bind 127.0.0.1',
    `port ${port}`,
    `dir ${quoted(dir)}`,
    'daemonize no',
    'set-proc-title no', // keeps the directory in the command line: `leftovers` asks for it
    'maxmemory-policy noeviction',
    'save ""',
    `appendonly ${options.durable ? 'yes' : 'no'}`,
    `appendfsync ${options.appendfsync ?? 'everysec'}`,
    'aof-use-rdb-preamble yes',
    // A rewrite takes a core for seconds: not again and again in the middle of a sale.
    'auto-aof-rewrite-percentage 400',
    // Not requirepass: whoever may ask for the configuration could read that.
    ...(options.password ? [`user default on >${options.password} ~* &* +@all`] : []),
    ...Object.entries(options.users ?? {}).map(
      ([name, password]) => `user ${name} on >${password} ${aclRules[name as AclUser]}`,
    ),
  ]
  const path = join(dir, 'redis.conf')
  writeFileSync(path, `${lines.join('\n')}\n`, { mode: 0o600 })
  return path
}

/** One question over a bare socket, resolves to what came back within a second. */
function ask(port: number, question: string, isAnswered: (reply: string) => boolean) {
  return new Promise<string>((resolve) => {
    let reply = ''
    const socket = connect(port, '127.0.0.1', () => socket.write(question))
    socket.setTimeout(1_000, () => socket.destroy())
    socket.on('data', (chunk) => {
      reply += chunk
      if (isAnswered(reply)) socket.destroy()
    })
    socket.on('error', () => {}) // not listening yet: 'close' follows
    socket.on('close', () => resolve(reply))
  })
}

/** PING refuses while data is loading; process_id shows that it is ours and not another's port. */
async function isReady(port: number, pid: number, password?: string): Promise<boolean> {
  const auth = password ? `AUTH ${password}\r\n` : ''
  const reply = await ask(port, `${auth}INFO server\r\nPING\r\n`, (text) =>
    /\r\n(\+PONG|-.*)\r\n$|^-.*\r\n/.test(text),
  )
  return reply.includes(`process_id:${pid}\r\n`) && reply.endsWith('+PONG\r\n')
}

async function stop(
  child: ChildProcess,
  dir: string,
  durable: boolean,
  deadlineMs = 5_000,
): Promise<void> {
  if (child.exitCode === null && child.signalCode === null) {
    const gone = once(child, 'exit')
    child.kill(durable ? 'SIGTERM' : 'SIGKILL') // SIGTERM writes the file, and takes 100 ms
    const force = setTimeout(() => child.kill('SIGKILL'), deadlineMs)
    await gone
    clearTimeout(force)
  }
  forget(dir)
}

async function attempt(options: RedisOptions, dir: string, port: number): Promise<PrivateRedis> {
  const configuration = writeConfiguration(options, dir, port)
  const path = options.log ?? join(dir, 'redis.log')
  const log = openSync(path, 'a', 0o600)
  const child = spawn(redisServer(), [configuration, ...(options.extra ?? [])], {
    stdio: ['ignore', log, log],
    cwd: dir,
    detached: true, // Ctrl-C is for us: we stop it when its clients are gone
  })
  closeSync(log)
  let failure: Error | undefined
  child.once('error', (error) => {
    failure = error
  })
  leash(child, 'TERM', options.graceSeconds)
  if (child.pid) record(child.pid, dir)

  const until = performance.now() + loadingMs
  while (child.pid && child.exitCode === null && child.signalCode === null) {
    if (await isReady(port, child.pid, options.password)) {
      const urlOf = (user: string, password?: string) =>
        `redis://${password ? `${user}:${encodeURIComponent(password)}@` : ''}127.0.0.1:${port}`
      return {
        url: urlOf('default', options.password),
        urlOf: (user) => urlOf(user, options.users?.[user]),
        port,
        pid: child.pid,
        child,
        stop: (deadlineMs) => stop(child, dir, options.durable, deadlineMs),
      }
    }
    if (performance.now() > until) break
    await sleep(5)
  }
  await stop(child, dir, false)
  const tail = readFileSync(path, 'utf8').trimEnd().split('\n').slice(-5).join('\n')
  throw failure ?? new Error(`redis-server did not start on port ${port}:\n${tail}`)
}

/** A Redis of our own on 127.0.0.1; never one that was found on 6379. */
export async function startRedis(options: RedisOptions): Promise<PrivateRedis> {
  mkdirSync(options.dir, { recursive: true, mode: 0o700 })
  const dir = realpathSync(options.dir)
  await reclaim(dir, 'SIGTERM')
  for (let clashes = 0; ; clashes++) {
    try {
      return await attempt(options, dir, options.port ?? (await freePort()))
    } catch (error) {
      if (clashes === 4 || !/in use/i.test((error as Error).message)) throw error
      if (options.port) await sleep(250) // ours may still be letting go of it
    }
  }
}
