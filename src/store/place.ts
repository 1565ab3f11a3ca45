import { Redis } from 'ioredis'
import { deadline } from '../deadline.ts'
import { scriptSha } from './lua.ts'

/** A command that takes longer is given up and its socket destroyed: a zombie must not write later. */
const deadlineMs = 1_000

/** The command was never written to a socket: it had no effect. */
export class NotSent extends Error {}
/** The command was written and its reply never came: it had its effect once, or not at all. */
export class ReplyLost extends Error {}
/** Redis answered with an error; the message is Redis' own. */
export class RedisRefused extends Error {}

/**
 * What this process believes of a shard. `seen` is the highest entry it was told of in `epoch`; it
 * goes into every call, so that a Redis that knows less refuses to decide.
 */
export type Gate = {
  shard: number
  open: boolean
  /** Shut to coupon verbs, but policies and codes may be brought: a worker does so before it opens. */
  pushable: boolean
  why: string
  epoch: number
  seen: number
  /** Since which epoch the op keys of all calls are in this Redis: what came before is asked no more. */
  calls: number
  /** Which life of Redis the gate was opened on: see lua/check.lua. */
  memory: string
  /** What this process saw with its own eyes that must not be in this epoch: only a new one clears it. */
  suspect: string | undefined
}

/** What a check has found of a shard that may serve. */
export type Opened = { epoch: number; n: number; calls: number; memory: string }

/**
 * Turns a shard into a connection: today one Redis for all. While a gate is shut nothing is sent
 * for its shard; src/recovery/gate.ts opens it after its check. A connection that closed shuts all.
 */
export class Place {
  readonly gates: Gate[]
  readonly redis: Redis
  /** Rises with every connection: what was learnt of an earlier one counts no more. */
  connection = 0
  #waiting: (() => void)[] = []

  /** The id of this installation, as PostgreSQL has it. */
  readonly installation: string

  constructor(url: string, shards: number, name: string, installation: string) {
    this.installation = installation
    this.gates = Array.from({ length: shards }, (_, shard) => ({
      shard,
      open: false,
      pushable: false,
      why: 'not connected to Redis yet',
      epoch: 0,
      seen: 0,
      calls: 0,
      memory: '',
      suspect: undefined,
    }))
    this.redis = new Redis(url, {
      connectionName: `stampede-${name}`,
      // With ioredis' defaults a lost reply sends the command a second time.
      maxRetriesPerRequest: 0,
      enableOfflineQueue: false,
      autoResendUnfulfilledCommands: false,
      retryStrategy: (attempt) => Math.min(20 * 2 ** attempt, 500),
      connectTimeout: 2_000,
      // For what has no deadline of its own: on a dead line even the first INFO would wait for ever.
      socketTimeout: 2_000,
      // Left to itself it would hold a process that ends for two seconds more.
      disconnectTimeout: 100,
      disableClientInfo: true,
      protocol: 2,
    })
    this.redis.on('connect', () => this.connection++)
    // The reason of a broken connection stands in the gates; without a listener it would be fatal.
    this.redis.on('error', (error) => this.shutAll(`Redis: ${error.message}`))
    this.redis.on('close', () => this.shutAll('the connection to Redis closed'))
  }

  get connected(): boolean {
    return this.redis.status === 'ready'
  }

  shut(shard: number, why: string): void {
    const gate = this.gates[shard]!
    gate.open = false
    gate.pushable = false
    gate.why = why
  }

  /**
   * A script would not decide. `meta` may only mean a new epoch, which the next check will tell; the
   * other reasons are damage, and stay until a recovery.
   */
  fenced(shard: number, reply: string): void {
    const [, what] = reply.split('\t')
    this.shut(shard, `Redis refused a call: fenced, ${what}`)
    if (what !== 'meta') this.damaged(shard, what!)
  }

  /** This process has seen with its own eyes that something is missing. */
  damaged(shard: number, what: string): void {
    this.shut(shard, `Redis has lost something: ${what}`)
    this.gates[shard]!.suspect = `damaged: ${what}`
  }

  shutAll(why: string): void {
    for (const gate of this.gates) if (gate.open || gate.pushable) this.shut(gate.shard, why)
  }

  /** Lets policies and codes of a shard be brought: `n` is its last entry in `epoch`, as just read. */
  admit(shard: number, { epoch, n, calls, memory }: Opened): void {
    const gate = this.gates[shard]!
    if (gate.epoch !== epoch) {
      gate.seen = 0
      gate.suspect = undefined
    }
    gate.epoch = epoch
    gate.seen = Math.max(gate.seen, n)
    gate.calls = calls
    gate.memory = memory
    gate.pushable = true
  }

  /** Lets a shard serve. */
  open(shard: number, found: Opened): void {
    this.admit(shard, found)
    const gate = this.gates[shard]!
    gate.open = true
    gate.why = ''
    const waiting = this.#waiting
    this.#waiting = []
    for (const wake of waiting) wake()
  }

  /** Remembers that entry `n` of `epoch` exists. */
  see(shard: number, epoch: number, n: number): void {
    const gate = this.gates[shard]!
    if (gate.epoch === epoch && n > gate.seen) gate.seen = n
  }

  /** Waits until the shard's gate is open, at most `ms`; says whether it is. */
  async opened(shard: number, ms: number): Promise<boolean> {
    const deadline = performance.now() + ms
    while (!this.gates[shard]!.open) {
      const left = deadline - performance.now()
      if (left <= 0) return false
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, left)
        this.#waiting.push(() => {
          clearTimeout(timer)
          resolve()
        })
      })
    }
    return true
  }

  /** EVALSHA of lua/<script>.lua. Throws NotSent, ReplyLost or RedisRefused. */
  async call(script: string, keys: string[], args: (string | number)[]): Promise<unknown> {
    if (!this.connected) throw new NotSent('not connected to Redis')
    const answered = deadline(deadlineMs, () => this.redis.stream?.destroy())
    try {
      return await this.redis.call('EVALSHA', [scriptSha(script), keys.length, ...keys, ...args])
    } catch (cause) {
      const { name, message } = cause as Error
      if (name === 'ReplyError') throw new RedisRefused(message)
      if (message.startsWith("Stream isn't writeable")) throw new NotSent(message)
      throw new ReplyLost(message)
    } finally {
      answered()
    }
  }

  close(): void {
    this.redis.disconnect()
  }
}
