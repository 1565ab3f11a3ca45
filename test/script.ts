import { keys } from '../src/store/keys.ts'
import { scriptSha } from '../src/store/lua.ts'
import type { BookPlace } from '../src/store/store.ts'
import { verbs } from '../src/store/verbs.ts'
import type { World } from './world.ts'

export type VerbName = keyof typeof verbs
/** The arguments of a call before its requests; what is left out is as the service would send it. */
export type Call = { epoch?: string; seen?: string; op?: string; backlog?: string; book?: string }

/** One script call past the store: whatever a broken or hostile caller might send. */
export function callScript(
  { redis }: World,
  { shard, book }: BookPlace,
  name: VerbName,
  requests: readonly Record<string, string>[],
  { epoch = '1', seen = '0', op = crypto.randomUUID(), backlog = '500000', ...call }: Call = {},
): Promise<string> {
  const { script, args, guards } = verbs[name]
  const day = Math.floor(Date.now() / 86_400_000)
  const keyList = [
    ...[keys.meta(shard), keys.journal(shard), keys.op(shard, op), keys.book(shard, book)],
    ...[keys.coupons(shard), keys.stock(shard, book), keys.users(shard, book)],
    ...[keys.redemptions(shard), keys.uses(shard, book)],
    ...[1, 0, -1].map((ahead) => keys.answers(shard, day + ahead)),
  ]
  const argList = [epoch, seen, op, call.book ?? book, backlog]
  for (const request of requests) {
    for (const arg of args) argList.push(request[arg] ?? '')
    if (guards) keyList.push(keys.lock(shard, request[guards] ?? ''))
  }
  const parts = [scriptSha(script), keyList.length, ...keyList, ...argList]
  return redis.call('EVALSHA', parts) as Promise<string>
}

/** All that a shard holds, as one text, except the answers of script calls. */
export async function digest({ redis }: World, shard: number): Promise<string> {
  const names = await redis.keys(keys.all(shard))
  const kept = names.filter((name) => !name.includes(':op:')).sort()
  const dumps = await Promise.all(
    kept.map(async (name) => {
      const type = await redis.type(name)
      if (type === 'hash')
        return Object.entries(await redis.hgetall(name))
          .sort()
          .join('\n')
      if (type === 'set') return (await redis.smembers(name)).sort().join('\n')
      if (type === 'stream') return JSON.stringify(await redis.xrange(name, '-', '+'))
      return `${await redis.get(name)} until ${await redis.pexpiretime(name)}`
    }),
  )
  return kept.map((name, k) => `${name}\n${dumps[k]}`).join('\n\n')
}
