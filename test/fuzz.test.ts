import { expect, inject, test } from 'vitest'
import { fuzzTown } from './fuzz/town.ts'

/** The short forms of `npm run fuzz`. */
const requests = inject('long') ? 20_000 : 2_000

test('every answer to requests made from the OpenAPI document is as it says, and none is 5xx', {
  timeout: 300_000,
}, async () => {
  const { asked, byStatus, wrong, rssMb } = await fuzzTown(requests, 1, () => {})
  expect(wrong).toEqual([])
  expect(asked).toBe(requests)
  // It got behind the door: a good part was done, and a good part refused for what it holds.
  expect(byStatus['200']).toBeGreaterThan(requests / 10)
  expect(byStatus['422']).toBeGreaterThan(requests / 10)
  expect(rssMb.late).toBeLessThan(rssMb.early * 2)
})
