import { once } from 'node:events'
import type { Server } from 'node:http'
import { type AddressInfo, connect } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createHttpServer } from '../src/http/listener.ts'
import type { HouseRouter } from '../src/http/router.ts'
import { type House, openHouse } from './house.ts'

let house: House
let server: Server
let port: number
let admin: string

beforeAll(async () => {
  house = await openHouse()
  admin = (await house.signUp('admin')).token
  server = createHttpServer(house.app)
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  port = (server.address() as AddressInfo).port
})
afterAll(async () => {
  server.closeAllConnections()
  server.close()
  await house.close()
})

const call: House['call'] = (...args) => house.call(...args)
const login = '/api/v1/auth/login'
const keys = '/api/v1/api-keys'
const code = (reply: { status: number; body: { code?: string } }) =>
  `${reply.status} ${reply.body.code}`

/** Sends bytes as they are and gives back what came, for what no HTTP client would send. */
async function bytes(
  text: string | Buffer,
): Promise<{ status: number; head: string; body: string }> {
  const socket = connect(port, '127.0.0.1')
  let answer = ''
  socket.setEncoding('utf8')
  socket.on('data', (chunk) => {
    answer += chunk
  })
  socket.on('error', () => {})
  socket.write(text)
  socket.setTimeout(3_000, () => socket.destroy())
  await once(socket, 'close')
  const [head = '', body = ''] = answer.split('\r\n\r\n')
  return { status: Number(head.split(' ')[1]), head, body }
}
const request = (line: string, headers: string[] = [], body = '') =>
  bytes([line, 'Host: x', 'Connection: close', ...headers, '', body].join('\r\n'))
const post = (headers: string[], body: string) =>
  request(
    `POST ${login} HTTP/1.1`,
    ['Content-Type: application/json', `Content-Length: ${Buffer.byteLength(body)}`, ...headers],
    body,
  )

test('http  answers an unknown path with a whole problem document', async () => {
  const { status, headers, body } = await call('GET', '/nowhere', {
    headers: { 'x-request-id': 'mine' },
  })
  expect(status).toBe(404)
  expect(headers.get('content-type')).toBe('application/problem+json')
  expect(headers.get('x-content-type-options')).toBe('nosniff')
  expect(headers.get('x-request-id')).toBe('mine')
  expect(body).toEqual({
    type: '/docs/problems#route-not-found',
    title: 'No such route',
    status: 404,
    detail: expect.any(String),
    instance: '/nowhere',
    code: 'route-not-found',
    request_id: 'mine',
  })
})

test('http  names the methods of a path that was asked with another', async () => {
  for (const method of ['POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS']) {
    const reply = await call(method, '/livez')
    expect(code(reply)).toBe('405 method-not-allowed')
    expect(reply.headers.get('allow')).toBe('GET, HEAD')
  }
  const reply = await call('PUT', keys)
  expect(reply.headers.get('allow')).toBe('GET, HEAD, POST')
  expect(reply.body.detail).toContain('GET, HEAD, POST')
})

test('http  answers HEAD as GET without a body', async () => {
  const { status, text, headers } = await call('HEAD', '/version')
  expect([status, text]).toEqual([200, ''])
  expect(headers.get('content-type')).toBe('application/json')
})

test('http  accepts a trailing slash without a redirect', async () => {
  expect((await call('GET', `${keys}/`, { token: admin })).status).toBe(200)
  expect((await call('POST', `${keys}/`, { token: admin, body: { name: 'slash' } })).status).toBe(
    201,
  )
})

test.each(['mine', 'A'.repeat(64), '!~'])('http  keeps the request id %j', async (id) => {
  const { headers } = await call('GET', '/livez', { headers: { 'x-request-id': id } })
  expect(headers.get('x-request-id')).toBe(id)
})

test.each([['A'.repeat(65)], ['two words'], [''], ['é']])(
  'http  replaces the request id %j by one of its own',
  async (id) => {
    const ids = new Set<string | null>()
    for (let i = 0; i < 3; i++) {
      const { headers } = await call('GET', '/livez', { headers: { 'x-request-id': id } })
      expect(headers.get('x-request-id')).toMatch(/^[\w-]{8,40}$/)
      ids.add(headers.get('x-request-id'))
    }
    expect(ids.size).toBe(3)
  },
)

test.each([
  ['nothing', '', '400 malformed-json'],
  ['half an object', '{"email":', '400 malformed-json'],
  ['two values', '{} {}', '400 malformed-json'],
  ['a bare word', 'email', '400 malformed-json'],
  ['NaN', '{"email":NaN}', '400 malformed-json'],
  ['a trailing comma', '{"email":"a",}', '400 malformed-json'],
  ['null', 'null', '422 invalid-request'],
  ['a list', '[]', '422 invalid-request'],
  ['a string', '"x"', '422 invalid-request'],
  ['a number', '1e999', '422 invalid-request'],
  ['lists in lists, 8,000 deep', '['.repeat(8_000) + ']'.repeat(8_000), '422 invalid-request'],
  ['objects in objects', `${'{"a":'.repeat(2_500)}1${'}'.repeat(2_500)}`, '422 invalid-request'],
  ['8,000 open brackets', '['.repeat(8_000), '400 malformed-json'],
  ['__proto__', '{"__proto__":{"email":"a@example.com"}}', '422 invalid-request'],
  [
    'a thousand unknown fields',
    JSON.stringify(Object.fromEntries(Array.from({ length: 1_000 }, (_, i) => [`f${i}`, 1]))),
    '422 invalid-request',
  ],
])('http  refuses a body that is %s', async (_, raw, expected) => {
  const reply = await call('POST', login, { raw, headers: { 'content-type': 'application/json' } })
  expect(code(reply)).toBe(expected)
  expect(reply.body.errors?.length ?? 0).toBeLessThanOrEqual(20)
})

test('http  refuses bytes that are not UTF-8 and accepts a byte order mark', async () => {
  const send = (raw: Buffer) =>
    call('POST', login, {
      raw: new Uint8Array(raw),
      headers: { 'content-type': 'application/json' },
    })
  expect(code(await send(Buffer.from('{"email":"\xff\xfe"}', 'latin1')))).toBe('400 malformed-json')
  const marked = Buffer.from('\ufeff{"email":"nobody@example.com","password":"x"}')
  expect(code(await send(marked))).toBe('401 invalid-credentials')
})

test.each([
  ['text/plain', 415],
  ['application/x-www-form-urlencoded', 415],
  ['multipart/form-data; boundary=x', 415],
  ['application/jsonx', 415],
  ['application/json', 401],
  ['application/json; charset=utf-8', 401],
  ['APPLICATION/JSON', 401],
  ['application/merge-patch+json', 401],
])('http  answers a body of type %s with %i', async (type, status) => {
  const raw = '{"email":"nobody@example.com","password":"x"}'
  expect((await call('POST', login, { raw, headers: { 'content-type': type } })).status).toBe(
    status,
  )
})

test('http  refuses a body without a Content-Type', async () => {
  const raw = '{"email":"nobody@example.com","password":"x"}'
  const { status, body } = await request(
    `POST ${login} HTTP/1.1`,
    [`Content-Length: ${raw.length}`],
    raw,
  )
  expect([status, JSON.parse(body).code]).toEqual([415, 'unsupported-media-type'])
})

test('http  refuses a body over 16 KB before it has read it, or as soon as it is over', async () => {
  const announced = await request(`POST ${login} HTTP/1.1`, [
    'Content-Type: application/json',
    'Content-Length: 16385',
  ])
  expect([announced.status, JSON.parse(announced.body).limit]).toEqual([413, 16_384])

  const chunk = `1000\r\n${' '.repeat(4_096)}\r\n`
  const chunked = (chunks: number) =>
    request(
      `POST ${login} HTTP/1.1`,
      ['Content-Type: application/json', 'Transfer-Encoding: chunked'],
      `${chunk.repeat(chunks)}2\r\n{}\r\n0\r\n\r\n`,
    )
  expect((await chunked(3)).status).toBe(422)
  expect((await chunked(4)).status).toBe(413)
  expect((await chunked(400)).status).toBe(413)
})

test('http  takes a body of exactly 16 KB', async () => {
  const text = '{"email":"nobody@example.com","password":"x"}'
  const { status } = await post([], text.padEnd(16_384))
  expect(status).toBe(401)
})

test.each([
  ['both lengths', ['Transfer-Encoding: chunked', 'Content-Length: 2']],
  ['a length that is none', ['Content-Length: two']],
  ['a negative length', ['Content-Length: -1']],
  ['two lengths', ['Content-Length: 2', 'Content-Length: 3']],
])('http  refuses a request with %s', async (_, headers) => {
  const { status } = await request(`POST ${login} HTTP/1.1`, headers, '{}')
  expect(status).toBe(400)
})

test.each([
  ['GET /api/v1/api-keys/%zz', 405],
  ['DELETE /api/v1/api-keys/%zz', 422],
  ['DELETE /api/v1/api-keys/%ff%fe', 422],
  ['DELETE /api/v1/api-keys/%', 422],
  ['DELETE /api/v1/api-keys/%00', 422],
  ['GET /api/v1/api-keys?limit=%zz', 422],
  ['GET /api/v1/api-keys?limit=0', 422],
  ['GET /api/v1/api-keys?limit=1001', 422],
  ['GET /api/v1/api-keys?limit=1e2', 422],
  ['GET /api/v1/api-keys?limit=', 422],
  ['GET /api/v1/api-keys?limit=10&limt=3', 422],
  ['GET /api/v1/api-keys?starting_after=%00', 422],
  ['GET /api/v1/users/search/by-email?email=%00', 422],
  ['GET /api/v1/users/search/by-email', 422],
  ['GET /api/v1/api-keys/../api-keys', 200],
  ['GET //api/v1/api-keys', 404],
  ['GET /%2e%2e/%2e%2e/etc/passwd', 404],
  ['GET /docs/../../package.json', 404],
  ['GET /docs/%2e%2e%2fpackage.json', 404],
  ['GET /api/v1/api-keys\\x', 422],
  ['GET http://example.com/livez', 200],
  ['GET *', 422],
  [`GET /${'a'.repeat(8_000)}`, 404],
  [`GET /${'a'.repeat(20_000)}`, 431],
  ['BREW /coffee', 400],
  ['TRACE /livez', 405],
])('http  answers %s with %i', async (line, status) => {
  const reply = await request(`${line} HTTP/1.1`, [`Authorization: Bearer ${admin}`])
  expect(reply.status).toBe(status)
  if (status === 422) expect(JSON.parse(reply.body).errors.length).toBeGreaterThan(0)
})

test('http  answers a Host that is none with a problem', async () => {
  const reply = await bytes('GET /livez HTTP/1.1\r\nHost: a b\r\nConnection: close\r\n\r\n')
  expect([reply.status, JSON.parse(reply.body).code]).toEqual([422, 'invalid-request'])
})

test('http  answers 401 before it reads, so that strangers learn nothing of a route', async () => {
  const reply = await call('POST', keys, { raw: 'x'.repeat(100_000) })
  expect(code(reply)).toBe('401 unauthenticated')
  expect(reply.headers.get('www-authenticate')).toBe('Bearer')
})

test('http  names each wrong field by its path, and nothing of its content', async () => {
  const { body, text } = await call('POST', login, { body: { email: 5, passwrd: 'hunter2' } })
  const paths = body.errors.map(({ path }: { path: string }) => path)
  expect(paths.sort()).toEqual(['email', 'password', 'passwrd'])
  expect(text).not.toContain('hunter2')
})

test('http  serves the documentation from this machine alone', async () => {
  const page = await call('GET', '/docs')
  expect(page.headers.get('content-security-policy')).toContain("default-src 'none'")
  const links = [...page.text.matchAll(/(?:src|href)="([^"]+)"/g)].map(([, link]) => link!)
  expect(links.length).toBeGreaterThan(3)
  for (const link of links) {
    expect(link).toMatch(/^\/[^/]/)
    const { status, text } = await call('GET', link)
    expect([link, status]).toEqual([link, 200])
    expect(text.length).toBeGreaterThan(50)
  }
})

test('http  explains every problem where its type points to', async () => {
  const { text } = await call('GET', '/docs/problems')
  const { body } = await call('GET', '/nowhere')
  expect(text).toContain(`id="${body.type.split('#')[1]}"`)
})

test('http  tells health without a token', async () => {
  expect((await call('GET', '/livez')).body).toEqual({ alive: true })
  expect((await call('GET', '/readyz')).body.ready).toBe(true)
  expect((await call('GET', '/version')).body.name).toBe('stampede')
  house.deps.readiness = async () => ({
    ready: false,
    redis: false,
    postgres: true,
    reason: 'Redis is away',
    shards: [],
  })
  const { status, headers } = await call('GET', '/readyz')
  expect([status, headers.get('retry-after')]).toEqual([503, '1'])
})

test('http  finds every route by the fast router, not by its fallback', () => {
  const router = house.app.router as HouseRouter<unknown>
  for (const method of ['GET', 'POST', 'PATCH', 'DELETE']) router.match(method, '/')
  expect(new Set(router.inUse)).toEqual(new Set(['SmartRouter + RegExpRouter']))
})

test('http  logs routes instead of paths, for paths hold codes', async () => {
  const { log, ...other } = await quietHouse()
  const { token } = await other.signUp('admin')
  await other.call('DELETE', `${keys}/0123456789abcdef`, { token })
  await other.close()
  expect(log.join('')).toContain('DELETE /api-keys/{key_id}')
  expect(log.join('')).not.toContain('0123456789abcdef')
})

test('http  logs a sample of what goes well', async () => {
  const { log, ...other } = await quietHouse()
  for (let i = 0; i < 200; i++) await other.call('GET', '/livez')
  await other.close()
  expect(log.length).toBeGreaterThan(0)
  expect(log.length).toBeLessThan(100)
})

test('http  shrugs at a client that leaves in the middle of its body', async () => {
  const { log, ...other } = await quietHouse()
  const own = createHttpServer(other.app)
  own.listen(0, '127.0.0.1')
  await once(own, 'listening')
  const socket = connect((own.address() as AddressInfo).port, '127.0.0.1')
  const head = `POST ${login} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n`
  socket.write(`${head}Content-Length: 100\r\n\r\n{"email":`)
  await sleep(100)
  socket.destroy()
  await sleep(100)
  expect((await other.call('GET', '/livez')).status).toBe(200)
  own.close()
  await other.close()
  expect(log.join('')).not.toContain('request failed')
  expect(log.join('')).toContain('"status":400')
})

test('http  takes no middleware, which would stand before every request', () => {
  expect(() => house.app.use(async (_, next) => next())).toThrow('no middleware')
})

/** A house of its own, once the second is over whose sample the tests before have used up. */
async function quietHouse() {
  await sleep(1_050)
  const log: string[] = []
  return { log, ...(await openHouse({ log })) }
}

test('http  answers 503 while PostgreSQL is away, and leaks nothing', async () => {
  house.wire.set('cut')
  const reply = await call('POST', login, { body: { email: 'nobody@example.com', password: 'x' } })
  house.wire.set('up')
  expect(code(reply)).toBe('503 not-ready')
  expect(reply.headers.get('retry-after')).toBe('1')
  expect(reply.text).not.toContain('select')
})
