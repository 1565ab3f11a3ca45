import { Agent, request } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Acknowledged } from './answers.ts'
import type { Client } from './client.ts'

/** Sent `perSecond`, whether or not earlier ones are answered: nothing queues behind a slow one. */
export type Plan = { books: string[]; perSecond: number; userOf: (request: number) => string }
export type Paced = {
  /** Of every request, in the order of the plan. */
  ms: Float64Array
  acknowledged: Map<string, Acknowledged[]>
  refused: Record<string, number>
}

/** Where a service stalls, more requests than this wait here, and their waiting counts as theirs. */
const socketsMax = 500

/** Assigns one code from each book of the plan, in its order and at its pace. */
export async function pace({ assignUrl, headers }: Client, plan: Plan): Promise<Paced> {
  const { books, perSecond, userOf } = plan
  const agent = new Agent({ keepAlive: true, maxSockets: socketsMax })
  const ms = new Float64Array(books.length)
  const acknowledged = new Map<string, Acknowledged[]>(books.map((book) => [book, []]))
  const refused: Record<string, number> = {}

  async function assign(i: number): Promise<void> {
    const book_id = books[i]!
    const user_id = userOf(i)
    const body = JSON.stringify({ book_id, user_id })
    const start = performance.now()
    const text = await post(assignUrl, { agent, headers }, body)
    ms[i] = performance.now() - start
    const answer = JSON.parse(text)
    const code: string | undefined = answer.coupons?.[0].code
    if (code) acknowledged.get(book_id)!.push({ code, user: user_id })
    else refused[answer.code] = (refused[answer.code] ?? 0) + 1
  }

  const all: Promise<void>[] = []
  for (const start = performance.now(); all.length < books.length; await sleep(1)) {
    const due = Math.ceil(((performance.now() - start) / 1000) * perSecond)
    while (all.length < Math.min(due, books.length)) all.push(assign(all.length))
  }
  await Promise.all(all)
  agent.destroy()
  return { ms, acknowledged, refused }
}

type Sending = { agent: Agent; headers: Record<string, string> }

function post(url: string, { agent, headers }: Sending, body: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const asked = request(url, {
      method: 'POST',
      agent,
      headers: { ...headers, 'content-length': Buffer.byteLength(body) },
    })
    asked.on('response', (response) => {
      let text = ''
      response.setEncoding('utf8')
      response.on('data', (part) => (text += part))
      response.on('end', () => resolve(text))
      response.on('error', reject)
    })
    asked.on('error', reject)
    asked.end(body)
  })
}
