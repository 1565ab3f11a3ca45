import { table } from './problem-table.ts'

export type ProblemCode = keyof typeof table
export type ProblemStatus<C extends ProblemCode = ProblemCode> = (typeof table)[C][0]
export const problemCodes = Object.keys(table) as ProblemCode[]

/** One field that is wrong: `path` as in `codes[3]`, and what is expected there. */
export type FieldError = { path: string; message: string }

/** Values that fill a detail, and that clients get as members of the problem document. */
export type ProblemValues = Readonly<Record<string, string | number | null>>

/** An expected "no", as a value that travels from the room that knows to the route that answers. */
export type Problem = {
  ok: false
  problem: ProblemCode
  values?: ProblemValues
  errors?: FieldError[]
  /** Seconds until another try makes sense: becomes Retry-After. */
  retryAfter?: number
  /** The script call that may have happened: the one after entry `n` of its shard and epoch. */
  call?: { shard: number; epoch: number; n: number; op: string; at: number }
}

export function problem(code: ProblemCode, values?: ProblemValues): Problem {
  return values ? { ok: false, problem: code, values } : { ok: false, problem: code }
}

/** What happened and what to do next, with the problem's values filled in. */
export function problemDetail({ problem: code, values = {} }: Problem): string {
  return table[code][2].replace(/\{(\w+)\}/g, (hole, name) => String(values[name] ?? hole))
}

/** The RFC 9457 document of a problem. `type` is a path of this service's own documentation. */
export function problemDocument(refusal: Problem, instance: string, requestId: string) {
  const [status, title] = table[refusal.problem]
  const values = refusal.values ?? {}
  return {
    type: `/docs/problems#${refusal.problem}`,
    title,
    status,
    detail: problemDetail(refusal),
    instance,
    code: refusal.problem,
    request_id: requestId,
    ...values,
    ...(refusal.errors ? { errors: refusal.errors } : {}),
  }
}

export function problemStatus(code: ProblemCode): ProblemStatus {
  return table[code][0]
}

export function problemTitle(code: ProblemCode): string {
  return table[code][1]
}
