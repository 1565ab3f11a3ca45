import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { createUser } from '../src/ledger/accounts.ts'
import { openDatabase } from '../src/ledger/database.ts'
import type { Installation } from './installation.ts'

// biome-ignore lint/suspicious/noExplicitAny: answers are looked into where they are used
type Answer = any
const pollMs = 50
/** Far more than the slowest generation may take. */
const jobMs = 300_000

export type Book = { id: string; total: number; generateSeconds: number }
export type Client = Awaited<ReturnType<typeof openClient>>

/** Speaks HTTP as a service with an API key would. */
export async function openClient({ http, postgres }: Pick<Installation, 'http' | 'postgres'>) {
  const v1 = `${http}/api/v1`

  async function ask(method: string, path: string, bearer: string | undefined, body?: object) {
    const response = await fetch(`${v1}/${path}`, {
      method,
      headers: {
        ...(bearer ? { authorization: `Bearer ${bearer}` } : {}),
        ...(body ? { 'content-type': 'application/json' } : {}),
      },
      body: body ? JSON.stringify(body) : undefined,
    })
    const text = await response.text()
    if (!response.ok) throw new Error(`${method} ${path} answered ${response.status}: ${text}`)
    return text
  }
  const key = await makeKey(postgres, async (path, body, bearer) =>
    JSON.parse(await ask('POST', path, bearer, body)),
  )
  const call = async (method: string, path: string, body?: object): Promise<Answer> =>
    JSON.parse(await ask(method, path, key, body))

  async function generate(id: string, count: number): Promise<void> {
    const { job_id } = await call('POST', `books/${id}/codes/generate`, { count })
    for (const until = performance.now() + jobMs; job_id; await sleep(pollMs)) {
      const { state, error } = await call('GET', `jobs/${job_id}`)
      if (state === 'done') return
      if (state === 'failed' || state === 'cancelled' || performance.now() > until)
        throw new Error(`the job that generates ${count} codes is ${state}: ${error}`)
    }
  }

  async function open(path: string, init: RequestInit = {}): Promise<Response> {
    const headers = { authorization: `Bearer ${key}` }
    const response = await fetch(`${v1}/${path}`, { headers, ...init })
    if (!response.ok)
      throw new Error(`${path} answered ${response.status}: ${await response.text()}`)
    return response
  }

  return {
    call,
    /** An answer that is read while it comes. */
    fetch: (path: string) => open(path),
    /** Sends a file that is made on the way. */
    send: async (path: string, body: ReadableStream<Uint8Array>): Promise<Answer> =>
      (await open(path, { method: 'POST', body, duplex: 'half' } as RequestInit)).json(),
    assignUrl: `${v1}/coupons/assign`,
    /** What every request of a load carries. */
    headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
    /** The text of an answer to assign, as it comes over the wire. */
    assign: (book_id: string, user_id: string) =>
      ask('POST', 'coupons/assign', key, { book_id, user_id }),

    /** A book of which every user may have one of `count` generated codes. */
    async makeBook(name: string, count: number): Promise<Book> {
      const made = await call('POST', 'books', { name, max_assignments_per_user: 1 })
      const id: string = made.book_id
      const start = performance.now()
      await generate(id, count)
      return { id, total: count, generateSeconds: (performance.now() - start) / 1000 }
    },
  }
}

type Post = (path: string, body: object, bearer?: string) => Promise<Answer>

/** The first administrator has to be put into PostgreSQL; from then on it is all HTTP. */
async function makeKey(postgres: string, post: Post): Promise<string> {
  const login = { email: 'bench@example.com', password: randomBytes(16).toString('hex') }
  const database = openDatabase(postgres, 1, 'bench')
  try {
    const made = await createUser(database, { name: 'Bench', role: 'admin', ...login })
    if ('problem' in made) throw new Error(made.problem)
  } finally {
    await database.end()
  }
  const { access_token } = await post('auth/login', login)
  const { key } = await post('api-keys', { name: 'bench' }, access_token)
  return key
}
