import { connect, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createHttpServer } from '../src/http/listener.ts'
import { openWorld, until, type World } from './world.ts'

const shop = 'https://shop.example'
let world: World
let plain: World
beforeAll(async () => {
  ;[world, plain] = await Promise.all([
    openWorld({ limits: { CORS_ORIGINS: `${shop}, http://localhost:3000` }, worker: false }),
    openWorld({ worker: false }),
  ])
})
afterAll(() => Promise.all([world.close(), plain.close()]))

const preflight = (base: string, origin: string, path = '/api/v1/coupons/assign') =>
  fetch(`${base}${path}`, {
    method: 'OPTIONS',
    headers: {
      origin,
      'access-control-request-method': 'POST',
      'access-control-request-headers': 'authorization, content-type, idempotency-key',
    },
  })
const allowed = (response: Response) => response.headers.get('access-control-allow-origin')

describe('pages', () => {
  test('of a listed origin may call, and read what an answer says in headers', async () => {
    const asked = await preflight(world.base, shop)
    expect([asked.status, allowed(asked)]).toEqual([204, shop])
    expect(asked.headers.get('access-control-allow-methods')).toContain('POST')
    const sends = asked.headers.get('access-control-allow-headers')?.split(', ')
    const needed = ['Authorization', 'Content-Encoding', 'Idempotency-Key', 'Last-Event-ID']
    expect(sends).toEqual(expect.arrayContaining(needed))
    expect(asked.headers.has('access-control-allow-credentials')).toBe(false)
    for (const path of ['/api/v1/books', '/no-such-path', '/livez']) {
      const answer = await fetch(`${world.base}${path}`, { headers: { origin: shop } })
      expect(allowed(answer), path).toBe(shop)
      expect(answer.headers.get('vary'), path).toContain('Origin')
      const reads = answer.headers.get('access-control-expose-headers')?.split(', ')
      expect(reads).toEqual(expect.arrayContaining(['Content-Disposition', 'Retry-After']))
    }
  })

  test.each([
    'https://evil.example',
    'https://shop.example.evil.example',
    'http://shop.example',
    'https://shop.example:8443',
    'null',
  ])('of %s may not', async (origin) => {
    const asked = await preflight(world.base, origin)
    expect([asked.status, allowed(asked)]).toEqual([405, null])
    const answer = await fetch(`${world.base}/livez`, { headers: { origin } })
    expect([answer.status, allowed(answer)]).toEqual([200, null])
    expect(answer.headers.get('vary')).toContain('Origin')
  })

  test('of no origin at all may, where no list was given', async () => {
    const asked = await preflight(plain.base, shop)
    expect([asked.status, allowed(asked)]).toEqual([405, null])
    const answer = await fetch(`${plain.base}/livez`, { headers: { origin: shop } })
    expect([allowed(answer), answer.headers.get('vary')]).toEqual([null, null])
  })
})

describe('headers', () => {
  test.each([
    ['an answer', 'GET', '/livez'],
    ['a problem', 'GET', '/api/v1/books'],
    ['a path that is none', 'GET', '/none'],
    ['the document', 'GET', '/openapi.json'],
  ])('of %s keep browsers from reading JSON as anything else', async (_, method, path) => {
    const { headers } = await plain.call(method, path)
    expect(Object.fromEntries(headers)).toMatchObject({
      'content-security-policy': "default-src 'none'; frame-ancestors 'none'",
      'strict-transport-security': 'max-age=15552000',
      'x-content-type-options': 'nosniff',
    })
  })

  test.each(['/docs', '/docs/problems', '/queues'])(
    'of the page %s keep others from framing it',
    async (path) => {
      const { headers } = await plain.call('GET', path)
      expect(headers.get('content-security-policy')).toMatch(/default-src 'none'.*frame-ancestors/)
      expect(Object.fromEntries(headers)).toMatchObject({
        'cross-origin-opener-policy': 'same-origin',
        'cross-origin-resource-policy': 'same-origin',
        'referrer-policy': 'no-referrer',
        'strict-transport-security': 'max-age=15552000',
        'x-content-type-options': 'nosniff',
        'x-frame-options': 'DENY',
      })
    },
  )
})

describe('slow clients', () => {
  const port = () => Number(new URL(plain.base).port)
  /** What it was told, and after how many milliseconds it was cut. */
  function dawdle(first: string, more: string) {
    const since = performance.now()
    let told = ''
    const socket = connect(port(), '127.0.0.1', () => socket.write(first))
    const trickle = setInterval(() => socket.writable && socket.write(more), 500)
    socket.on('data', (some) => (told += some))
    socket.on('error', () => {})
    return new Promise<{ told: string; ms: number }>((resolve) =>
      socket.on('close', () => {
        clearInterval(trickle)
        resolve({ told: told.split('\r\n')[0]!, ms: performance.now() - since })
      }),
    )
  }

  test('50 of them are cut, whether they dawdle over headers or a body, and nobody else waits', async () => {
    const headers = Array.from({ length: 40 }, () =>
      dawdle('GET / HTTP/1.1\r\nHost: x\r\n', 'A: b\r\n'),
    )
    const body =
      'POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n' +
      'Content-Length: 5000\r\n\r\n{'
    const bodies = Array.from({ length: 10 }, () => dawdle(body, ' '))
    const times: number[] = []
    let over = false
    const honest = (async () => {
      while (!over) {
        const started = performance.now()
        expect((await fetch(`${plain.base}/livez`)).status).toBe(200)
        times.push(performance.now() - started)
        await sleep(20)
      }
    })()
    for (const { told, ms } of await Promise.all(headers)) {
      expect(told).toBe('HTTP/1.1 408 Request Timeout')
      expect(ms).toBeLessThan(8_000)
    }
    for (const { ms } of await Promise.all(bodies)) expect(ms).toBeLessThan(13_000)
    over = true
    await honest
    times.sort((a, b) => a - b)
    expect(times[Math.floor(times.length * 0.95)]).toBeLessThan(500)
  })

  test('one that asks and does not read is cut, and one that rests is not', async () => {
    const server = createHttpServer(plain.house.app, 10, 300).listen(0, '127.0.0.1')
    await until(() => server.listening, 'it listens')
    const { port: at } = server.address() as { port: number }
    const held = () =>
      new Promise<number>((resolve) => server.getConnections((_, count) => resolve(count)))
    const idle = connect(at, '127.0.0.1')
    const greedy = connect(at, '127.0.0.1')
    for (const socket of [idle, greedy]) socket.on('error', () => {}).pause()
    const ask = 'GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n'
    greedy.write(ask.repeat(20))
    await until(async () => (await held()) === 2, 'both are connected')
    await until(async () => (await held()) === 1, 'one is cut', 5_000)
    await sleep(700)
    expect(await held()).toBe(1)
    idle.destroy()
    greedy.destroy()
    server.close()
  })

  test('a process holds so many connections and closes the rest at once', async () => {
    const server = createHttpServer(plain.house.app, 3).listen(0, '127.0.0.1')
    await until(() => server.listening, 'it listens')
    const { port: at } = server.address() as { port: number }
    const sockets = Array.from({ length: 8 }, () => connect(at, '127.0.0.1'))
    const closed = new Set<Socket>()
    for (const socket of sockets) {
      socket.on('error', () => {})
      socket.on('close', () => closed.add(socket))
    }
    await until(() => closed.size === 5, 'five are closed')
    const [open] = sockets.filter((socket) => !closed.has(socket))
    open!.write('GET /livez HTTP/1.1\r\nHost: x\r\n\r\n')
    const answer = await new Promise<string>((resolve) =>
      open!.once('data', (d) => resolve(`${d}`)),
    )
    expect(answer).toMatch(/^HTTP\/1.1 200 /)
    for (const socket of sockets) socket.destroy()
    server.close()
  })
})
