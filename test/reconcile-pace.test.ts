import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { openPace } from '../src/ops/reconcile/pace.ts'

/** How long it takes, in ms. */
async function taken(what: () => Promise<void>): Promise<number> {
  const begun = performance.now()
  await what()
  return performance.now() - begun
}

test('steps that are quicker than they may be take as long as they may', async () => {
  const breathe = openPace()
  const ms = await taken(async () => {
    for (let step = 0; step < 10; step++) await breathe(20)
  })
  expect(ms).toBeGreaterThan(190)
  expect(ms).toBeLessThan(400)
})

test('whoever is late rests a quarter as long as a step took, and catches up with half a second at most', async () => {
  const breathe = openPace()
  await sleep(1_000)
  expect(await taken(() => breathe(0))).toBeGreaterThan(200)
  // Half a second late: 20 steps of 20 ms are made up for, not 50 of them.
  const ms = await taken(async () => {
    for (let step = 0; step < 50; step++) await breathe(20)
  })
  expect(ms).toBeGreaterThan(150)
  expect(ms).toBeLessThan(800)
})

test('no pause is longer than half a second', async () => {
  expect(await taken(() => openPace()(60_000))).toBeLessThan(700)
})
