import { afterAll, beforeAll, expect, test } from 'vitest'
import { problemCodes, problemStatus } from '../src/problems.ts'
import { type House, openHouse } from './house.ts'

type Json = Record<string, unknown>
type Operation = {
  operationId: string
  summary: string
  tags: string[]
  security: Json[]
  parameters?: { name: string; in: string; required?: boolean; schema: Json }[]
  requestBody?: { required?: boolean; content: Record<string, { schema: Json }> }
  responses: Record<string, { description: string; content?: Record<string, { schema: Json }> }>
}
type Document = {
  openapi: string
  info: Json
  paths: Record<string, Record<string, Operation>>
  components: { schemas: Record<string, Json>; securitySchemes: Json }
}

let house: House
let document: Document
const operations: { name: string; method: string; path: string; operation: Operation }[] = []

beforeAll(async () => {
  house = await openHouse()
  const { status, body } = await house.call('GET', '/openapi.json')
  expect(status).toBe(200)
  document = body
  for (const [path, methods] of Object.entries(document.paths))
    for (const [method, operation] of Object.entries(methods))
      operations.push({ name: `${method.toUpperCase()} ${path}`, method, path, operation })
})
afterAll(() => house.close())

/** What no route declares, because it happens where there is none. */
const everywhere = ['route-not-found', 'method-not-allowed']
/** Pages for people and the document itself. */
const isPage = (path: string) =>
  path.startsWith('/docs') || ['/', '/redoc', '/openapi.json'].includes(path)
const problemsOf = (operation: Operation) =>
  Object.entries(operation.responses).flatMap(([status, { content }]) => {
    const schema = content?.['application/problem+json']?.schema as
      | { allOf: [Json, { properties: { code: { enum: string[] } } }] }
      | undefined
    return (schema?.allOf[1].properties.code.enum ?? []).map((code) => ({ status, code }))
  })

test('openapi  is a 3.1 document whose references all lead somewhere', () => {
  expect(document.openapi).toBe('3.1.0')
  expect(document.info).toMatchObject({ title: 'Stampede', version: expect.any(String) })
  const references = [...JSON.stringify(document).matchAll(/"\$ref":"([^"]+)"/g)].map(
    ([, to]) => to!,
  )
  expect(references.length).toBeGreaterThan(10)
  for (const reference of new Set(references)) {
    const [hash, ...steps] = reference.split('/')
    expect(hash).toBe('#')
    const found = steps.reduce<unknown>((at, step) => (at as Json)?.[step], document)
    expect(found, reference).toBeTypeOf('object')
  }
})

test('openapi  documents every route that the app has, and no other', () => {
  const served = house.app.routes
    .filter(({ path }) => !isPage(path))
    .map(({ method, path }) => `${method} ${path.replaceAll(/\/:(\w+)/g, '/{$1}')}`)
  expect(operations.map(({ name }) => name).sort()).toEqual(served.sort())
})

test('openapi  gives each route a name of its own, a summary, a tag and its answers', () => {
  const ids = operations.map(({ operation }) => operation.operationId)
  expect(new Set(ids).size).toBe(ids.length)
  for (const { name, operation } of operations) {
    expect(operation.operationId, name).toMatch(/^[a-z][A-Za-z]+$/)
    expect(operation.summary, name).toMatch(/^.{10,120}$/)
    expect(operation.tags, name).toHaveLength(1)
    const good = Object.keys(operation.responses).filter((status) => status.startsWith('2'))
    expect(good.length, name).toBeGreaterThan(0)
    for (const { description } of Object.values(operation.responses))
      expect(description.length, name).toBeGreaterThan(0)
  }
})

test('openapi  declares each parameter of a path, and no other', () => {
  for (const { name, path, operation } of operations) {
    const named = [...path.matchAll(/\{(\w+)\}/g)].map(([, parameter]) => parameter)
    const declared = (operation.parameters ?? []).filter((parameter) => parameter.in === 'path')
    expect(declared.map((parameter) => parameter.name).sort(), name).toEqual(named.sort())
    for (const parameter of declared) expect(parameter.required, name).toBe(true)
    for (const parameter of operation.parameters ?? [])
      expect(Object.keys(parameter.schema).length, `${name} ${parameter.name}`).toBeGreaterThan(0)
  }
})

test('openapi  lists each problem under the status that the catalogue gives it', () => {
  for (const { name, operation } of operations)
    for (const { status, code } of problemsOf(operation)) {
      expect(problemCodes, name).toContain(code)
      expect(`${code} ${status}`, name).toBe(`${code} ${problemStatus(code as never)}`)
    }
})

test('openapi  knows a route for every problem of the catalogue', () => {
  const declared = new Set(
    operations.flatMap(({ operation }) => problemsOf(operation).map((p) => p.code)),
  )
  const never = problemCodes.filter((code) => !declared.has(code) && !everywhere.includes(code))
  expect(never).toEqual([])
  const problem = document.components.schemas.Problem as {
    properties: { code: { enum: string[] } }
  }
  expect(problem.properties.code.enum).toEqual(problemCodes)
})

test('openapi  says of each request body what it takes, and that it takes nothing else', () => {
  for (const { name, operation } of operations) {
    if (!operation.requestBody) continue
    // A file is no JSON: test/import.test.ts says what it takes.
    if (!operation.requestBody.content['application/json']) continue
    const { schema } = operation.requestBody.content['application/json']!
    // A body may be one of several, each of them closed.
    type Form = typeof schema
    const named = ({ $ref, ...form }: Form): Form =>
      typeof $ref === 'string' ? document.components.schemas[$ref.split('/').at(-1)!]! : form
    const whole = named(schema)
    for (const form of (whole.anyOf ?? [whole]) as Form[]) {
      const its = named(form)
      expect(its.additionalProperties ?? JSON.stringify(its), name).toBe(false)
    }
  }
})

test('openapi  asks for a token wherever the API does', async () => {
  expect(document.components.securitySchemes).toHaveProperty('bearer')
  for (const { name, method, path, operation } of operations) {
    const url = path.replaceAll(/\{.+?\}/g, '00000000-0000-4000-8000-000000000000')
    const { status } = await house.call(method.toUpperCase(), url)
    expect(`${name} ${status === 401}`).toBe(`${name} ${operation.security.length > 0}`)
  }
})
