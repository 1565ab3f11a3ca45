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
      const nth = ++came
      // Twice several are under way at once; in between, with nobody due for a while, whoever is idle goes.
      if (nth <= 4 || (nth > 10 && nth <= 14)) await sleep(500)
      if (nth === 10) server.closeIdleConnections()
      response.end('{"coupons":[{"code":"c"}]}')
    })
  })
  await once(server.listen(0, '127.0.0.1'), 'listening')
  const assignUrl = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`
  const plan = { books: Array(16).fill('b'), perSecond: 10, userOf: String }
  const { acknowledged, refused } = await pace({ assignUrl, headers: {} }, plan)
  expect([acknowledged.get('b')?.length, refused]).toEqual([16, {}])
  server.close()
})
