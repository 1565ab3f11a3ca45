import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { pace } from '../bench/pace.ts'

test('a connection that the service closed while it was idle is not used again', async () => {
  let came = 0
  const server = createServer((request, response) => {
    request.resume().on('end', async () => {
      came++
      // Twice many are under way at once; in between whoever is not closes.
      if (came < 15 || (came > 35 && came < 50)) await sleep(400)
      if (came === 30) server.closeIdleConnections()
      response.end('{"coupons":[{"code":"c"}]}')
    })
  })
  await once(server.listen(0, '127.0.0.1'), 'listening')
  const assignUrl = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`
  const plan = { books: Array(60).fill('b'), perSecond: 50, userOf: String }
  const { acknowledged, refused } = await pace({ assignUrl, headers: {} }, plan)
  expect([acknowledged.get('b')?.length, refused]).toEqual([60, {}])
  server.close()
})
