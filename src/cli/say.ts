import type { ProgressResult, SpinnerResult } from '@clack/prompts'
import type { Command } from 'commander'

/** A verb's answer: a sentence for people, one object for programs (--json). */
export function say(command: Command, text: string, object: Record<string, unknown>): void {
  console.log(command.optsWithGlobals().json ? JSON.stringify(object) : text)
}

/** Only a terminal is shown progress, and only then what draws it is loaded. */
const clack = process.stderr.isTTY ? await import('@clack/prompts') : undefined
const drawing = { output: process.stderr, withGuide: false }
let drawn: { clear(): void; message(line: string): void } | undefined
let advance: ((step: number, line: string) => void) | undefined
let reached = 0

/** How far it is: in words, and as a bar where the end is known; nothing where nobody watches. */
export function tell(line: string, of?: { done: number; total: number }): void {
  if (!clack) return
  if (!drawn) {
    const its: SpinnerResult | ProgressResult = of
      ? clack.progress({ ...drawing, max: Math.max(1, of.total) })
      : clack.spinner(drawing)
    its.start(line)
    drawn = its
    reached = 0
    advance = 'advance' in its ? (its as ProgressResult).advance : undefined
  }
  if (of && advance) advance(of.done - reached, line)
  else drawn?.message(line)
  reached = of?.done ?? 0
}

/** Takes away what `tell` has drawn: an answer follows. */
export function told(): void {
  drawn?.clear()
  drawn = undefined
}
