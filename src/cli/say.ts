import type { Command } from 'commander'

/** A verb's answer: a sentence for people, one object for programs (--json). */
export function say(command: Command, text: string, object: Record<string, unknown>): void {
  console.log(command.optsWithGlobals().json ? JSON.stringify(object) : text)
}

/** How far it is: one line of a terminal that is written over; nothing where nobody watches. */
export function tell(line: string): void {
  if (process.stderr.isTTY) process.stderr.write(`\r\u001b[K${line}`)
}
