import { randomUUID } from 'node:crypto'
import { calls } from '../channels.ts'
import { failpoint } from '../failpoint.ts'
import { type Problem, problem } from '../problems.ts'
import { neverWord, settle } from './forbid.ts'
import { keys } from './keys.ts'
import { NotSent, type Place, RedisRefused, ReplyLost } from './place.ts'
import { type Head, type Outcome, readLine, type Verb } from './verb.ts'

/** Facts of one script call at most: bounds how long Redis is busy, and Lua's argument stack. */
const factsMax = 400
/** Calls of one verb and book under way at once; more would only make batches smaller. */
const inFlightMax = 4
/** How long a batch whose reply was lost waits for the gate before it is called unknown. */
const retryWaitMs = 2_000
/** The op key is there for 2 minutes. A process that slept longer must not ask again: it would do. */
const retryWithinMs = 30_000
const dayMs = 86_400_000

/** One answer for a whole call that decided nothing. */
const wholeCall: Record<string, Problem> = {
  // Somebody asked what had become of it before it came, and was told that it would not happen.
  [neverWord]: problem('not-durable'),
}
const notReady: Problem = { ...problem('not-ready'), retryAfter: 1 }

type Waiting<A extends string, V> = {
  request: Record<A, string>
  weight: number
  resolve: (answer: Outcome<V> | Problem) => void
  reject: (error: unknown) => void
}

export type Limits = { backlog: number }
/** Called when a call wrote to a journal that was level: somebody must start to flush. */
export type OnWrite = (shard: number) => void

/**
 * Requests of one verb for one book: those that arrive in the same tick go in one EVALSHA, each
 * gets its own answer. While `inFlightMax` calls are under way the next batch gathers.
 */
export class Batch<A extends string, V> {
  #waiting: Waiting<A, V>[] = []
  #inFlight = 0
  #scheduled = false
  readonly #place: Place
  readonly #verb: Verb<A, V>
  readonly #shard: number
  readonly #book: string
  readonly #limits: Limits
  readonly #onWrite: OnWrite
  readonly #fixedKeys: { before: string[]; after: string[] }

  constructor(
    place: Place,
    verb: Verb<A, V>,
    shard: number,
    book: string,
    limits: Limits,
    onWrite: OnWrite,
  ) {
    this.#place = place
    this.#verb = verb
    this.#shard = shard
    this.#book = book
    this.#limits = limits
    this.#onWrite = onWrite
    this.#fixedKeys = {
      before: [keys.meta(shard), keys.journal(shard)],
      after: [
        keys.book(shard, book),
        keys.coupons(shard),
        keys.stock(shard, book),
        keys.users(shard, book),
        keys.redemptions(shard),
        keys.uses(shard, book),
      ],
    }
  }

  /** Hands in one request of `weight` facts; answers when Redis has decided it. */
  ask(request: Record<A, string>, weight = 1): Promise<Outcome<V> | Problem> {
    if (!this.#place.gates[this.#shard]!.open) return Promise.resolve(notReady)
    return new Promise((resolve, reject) => {
      this.#waiting.push({ request, weight, resolve, reject })
      this.#schedule()
    })
  }

  #schedule(): void {
    if (this.#scheduled || this.#inFlight >= inFlightMax) return
    this.#scheduled = true
    setImmediate(() => {
      this.#scheduled = false
      while (this.#waiting.length > 0 && this.#inFlight < inFlightMax) void this.#run(this.#take())
    })
  }

  #take(): Waiting<A, V>[] {
    let facts = 0
    let count = 0
    for (const { weight } of this.#waiting) {
      if (count > 0 && facts + weight > factsMax) break
      facts += weight
      count++
    }
    if (count === this.#waiting.length) {
      const all = this.#waiting
      this.#waiting = []
      return all
    }
    return this.#waiting.splice(0, count)
  }

  async #run(batch: Waiting<A, V>[]): Promise<void> {
    this.#inFlight++
    try {
      const op = randomUUID()
      const { epoch } = this.#place.gates[this.#shard]!
      const reply = await this.#call(batch, op, epoch)
      if (typeof reply !== 'string') for (const { resolve } of batch) resolve(reply)
      else this.#answer(batch, op, reply)
    } catch (error) {
      for (const { reject } of batch) reject(error)
    } finally {
      this.#inFlight--
      if (this.#waiting.length > 0) this.#schedule()
    }
  }

  /**
   * The script's reply, or the one problem of the whole call. A lost reply is asked for once more
   * under the same op id: the script answers again what it answered, or does it for the first time.
   * A refusal is not believed before the first copy can do no more harm.
   */
  async #call(batch: Waiting<A, V>[], op: string, epoch: number): Promise<string | Problem> {
    const gate = this.#place.gates[this.#shard]!
    const call = { shard: this.#shard, epoch, n: gate.seen, op, at: Date.now() }
    const unknownOutcome: Problem = { ...problem('outcome-unknown'), retryAfter: 1, call }
    for (let lost = false; ; ) {
      if (!gate.open) return lost ? unknownOutcome : notReady
      try {
        const [keyList, args] = this.#arguments(batch, op)
        failpoint('batch.before-call')
        const ask = () => this.#place.call(this.#verb.script, keyList, args)
        const reply = (await calls.runStores(batch, ask)) as string
        failpoint('batch.after-call')
        if (!reply.startsWith('fenced')) {
          const kept = lost ? await settle(this.#place, this.#shard, op) : null
          return kept === undefined ? unknownOutcome : (wholeCall[kept ?? reply] ?? kept ?? reply)
        }
        this.#place.fenced(this.#shard, reply)
        return lost ? unknownOutcome : notReady
      } catch (error) {
        if (error instanceof RedisRefused) this.#place.shut(this.#shard, error.message)
        if (!(error instanceof ReplyLost)) {
          if (!(error instanceof NotSent || error instanceof RedisRefused)) throw error
          return lost ? unknownOutcome : notReady
        }
        // Whoever has yet to be sent need not wait until this one knows.
        this.#refuseWaiting()
        if (lost) return unknownOutcome
        lost = true
        await this.#place.opened(this.#shard, retryWaitMs)
        failpoint('batch.before-again')
        // A recovery that had to make Redis anew has made no op keys: the call would be done once more.
        if (gate.calls > epoch || Date.now() - call.at > retryWithinMs) return unknownOutcome
      }
    }
  }

  #refuseWaiting(): void {
    const all = this.#waiting
    this.#waiting = []
    for (const { resolve } of all) resolve(notReady)
  }

  #arguments(batch: Waiting<A, V>[], op: string): [string[], string[]] {
    const shard = this.#shard
    const gate = this.#place.gates[shard]!
    const day = Math.floor(Date.now() / dayMs)
    const keyList = [
      ...this.#fixedKeys.before,
      keys.op(shard, op),
      ...this.#fixedKeys.after,
      keys.answers(shard, day + 1),
      keys.answers(shard, day),
      keys.answers(shard, day - 1),
    ]
    const args = [
      String(gate.epoch),
      String(gate.seen),
      op,
      this.#book,
      String(this.#limits.backlog),
    ]
    const { args: names, guards } = this.#verb
    for (const { request } of batch) {
      for (const name of names) args.push(request[name])
      if (guards) keyList.push(keys.lock(shard, request[guards]))
    }
    return [keyList, args]
  }

  #answer(batch: Waiting<A, V>[], op: string, reply: string): void {
    const lines = reply.split('\n')
    const [word, level, id = '', at, durability, expiresAt] = lines[0]!.split('\t')
    const dash = id.indexOf('-')
    if (word !== 'done' || lines.length !== batch.length + 1)
      throw new Error(`lua/${this.#verb.script}.lua answered what its twin cannot read`)
    const head: Head = {
      shard: this.#shard,
      // Of another epoch than now, where the first copy was answered before Redis was restarted.
      epoch: Number(id.slice(0, dash)),
      op,
      n: Number(id.slice(dash + 1)),
      at: Number(at),
      durability: (durability || undefined) as Head['durability'],
      expiresAt: Number(expiresAt || 0),
    }
    this.#place.see(head.shard, head.epoch, head.n)
    let wrote = false
    for (let r = 0; r < batch.length; r++) {
      const answer = readLine(this.#verb, lines[r + 1]!, head)
      if (answer.ok && answer.fact && !answer.replayed) wrote = true
      batch[r]!.resolve(answer)
    }
    if (wrote && level === '1') this.#onWrite(this.#shard)
  }
}
