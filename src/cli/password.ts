import { isCancel, password } from '@clack/prompts'

/** The first line of stdin; on a terminal it is asked for, twice, and not shown. */
export async function readPassword(): Promise<string> {
  if (!process.stdin.isTTY) return firstLine()
  const first = await ask('Password')
  if ((await ask('The same again')) !== first) throw new Error('The two are not the same.')
  return first
}

async function firstLine(): Promise<string> {
  let text = ''
  for await (const chunk of process.stdin.setEncoding('utf8')) {
    text += chunk
    if (text.includes('\n')) break
  }
  return text.split(/\r?\n/, 1)[0]!
}

async function ask(message: string): Promise<string> {
  const given = await password({ message, output: process.stderr })
  if (isCancel(given)) throw new Error('No password was given.')
  return given
}
