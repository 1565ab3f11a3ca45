import { createInterface } from 'node:readline/promises'
import { Writable } from 'node:stream'

/** The first line of stdin; on a terminal it is asked for, twice, and not shown. */
export async function readPassword(): Promise<string> {
  if (!process.stdin.isTTY) return firstLine()
  const password = await ask('Password: ')
  if ((await ask('The same again: ')) !== password) throw new Error('The two are not the same.')
  return password
}

async function firstLine(): Promise<string> {
  let text = ''
  for await (const chunk of process.stdin.setEncoding('utf8')) {
    text += chunk
    if (text.includes('\n')) break
  }
  return text.split(/\r?\n/, 1)[0]!
}

async function ask(question: string): Promise<string> {
  process.stderr.write(question)
  // readline edits the line and would show it: it gets an output that shows nothing.
  const output = new Writable({ write: (_chunk, _encoding, done) => done() })
  const terminal = createInterface({ input: process.stdin, output, terminal: true })
  const interrupted = new Promise<never>((_, reject) => {
    terminal.on('SIGINT', () => reject(new Error('Interrupted.')))
    terminal.on('close', () => reject(new Error('No password was given.')))
  })
  try {
    return await Promise.race([terminal.question(''), interrupted])
  } finally {
    interrupted.catch(() => {}) // closing it is no refusal any more
    terminal.close()
    process.stderr.write('\n')
  }
}
