import fc from 'fast-check'

/** What of JSON Schema our OpenAPI document is made of. */
export type Schema = {
  type?: string | string[]
  $ref?: string
  anyOf?: Schema[]
  oneOf?: Schema[]
  allOf?: Schema[]
  enum?: unknown[]
  const?: unknown
  properties?: Record<string, Schema>
  required?: string[]
  additionalProperties?: boolean | Schema
  items?: Schema
  minItems?: number
  maxItems?: number
  minLength?: number
  maxLength?: number
  minimum?: number
  maximum?: number
  pattern?: string
  format?: string
}
export type Resolve = (ref: string) => Schema
/** Values that stand for a member of this name, such as the id of a book that there is. */
export type Known = (name: string) => fc.Arbitrary<unknown> | undefined

/** More than this nobody makes of anything: a document may allow a million codes in one request. */
const plenty = 300
const asciiMax = 0x7e

/** Bodies and parameters that a schema allows; `edge`: as small and as large as it allows them. */
export function fitting(schema: Schema, resolve: Resolve, known: Known, edge = false) {
  const of = (one: Schema, name = ''): fc.Arbitrary<unknown> => {
    const its = known(name)
    const own = plain(one, name)
    return its ? fc.oneof({ arbitrary: its, weight: 3 }, { arbitrary: own, weight: 1 }) : own
  }
  const plain = (one: Schema, name: string): fc.Arbitrary<unknown> => {
    if (one.$ref) return plain(resolve(one.$ref), name)
    const choice = one.anyOf ?? one.oneOf
    if (choice) return fc.oneof(...choice.map((each) => of(each, name)))
    if (one.allOf) return of(one.allOf[0]!, name)
    if (one.enum) return fc.constantFrom(...one.enum)
    if (one.const !== undefined) return fc.constant(one.const)
    const types = [one.type ?? 'object'].flat()
    return fc.oneof(...types.map((type) => typed(one, type)))
  }
  const typed = (one: Schema, type: string): fc.Arbitrary<unknown> => {
    if (type === 'null') return fc.constant(null)
    if (type === 'boolean') return fc.boolean()
    if (type === 'integer' || type === 'number') return whole(one)
    if (type === 'string') return text(one)
    if (type === 'array') {
      const [min, max] = [one.minItems ?? 0, Math.min(one.maxItems ?? 5, 20)]
      const item = of(one.items ?? {})
      return edge
        ? fc.oneof(
            fc.array(item, { minLength: min, maxLength: min }),
            fc.array(item, { minLength: max, maxLength: max }),
          )
        : fc.uniqueArray(item, {
            minLength: min,
            maxLength: Math.max(min, Math.min(max, 4)),
            comparator: 'SameValue',
          })
    }
    const { properties = {}, required = [] } = one
    const members = Object.fromEntries(
      Object.entries(properties).map(([name, its]) => [name, of(its, name)]),
    )
    const free = one.additionalProperties && !one.properties
    return free
      ? fc.dictionary(fc.string({ maxLength: 8 }), fc.json().map(read), { maxKeys: 4 })
      : fc.record(members, { requiredKeys: required as never[] })
  }
  const whole = ({ minimum = 0, maximum = plenty }: Schema) => {
    const most = Math.min(maximum, Math.max(minimum, plenty))
    return edge ? fc.constantFrom(minimum, most) : fc.integer({ min: minimum, max: most })
  }
  const text = (one: Schema): fc.Arbitrary<string> => {
    if (one.format === 'email') return fc.emailAddress()
    if (one.format === 'uuid') return fc.uuid()
    if (one.format === 'date-time')
      return fc
        .date({ min: new Date(0), max: new Date(4e12), noInvalidDate: true })
        .map((at) => at.toISOString())
    if (one.pattern) return matching(one.pattern)
    const min = one.minLength ?? 0
    const max = Math.min(one.maxLength ?? 40, 400)
    const size = edge
      ? fc.constantFrom(min, max)
      : fc.integer({ min, max: Math.min(max, min + 20) })
    return size.chain((length) =>
      fc.string({ minLength: length, maxLength: length, unit: edge ? 'grapheme' : letter }),
    )
  }
  return of(schema)
}

const letter = fc.integer({ min: 0x21, max: asciiMax }).map((point) => String.fromCharCode(point))
const read = (json: string): unknown => JSON.parse(json)

/** What looks ahead cannot be drawn from: drawn without, and held against the whole. */
function matching(pattern: string): fc.Arbitrary<string> {
  const whole = new RegExp(pattern)
  return fc
    .stringMatching(new RegExp(pattern.replaceAll(/\(\?!.*?\)/g, '')))
    .filter((drawn) => whole.test(drawn))
}

/** Text that has broken somebody's software before. */
export const nastyText = fc.constantFrom(
  ...[
    '',
    ' ',
    '\0',
    'a\0b',
    '\ud800',
    '\uffff',
    '\u202e',
    'é'.repeat(200),
    'x'.repeat(5_000),
    '%00',
    '%ff',
    '..',
    '../..',
  ],
  ...[
    "'; DROP TABLE codes; --",
    '#{7*7}',
    '{{7*7}}',
    '<script>alert(1)</script>',
    '$(id)',
    '\r\nX-Evil: 1',
    '\t',
    'null',
  ],
  ...[
    'NaN',
    '-1',
    '1e999',
    '0x10',
    '१२',
    '9007199254740993',
    'redis.call("FLUSHALL")',
    '{s0}:meta',
    '*',
    '__proto__',
  ],
)
const deep = Array.from({ length: 2_000 }).reduce<unknown>((inner) => [inner], 1)
export const nasty: fc.Arbitrary<unknown> = fc.oneof(
  nastyText,
  fc.constantFrom<unknown>(
    null,
    true,
    -1,
    0,
    1.5,
    1e308,
    -1e308,
    Number.MAX_SAFE_INTEGER,
    [],
    {},
    [[]],
    [null],
    deep,
  ),
  fc.constantFrom<unknown>(
    { __proto__: null, constructor: { prototype: { admin: true } } },
    { length: -1 },
    { toString: 1 },
  ),
  fc.json({ maxDepth: 3 }).map(read),
)
