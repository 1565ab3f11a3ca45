/** A promise of the service and what came out. One that was missed is said, and fails nothing. */
export type Target = { what: string; measured: number; wanted: string; met: boolean }

export function target(
  what: string,
  measured: number,
  is: 'at least' | 'at most',
  limit: number,
): Target {
  const met = is === 'at least' ? measured >= limit : measured <= limit
  return { what, measured, wanted: `${is} ${limit}`, met }
}

export function median(values: number[]): number {
  const sorted = values.toSorted((a, b) => a - b)
  const middle = (sorted.length - 1) / 2
  return (sorted[Math.floor(middle)]! + sorted[Math.ceil(middle)]!) / 2
}
