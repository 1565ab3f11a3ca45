import { step } from '../src/embedded/steps.ts'
import { type Client, openClient } from './client.ts'
import { type Installation, openInstallation, type Running, stopAll } from './installation.ts'
import type { Options } from './options.ts'
import { openStores, type Stores } from './stores.ts'

/** What a scenario has: an installation of its own, a client of it, and a look at its stores. */
export type Bench = {
  options: Options
  client: Client
  stores: Stores
  pids: Installation['pids']
  urls: { redis: string; postgres: string }
  restartRedis: Installation['restartRedis']
  killWorker: Installation['killWorker']
  killApi: Installation['killApi']
  versions: { redis: string; postgres: string }
  say(line: string): void
}

/** Somebody pressed Ctrl-C. */
export class Interrupted extends Error {}

async function onInstallation<T>(
  options: Options,
  running: Running[],
  scenario: (bench: Bench) => Promise<T>,
): Promise<T> {
  const installation = await openInstallation(running)
  const stores = openStores(installation)
  running.push({ name: 'stores', stop: stores.close })
  const client = await openClient(installation)
  const versions = await stores.versions()
  const say = (line: string) => console.log(`  ${line}`)
  const { pids, redis, postgres, restartRedis, killWorker, killApi } = installation
  const urls = { redis, postgres }
  const means = { restartRedis, killWorker, killApi }
  return scenario({ options, client, stores, pids, urls, ...means, versions, say })
}

/** Runs a scenario on a fresh installation, and takes that down whatever happens. */
export async function withBench<T>(
  options: Options,
  scenario: (bench: Bench) => Promise<T>,
): Promise<T> {
  const running: Running[] = []
  // Our servers do not hear a Ctrl-C: they are stopped one after the other, as at any other end.
  const { promise: interrupted, reject } = Promise.withResolvers<never>()
  const onSignal = () => reject(new Interrupted('interrupted'))
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, onSignal)
  try {
    return await Promise.race([interrupted, onInstallation(options, running, scenario)])
  } catch (error) {
    if (!(error instanceof Interrupted))
      for (const { name, log } of running) if (log) console.error(`${name} said last:\n${log()}`)
    throw error
  } finally {
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.off(signal, onSignal)
    await step(
      'stop',
      () => stopAll(running),
      () => 'everything',
    )
  }
}
