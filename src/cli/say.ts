import type { Command } from 'commander'

/** A verb's answer: a sentence for people, one object for programs (--json). */
export function say(command: Command, text: string, object: Record<string, unknown>): void {
  console.log(command.optsWithGlobals().json ? JSON.stringify(object) : text)
}
