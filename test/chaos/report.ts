import type { Result } from './sale.ts'

export function table(results: Result[]): string {
  return results.map((r) => `${r.row}: ${r.violations.length === 0 ? 'ok' : 'BROKEN'}`).join('\n')
}
export function report(_path: string, _results: Result[]): void {}
