import type { OpenAPIHono } from '@hono/zod-openapi'
import { z } from 'zod'
import type { Env } from '../src/http/context.ts'

/** What a route's declaration says about its answers, as the OpenAPI document is made of it. */
export type Declared = {
  method: string
  path: string
  pattern: RegExp
  answers: Map<number, z.ZodType | null>
  problems: Map<number, string[]>
}

type Content = Record<string, { schema?: unknown }> | undefined
type ProblemSchema = { allOf: [unknown, { properties: { code: { enum: string[] } } }] }

/** Every declared route, the ones without parameters first, as the router would choose. */
export function declaredRoutes(app: OpenAPIHono<Env>): Declared[] {
  const routes: Declared[] = []
  for (const definition of app.openAPIRegistry.definitions) {
    if (definition.type !== 'route') continue
    const { method, path, responses } = definition.route
    const declared: Declared = {
      method: method.toUpperCase(),
      path,
      pattern: new RegExp(`^${path.replaceAll(/\{.+?\}/g, '[^/]+')}/?$`),
      answers: new Map(),
      problems: new Map(),
    }
    for (const [status, response] of Object.entries(responses)) {
      const content = (response as { content?: Content }).content
      const refused = content?.['application/problem+json']?.schema as ProblemSchema | undefined
      if (refused) declared.problems.set(Number(status), refused.allOf[1].properties.code.enum)
      const schema = content?.['application/json']?.schema as z.ZodType | undefined
      if (schema || !refused) declared.answers.set(Number(status), schema ?? null)
    }
    routes.push(declared)
  }
  return routes.sort((a, b) => Number(a.path.includes('{')) - Number(b.path.includes('{')))
}

/**
 * Throws unless the answer is one that its route has declared: a problem with a declared code, or a
 * body that the schema of its status takes whole, without a member that it does not name.
 */
export function checkContract(
  routes: Declared[],
  method: string,
  path: string,
  answer: { status: number; type: string | null; body: unknown },
): void {
  const route = routes.find((one) => one.method === method && one.pattern.test(path))
  if (route === undefined) return
  const name = `${route.method} ${route.path} ${answer.status}`
  if (answer.type === 'application/problem+json') {
    const { code } = answer.body as { code: string }
    if (!route.problems.get(answer.status)?.includes(code))
      throw new Error(`${name} answers ${code}, which it does not declare`)
    return
  }
  const schema = route.answers.get(answer.status)
  if (schema === undefined) throw new Error(`${name} is not declared`)
  if (schema === null) return
  const parsed = schema.safeParse(answer.body)
  if (!parsed.success)
    throw new Error(`${name} breaks its schema: ${z.prettifyError(parsed.error)}`)
  const kept = JSON.stringify(sorted(parsed.data))
  const sent = JSON.stringify(sorted(answer.body))
  if (kept !== sent) throw new Error(`${name} has members that its schema does not name: ${sent}`)
}

function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted)
  if (typeof value !== 'object' || value === null) return value
  const entries = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1))
  return Object.fromEntries(entries.map(([key, member]) => [key, sorted(member)]))
}
