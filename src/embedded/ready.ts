import { setTimeout as sleep } from 'node:timers/promises'
import { type Kept, tail } from './keep.ts'
import { CannotStart, say } from './steps.ts'

const patienceMs = 60_000
const tellEveryMs = 5_000
/** It is restarted for ever once it has served; before that it will not get better by itself. */
const deathsMax = 3

/** What /readyz says, in a few words, or why it cannot be asked. */
async function ask(http: string): Promise<{ ready: boolean; text: string }> {
  try {
    const response = await fetch(`${http}/readyz`, { signal: AbortSignal.timeout(2_000) })
    const body = (await response.text()).replaceAll(/\s+/g, ' ').slice(0, 300)
    return { ready: response.ok, text: `/readyz ${response.status} ${body}` }
  } catch (error) {
    const { cause, message } = error as Error & { cause?: Error }
    return { ready: false, text: cause?.message || message }
  }
}

/** Returns when the API serves; says every few seconds what it waits for. */
export async function waitUntilReady(
  http: string,
  api: Kept,
  logs: string,
  isStopping: () => boolean,
): Promise<void> {
  const start = performance.now()
  for (let told = 0; !isStopping(); ) {
    const { ready, text } = await ask(http)
    if (ready) return
    const waited = performance.now() - start
    const hopeless = api.deaths() >= deathsMax
    if (hopeless || waited > patienceMs) {
      const why = hopeless ? `died ${api.deaths()} times` : `is not ready after 60 s: ${text}`
      throw new CannotStart(`the API ${why}\n${tail(logs, 'api')}\n(logs in ${logs})`)
    }
    if (waited - told > tellEveryMs) {
      told = waited
      say(`           waiting for the API, ${Math.round(waited / 1000)} s: ${text}`)
    }
    await sleep(50)
  }
  throw new CannotStart('stopped while starting')
}
