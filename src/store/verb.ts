import type { Durability, EntryId } from '../journal/entry.ts'
import { type Problem, type ProblemCode, problem } from '../problems.ts'

/** The keys that every coupon verb gets, in the order of its header. */
export const commonKeys = [
  'meta',
  'journal',
  'op',
  'book',
  'coupons',
  'stock',
  'users',
  'redemptions',
  'uses',
  'answers tomorrow',
  'answers today',
  'answers yesterday',
] as const

/** The arguments that every coupon verb gets before its requests. */
export const commonArgs = ['epoch', 'seen', 'op', 'book', 'backlog'] as const

/** One word that a script may answer with when it did what was asked. */
export type Done<V> = {
  /** Names of the values, as the header lists them. A first `fact` is the index of the fact. */
  values: readonly string[]
  read: (values: string[]) => V
}

/** The TypeScript twin of a coupon verb's Lua file; test/tidy.test.ts holds the two together. */
export type Verb<A extends string, V> = {
  script: string
  args: readonly A[]
  /** The argument whose lock key each request brings along, if any. */
  guards?: A
  /** Refusals in order of precedence, with the names of their values. */
  refuses: Partial<Record<ProblemCode, readonly string[]>>
  done: Record<string, Done<V>>
}

export function verb<const A extends string, V>(definition: Verb<A, V>): Verb<A, V> {
  return definition
}

/** Where a fact stands in the journal, and in the ledger once it is flushed; `op`: by which call. */
export type FactId = EntryId & { shard: number; i: number; op: string }

/** What came of a request that was not refused. `fact` is missing where nothing was written. */
export type Outcome<V> = {
  ok: true
  value: V
  at: number
  fact: FactId | undefined
  /** The last entry there was when this was answered: what a refusal to change rests on. */
  entry: EntryId & { shard: number }
  replayed: boolean
  /** The book's own durability; undefined: the verb's default counts. */
  durability: Durability | undefined
  /** When the book's coupons expire; 0: never. */
  expiresAt: number
}

/** The first line of a reply. */
export type Head = {
  shard: number
  epoch: number
  op: string
  n: number
  at: number
  durability: Durability | undefined
  expiresAt: number
}

const times = new Set(['expiration_date', 'opens_at', 'closes_at', 'locked_until'])

/** Reads a script's line for one request: a done word, or the problem it names. */
export function readLine<V>(of: Verb<string, V>, line: string, head: Head): Outcome<V> | Problem {
  let [word, ...values] = line.split('\t') as [string, ...string[]]
  let { epoch, n, at, op } = head
  const replayed = word === 'again'
  if (replayed) {
    const [entry, then, by, first, ...rest] = values as [
      string,
      string,
      string,
      string,
      ...string[],
    ]
    const dash = entry.indexOf('-')
    epoch = Number(entry.slice(0, dash))
    n = Number(entry.slice(dash + 1))
    at = Number(then)
    op = by
    word = first
    values = rest
  }
  const done = of.done[word]
  if (!done) return readRefusal(of, word, values, head.at)
  const wrote = done.values[0] === 'fact'
  const fact = wrote ? { shard: head.shard, epoch, n, i: Number(values[0]), op } : undefined
  const value = done.read(wrote ? values.slice(1) : values)
  const { durability, expiresAt } = head
  const entry = { shard: head.shard, epoch: head.epoch, n: head.n }
  return { ok: true, value, at, fact, entry, replayed, durability, expiresAt }
}

/** What every verb may answer before its own reasons; their order is that of lua/include/begin.lua. */
export const commonRefusals: Record<string, Problem> = {
  'idempotency-key-reused': problem('idempotency-key-reused'),
  'intake-stopped': { ...problem('intake-stopped'), retryAfter: 5 },
  backlog: { ...problem('backlog'), retryAfter: 1 },
}

function readRefusal<V>(of: Verb<string, V>, word: string, values: string[], now: number): Problem {
  const common = commonRefusals[word]
  if (common) return common
  const names = of.refuses[word as ProblemCode]
  if (!names)
    throw new Error(`lua/${of.script}.lua answered "${word}", which its twin does not know`)
  if (names.length === 0) return problem(word as ProblemCode)
  const refusal = problem(
    word as ProblemCode,
    Object.fromEntries(
      names.map((name, i) => [
        name,
        times.has(name) ? new Date(Number(values[i])).toISOString() : Number(values[i]),
      ]),
    ),
  )
  if (names[0] === 'opens_at' || names[0] === 'locked_until')
    refusal.retryAfter = Math.max(1, Math.ceil((Number(values[0]) - now) / 1000))
  return refusal
}
