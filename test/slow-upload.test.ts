import { once } from 'node:events'
import { type AddressInfo, connect } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { OpenAPIHono } from '@hono/zod-openapi'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Env } from '../src/http/context.ts'
import { createHttpServer, takeTime } from '../src/http/listener.ts'
import { pace } from '../src/http/upload.ts'
import { signOfLife } from '../src/recovery/imports.ts'
import { openFiles } from './files.ts'
import { openWorld, until, type World } from './world.ts'

let world: World
let files: ReturnType<typeof openFiles>
const usual = { ...pace }
const usualSign = signOfLife.ms
beforeAll(async () => {
  world = await openWorld()
  files = openFiles(world)
  Object.assign(pace, { ms: 400, bytes: 100 })
  signOfLife.ms = 100
})
afterAll(async () => {
  Object.assign(pace, usual)
  signOfLife.ms = usualSign
  await world?.close()
})

/** A file of which a line comes every `ms`, `lines` times, and then nothing more. */
const trickle = (ms: number, lines: number) =>
  new ReadableStream({
    async pull(controller) {
      if (lines-- <= 0) return sleep(20_000, undefined, { ref: false })
      await sleep(ms)
      controller.enqueue(new TextEncoder().encode('code\n'))
    },
  })

test.each([
  ['stops', 1, 1],
  ['trickles', 40, 100],
])('an upload that %s is cut, and leaves nothing', async (_, ms, lines) => {
  const book = await world.makeBook()
  const began = performance.now()
  const sent = await files.send(book, trickle(ms, lines), 'on_error=keep')
  expect([sent.status, sent.body.code]).toEqual([408, 'upload-too-slow'])
  expect(performance.now() - began).toBeLessThan(2_000)
  const { rows } = await world.database.query('SELECT state FROM imports WHERE book_id = $1', [
    book,
  ])
  expect(rows).toEqual([{ state: 'dropped' }])
})

/** An upload at the pace that is permitted, until `end`. */
function slowly(book: string) {
  let over = false
  let line = 0
  const body = new ReadableStream({
    async pull(controller) {
      await sleep(20)
      if (over) return controller.close()
      const text = line++ === 0 ? 'code\n' : `SLOW-${line}-${'X'.repeat(30)}\n`
      controller.enqueue(new TextEncoder().encode(text))
    },
  })
  return {
    sent: files.send(book, body),
    end: () => {
      over = true
    },
  }
}

test('an upload that takes longer than a silence may last is not taken for silent', async () => {
  const book = await world.makeBook()
  const { sent, end } = slowly(book)
  const look = async () =>
    (
      await world.database.query(
        `SELECT state, seen_at > now() - interval '5 s' AS fresh FROM imports WHERE book_id = $1`,
        [book],
      )
    ).rows[0]
  await until(async () => (await look()) !== undefined, 'it has begun')
  // A second more, and the sweep would drop it.
  await world.database.query(
    "UPDATE imports SET seen_at = now() - interval '55 s' WHERE book_id = $1",
    [book],
  )
  await until(async () => (await look()).fresh, 'it was heard of', 3_000)
  end()
  const { status, body } = await sent
  expect([status, body.kind]).toEqual([202, 'import'])
  expect((await files.over(body.job_id)).state).toBe('done')
})

test('an upload that was given up all the same is a problem and no mistake of ours', async () => {
  const book = await world.makeBook()
  const { sent, end } = slowly(book)
  await until(async () => (await files.leftovers(book)) > 0, 'it has begun')
  await world.database.query("UPDATE imports SET state = 'dropped' WHERE book_id = $1", [book])
  const { status, body } = await sent
  end()
  expect([status, body.code, body.seconds]).toEqual([408, 'upload-dropped', 60])
})

test('a third upload at once is refused, and there is room again after one of them', async () => {
  const book = await world.makeBook()
  const two = [1, 2].map(() => files.send(book, trickle(1, 1)))
  await sleep(100)
  const third = await files.send(book, 'code\nROOM-1\n')
  expect([third.status, third.body.code]).toEqual([503, 'transfers-busy'])
  await Promise.all(two)
  expect((await files.take(book, 'code\nROOM-1\n')).state).toBe('done')
})

test('a request that may take its time outlives requestTimeout, and no other does', async () => {
  const app = new OpenAPIHono<Env>()
  app.post('/:who', async (c) => {
    const done = c.req.param('who') === 'file' ? takeTime(c) : () => {}
    const text = await c.req.text().catch(() => '')
    done()
    return c.text(text)
  })
  const server = createHttpServer(app)
  Object.assign(server, {
    ...{ headersTimeout: 200, requestTimeout: 300, connectionsCheckingInterval: 50 },
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  async function slowly(path: string): Promise<string> {
    const socket = connect(port, '127.0.0.1')
    let answer = ''
    socket.on('data', (some) => (answer += some))
    socket.write(`POST ${path} HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nab`)
    await sleep(700)
    if (!answer) socket.write('cd')
    await sleep(100)
    socket.destroy()
    return answer
  }
  const [file, other] = await Promise.all([slowly('/file'), slowly('/other')])
  expect(file).toMatch(/^HTTP\/1.1 200 [\s\S]*abcd$/)
  expect(other).toBe('HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n')
  server.close()
  server.closeAllConnections()
})
