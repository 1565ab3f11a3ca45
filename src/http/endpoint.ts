import type { z } from '@hono/zod-openapi'
import type { BlankInput } from 'hono/types'
import type { StatusCode } from 'hono/utils/http-status'
import type { Simplify } from 'hono/utils/types'
import type { ProblemCode, ProblemStatus } from '../problems.ts'
import type { DocumentOf } from './problem-document.ts'
import type { Answers } from './route.ts'

/** A route as hono/client knows it, of the members of its declaration. Types alone. */
export type Endpoint<
  Path extends string,
  Method extends string,
  Input,
  A extends Answers,
  C extends ProblemCode,
> = {
  [P in Path as HonoPath<P>]: {
    [M in Method as `$${M}`]: Done<Input, A> | Refused<Input, C>
  }
}

/** /coupons/lock/{code} -> /coupons/lock/:code */
type HonoPath<P extends string> = P extends `${infer Head}{${infer Name}}${infer Rest}`
  ? `${Head}:${Name}${HonoPath<Rest>}`
  : P

/** What a client sends. A query or body of which nothing is required may be left out. */
export type Asked<P, Q, B, O extends boolean> = Simplify<
  Part<'param', P, false> & Part<'query', Q, MayBeEmpty<Q>> & Part<'json', B, O>
>
type Part<K extends string, T, Optional extends boolean> = T extends z.ZodType
  ? Optional extends true
    ? { [_ in K]?: z.input<T> }
    : { [_ in K]: z.input<T> }
  : BlankInput
type MayBeEmpty<T> = T extends z.ZodType ? (BlankInput extends z.input<T> ? true : false) : false

/** What is answered, by its status. Answers are sent as handlers made them: as a schema's input. */
type Done<Input, A extends Answers> = {
  [S in keyof A & StatusCode]: A[S] extends z.ZodType
    ? { input: Input; output: z.input<A[S]>; outputFormat: 'json'; status: S }
    : { input: Input; output: null; outputFormat: 'body'; status: S }
}[keyof A & StatusCode]

/** One for all statuses: the document's `code` says more than they do. */
type Refused<Input, C extends ProblemCode> = {
  input: Input
  output: DocumentOf<C>
  outputFormat: 'json'
  status: ProblemStatus<C>
}
