import fc from 'fast-check'
import { fitting, type Known, nasty, nastyText, type Resolve } from './arbitrary.ts'
import type { Operation } from './document.ts'
import { type File, filesOf, spoiltFiles } from './files.ts'

/** A request as it goes over the wire. */
export type Request = {
  path: string
  body?: string | Uint8Array<ArrayBuffer>
  headers: Record<string, string>
}
type Parts = {
  path: Record<string, unknown>
  query: Record<string, unknown>
  body: unknown
  file: File | undefined
}

const jsonType = { 'content-type': 'application/json' }
const encoded = (value: unknown) => encodeURIComponent(`${value}`.toWellFormed())

/** Requests for an operation: valid ones, ones at the edge of what is valid, and hostile ones. */
export function requestsFor(
  operation: Operation,
  resolve: Resolve,
  known: Known,
): Record<'valid' | 'edge' | 'hostile', fc.Arbitrary<Request>> {
  const partsOf = (edge: boolean): fc.Arbitrary<Parts> => {
    const of = (where: 'path' | 'query') => {
      const its = operation.parameters.filter((one) => one.in === where)
      const members = its.map(({ name, schema }) => [
        name,
        fitting(schema, resolve, (given) => known(given || name), edge),
      ])
      const requiredKeys = its.filter((one) => one.required).map(({ name }) => name)
      return fc.record(Object.fromEntries(members), { requiredKeys }) as fc.Arbitrary<
        Record<string, unknown>
      >
    }
    const body = operation.body
      ? fitting(operation.body, resolve, known, edge)
      : fc.constant(undefined)
    const file =
      operation.files.length > 0 ? filesOf(operation.files, edge) : fc.constant(undefined)
    return fc.record({ path: of('path'), query: of('query'), body, file })
  }
  const put = ({ path, query, body, file }: Parts): Request => {
    const filled = operation.path.replaceAll(
      /\{(\w+)\}/g,
      (_, name: string) => encoded(path[name]) || '-',
    )
    const asked = Object.entries(query).map(([name, value]) => `${name}=${encoded(value)}`)
    const where = asked.length > 0 ? `${filled}?${asked.join('&')}` : filled
    if (file) return { path: where, body: file.content, headers: { 'content-type': file.type } }
    return {
      path: where,
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      headers: body === undefined ? {} : { ...jsonType },
    }
  }
  const valid = partsOf(false)
  const bad = operation.files.length > 0 ? spoiltFiles(operation.files) : fc.constant(undefined)
  const drawn = fc.tuple(valid, nasty, nastyText, fc.nat(), bad)
  const spoilt = drawn.chain(([parts, value, text, at, file]) => {
    const request = put(parts)
    const inBody = (): Request => {
      const names = parts.body && typeof parts.body === 'object' ? Object.keys(parts.body) : []
      const name = names.length > 0 && at % 3 > 0 ? names[at % names.length]! : 'not_known_here'
      return put({ ...parts, body: { ...(parts.body as object), [name]: value } })
    }
    const inPath = (): Request => {
      const names = Object.keys(parts.path)
      return names.length === 0
        ? put({ ...parts, query: { ...parts.query, limit: text } })
        : put({ ...parts, path: { ...parts.path, [names[at % names.length]!]: text } })
    }
    const raw = (body: Request['body']): Request => ({ ...request, body, headers: { ...jsonType } })
    const headers = (more: Record<string, string>): Request => ({
      ...request,
      headers: { ...request.headers, ...more },
    })
    const bytes = Uint8Array.from([0x7b, 0x22, 0xff, 0xfe, 0x22, 0x3a, 0x31, 0x7d])
    const own: (() => Request)[] = [
      ...[inBody, inBody, inBody, inPath, inPath],
      () => put({ ...parts, body: value }),
      () => put({ ...parts, query: { ...parts.query, [`${at}`]: text, limit: text } }),
      () => raw('{"a":'),
      () => raw(bytes),
      () => raw(`{"a":${'['.repeat(3_000)}`),
      () => raw(JSON.stringify({ pad: 'x'.repeat(17_000) })),
      () => ({ ...request, headers: { 'content-type': 'text/plain' } }),
      () => headers({ 'idempotency-key': 'k'.repeat(300) }),
      () => headers({ durability: 'wishful' }),
      () => headers({ traceparent: '00-zz', 'x-request-id': 'y'.repeat(200) }),
      () => headers({ authorization: `Bearer ${'z'.repeat(at % 3_000)}` }),
      ...(file ? Array.from({ length: 10 }, () => () => put({ ...parts, file })) : []),
    ]
    // HTTP lets a GET have none.
    const noBody = operation.method === 'GET'
    return fc.constantFrom(...own).map((make) => {
      const made = make()
      return noBody ? { ...made, body: undefined, headers: made.headers } : made
    })
  }) as fc.Arbitrary<Request>
  return { valid: valid.map(put), edge: partsOf(true).map(put), hostile: spoilt }
}
