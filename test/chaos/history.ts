import { closeSync, openSync, readFileSync, writeSync } from 'node:fs'
import type { Durability, FactKind } from '../../src/journal/entry.ts'

/** A named assign has a route and a script of its own, and makes the same facts as a random one. */
export type Verb = FactKind | 'assign_code'
export const kindOf = (verb: Verb): FactKind => (verb === 'assign_code' ? 'assign' : verb)

/** One attempt at a verb, written down before it is sent. Attempts of one `op` share its key. */
export type Asked = {
  is: 'asked'
  /** Its X-Request-Id: the ledger keeps it with each fact that the attempt made. */
  id: string
  op: number
  verb: Verb
  level: Durability
  key?: string
  book: string
  user: string
  /** Of every verb but a random assign. */
  code?: string
  /** The lock token that was presented. */
  token?: string
  redemption?: string
  /** How many coupons were asked for, or none at all; left out: one. */
  count?: number
  /** When it was sent: ms since 1970, as everything here. */
  at: number
}

/**
 * done, again: acknowledged, at the level `reached`; refused: a definite no; unsent: nobody heard it;
 * unknown: it may have happened.
 */
export type Outcome = 'done' | 'again' | 'refused' | 'unsent' | 'unknown'

export type Answered = {
  is: 'answered'
  id: string
  at: number
  /** How long it took from when it had a connection; missing where nothing came and nobody waits. */
  ms?: number
  outcome: Outcome
  status: number
  /** The problem's code, or what broke. */
  why?: string
  reached?: Durability
  /** shard, epoch, n and i of the first fact; missing where nothing was written. */
  fact?: [shard: number, epoch: number, n: number, i: number]
  codes: string[]
  /** Of a lock. */
  token?: string
  redemption?: string
  /** The URL that tells what became of it. */
  operation?: string
  /** When to come again, as the answer said. */
  retryAfterMs?: number
}

/** What `GET /operations/{id}` said of an attempt once everything was over. */
export type Told = {
  is: 'told'
  id: string
  /** durable, absent, pending; or the status and problem of what was no answer. */
  state: string
  /** Its facts, as shard/epoch-n/i. */
  facts: string[]
}

/** An attempt and what became of it; one whose answer is not in the file is unknown. */
export type Attempt = Asked & { answer: Answered; told?: Told }

/**
 * The client's diary: append-only, a line a thing, written before the client acts on it, so that a
 * client that dies has forgotten nothing it was told.
 */
export function openDiary(path: string) {
  const file = openSync(path, 'a')
  let lines: string[] = []
  return {
    note(line: Asked | Answered | Told): void {
      lines.push(JSON.stringify(line))
    },
    /** Everything noted is in the file now. */
    write(): void {
      if (lines.length === 0) return
      writeSync(file, `${lines.join('\n')}\n`)
      lines = []
    },
    close(): void {
      this.write()
      closeSync(file)
    },
  }
}

export function readDiary(path: string): Attempt[] {
  const attempts = new Map<string, Attempt>()
  for (const line of readFileSync(path, 'utf8').split('\n')) {
    if (line === '') continue
    const said: Asked | Answered | Told = JSON.parse(line)
    if (said.is === 'asked') attempts.set(said.id, { ...said, answer: silence(said) })
    else if (said.is === 'told') attempts.get(said.id)!.told = said
    else attempts.get(said.id)!.answer = said
  }
  return [...attempts.values()]
}

const silence = ({ id, at }: Asked): Answered => ({
  ...{ is: 'answered', id, at, status: 0, codes: [] },
  ...{ outcome: 'unknown', why: 'no answer in the diary' },
})
