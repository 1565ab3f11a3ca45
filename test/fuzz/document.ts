import { Ajv2020, type ValidateFunction } from 'ajv/dist/2020.js'
import type { Resolve, Schema } from './arbitrary.ts'

type Content = Record<string, { schema?: Schema }>
type Parameter = {
  in: 'path' | 'query' | 'header'
  name: string
  required?: boolean
  schema: Schema
}
type Described = {
  parameters?: Parameter[]
  requestBody?: { content: Content }
  responses: Record<string, { content?: Content }>
}
export type Document = {
  paths: Record<string, Record<string, Described>>
  components: { schemas: Record<string, Schema> }
}
export type Operation = {
  method: string
  path: string
  parameters: Parameter[]
  body: Schema | undefined
  /** Media types of a body that is a file. */
  files: string[]
  responses: Described['responses']
}

/** One JSON text, and not a line each. */
export const isJson = (type: string | null): boolean =>
  /^application\/(problem\+)?json/.test(type ?? '')

/** Every operation of an OpenAPI document. */
export function operationsOf(document: Document): Operation[] {
  return Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, { parameters = [], requestBody, responses }]) => ({
      ...{ method: method.toUpperCase(), path, parameters, responses },
      body: requestBody?.content['application/json']?.schema,
      files: Object.keys(requestBody?.content ?? {}).filter((type) => !isJson(type)),
    })),
  )
}

export const resolver =
  ({ components }: Document): Resolve =>
  (ref) =>
    components.schemas[ref.split('/').at(-1)!]!

/**
 * Holds answers against the document alone, as a client made from it would: the status stands there, the
 * type of the body is one of its types, and the body is what its schema says. Answers what is wrong.
 */
export function judgeOf(document: Document) {
  const ajv = new Ajv2020({ strict: false, validateFormats: false, allErrors: false })
  ajv.addSchema({ $id: 'document', ...document })
  const compiled = new Map<string, ValidateFunction>()
  const escaped = (part: string) =>
    encodeURIComponent(part.replaceAll('~', '~0').replaceAll('/', '~1'))

  return (
    { path, method, responses }: Operation,
    status: number,
    type: string | null,
    text: string,
  ): string | undefined => {
    const declared = responses[status]
    if (!declared) return `${status} is not declared`
    const [bare] = (type ?? '').split(';', 1) as [string]
    const content = declared.content
    if (!content || Object.keys(content).length === 0) return undefined
    if (!content[bare]) return `${status} comes as ${type}`
    if (!isJson(bare)) return undefined
    const pointer = [
      'paths',
      path,
      method.toLowerCase(),
      'responses',
      `${status}`,
      'content',
      bare,
      'schema',
    ]
    const $ref = `document#/${pointer.map(escaped).join('/')}`
    let fits = compiled.get($ref)
    if (!fits) {
      fits = ajv.compile({ $ref })
      compiled.set($ref, fits)
    }
    if (fits(JSON.parse(text))) return undefined
    const { instancePath, message } = fits.errors![0]!
    return `${status}: ${instancePath} ${message}`
  }
}
