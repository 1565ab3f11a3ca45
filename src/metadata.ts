/** What may stand in a JSON object that a client keeps with something of its own. */
const depthMax = 8
const bytesMax = 4_096

/** What is wrong with it, or null. */
export function metadataFault(value: Record<string, unknown>): string | null {
  const fault = jsonFault(value, depthMax)
  if (fault !== null) return fault
  const isLarge = Buffer.byteLength(JSON.stringify(value)) > bytesMax
  return isLarge ? `must not be over ${bytesMax} bytes of JSON` : null
}

/** The depth is counted before anything recurses. */
function jsonFault(value: unknown, depth: number): string | null {
  if (typeof value === 'string') return textFault(value)
  if (typeof value === 'number') return Number.isFinite(value) ? null : 'holds a number too large'
  if (typeof value !== 'object' || value === null) return null
  if (depth === 0) return `must not be nested deeper than ${depthMax}`
  for (const [key, member] of Object.entries(value)) {
    if (key === '__proto__' || key === 'constructor') return `must not have a member \`${key}\``
    const fault = textFault(key) ?? jsonFault(member, depth - 1)
    if (fault !== null) return fault
  }
  return null
}

function textFault(text: string): string | null {
  if (text.includes('\0')) return 'must not contain U+0000'
  return text.isWellFormed() ? null : 'must not contain unpaired surrogates'
}
