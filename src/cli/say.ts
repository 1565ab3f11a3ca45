import type { ProgressResult, SpinnerResult } from '@clack/prompts'
import type { Command } from 'commander'

/** A verb's answer: a sentence for people, one object for programs (--json). */
export function say(command: Command, text: string, object: Record<string, unknown>): void {
  told()
  console.log(command.optsWithGlobals().json ? JSON.stringify(object) : text)
}

/** Only a terminal is shown progress, and only then what draws it is loaded. */
const clack = process.stderr.isTTY ? await import('@clack/prompts') : undefined
/** As a shell has it of a command that was ended by Ctrl-C: nobody may take it for done. */
const aborted = 130
/** clack takes signals for itself, and ends what is drawn alone. */
const drawing = {
  output: process.stderr,
  withGuide: false,
  onCancel: () => process.exit(aborted),
}
let drawn: { clear(): void; message(line: string): void } | undefined
let advance: ((step: number, line: string) => void) | undefined
let reached = 0

// Of a terminal's Ctrl-C clack makes an exit with 0; whoever is done has taken away what was drawn.
if (clack)
  process.once('exit', (code) => {
    if (drawn && code === 0) process.exitCode = aborted
  })

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

/** A line that stays, for whoever watches. */
export function note(line: string): void {
  if (clack) process.stderr.write(`${line}\n`)
}

/** Takes away what `tell` has drawn: an answer follows. */
export function told(): void {
  drawn?.clear()
  drawn = undefined
}
